// Quantisation on the host: what quant_out and scale_out must hold, bit for bit, for given rows. Written from the
// definition of the formats (docs/kernels.md), not from the kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "arbiter/vocabulary.hpp"

namespace arbiter::tuning {

using Bytes = std::vector<unsigned char>;

/// How rows become fewer bits. The scales of a row are one per group of `group` elements (fp8_token: the whole row).
struct Quantisation {
  enum class Kind : std::uint8_t { fp8_static, fp8_token, fp8_group_ue8m0, fp8_group_fp32, nvfp4 };
  enum class Layout : std::uint8_t {
    none,           ///< fp8_static writes no scales
    row_major,      ///< [tokens, groups] fp32 (bytes for nvfp4)
    packed_column,  ///< int32 [groups / 4, tokens rounded up to 4], four groups a word, the lowest byte first
    swizzled_128x4,
    swizzled_8x4,
  };
  Kind kind{};
  Layout layout{};
  int group = 0;  ///< elements; hidden for fp8_token and fp8_static

  std::size_t scale_bytes() const noexcept {  ///< of one scale; 0 if none are written
    if (kind == Kind::fp8_static) return 0;
    return kind == Kind::fp8_token || kind == Kind::fp8_group_fp32 ? 4 : 1;
  }
  bool operator==(const Quantisation&) const = default;
};

/// The part of a pattern's name behind the norm ("fp8_group64_ue8m0"); empty if it names no quantisation known here.
std::optional<Quantisation> parse_quantisation(std::string_view name, int hidden);

/// Rows of a tile, quantised. Scales are in row-major order whatever the layout.
struct QuantisedRows {
  Bytes values;  ///< [rows, hidden] e4m3, or [rows, hidden / 2] with the even element in the low nibble
  Bytes scales;  ///< [rows, groups] of scale_bytes() each
};

/// `rows` rows of `hidden` elements in `dtype`. `scale_in` is what the kernel reads from device memory.
QuantisedRows quantise(const Bytes& rows, Dtype, int hidden, const Quantisation&, float scale_in);

/// Bytes of quant_out and of scale_out for `tokens` rows, pads included.
std::size_t quantised_bytes(const Quantisation&, int hidden, std::int64_t tokens);
std::size_t scale_array_bytes(const Quantisation&, int hidden, std::int64_t tokens);

/// Where the scale of a row and group lies, in bytes from the start of scale_out.
std::size_t scale_offset(const Quantisation&, int hidden, std::int64_t tokens, std::int64_t row, int group);

/// Writes the scales of `rows`, which are those from `first` on, to their places in scale_out for `tokens` rows.
void place_scales(const QuantisedRows& rows, const Quantisation&, int hidden, std::int64_t tokens, std::int64_t first,
                  Bytes& array);
/// Writes 0 wherever scale_out holds no scale.
void clear_pads(const Quantisation&, int hidden, std::int64_t tokens, Bytes& array);

/// The whole of scale_out for `tokens` rows that repeat the tile, with zeros where nothing belongs.
Bytes arrange_scales(const QuantisedRows& tile, const Quantisation&, int hidden, std::int64_t tokens);

}  // namespace arbiter::tuning
