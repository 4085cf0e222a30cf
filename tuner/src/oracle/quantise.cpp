#include "oracle/quantise.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "oracle/quantised_formats.hpp"

namespace arbiter::tuning {
namespace {

using Kind = Quantisation::Kind;
using Layout = Quantisation::Layout;

// Every step below is one fp32 operation with its own rounding, in this order (the file is compiled without
// contraction to fused multiply-adds).
constexpr float smallest_token_scale = 0x1p-9F / 448.0F;
constexpr float smallest_group_scale = 1e-10F;
constexpr float sixth = 1.0F / 6.0F;

std::size_t rounded_up(std::size_t value, std::size_t unit) noexcept { return (value + unit - 1) / unit * unit; }

int groups_of(const Quantisation& how, int hidden) noexcept { return how.group == 0 ? 0 : hidden / how.group; }

/// As integers, so that a NaN is larger than anything.
float absolute_maximum(const float* values, int count) noexcept {
  std::uint32_t largest = 0;
  for (int i = 0; i < count; ++i) largest = std::max(largest, formats::bits_of(values[i]) & 0x7fffffffU);
  return formats::float_of(largest);
}

float raised_to(float floor, float value) noexcept { return value < floor ? floor : value; }  // NaN stays

/// The scale of one group as it is stored, and what its elements are multiplied by.
struct Scale {
  std::uint32_t stored = 0;
  float inverse = 0;
};

Scale scale_of(const Quantisation& how, float largest, float scale_in) noexcept {
  switch (how.kind) {
    case Kind::fp8_static:
      return {0, 1.0F / scale_in};
    case Kind::fp8_token:
    case Kind::fp8_group_fp32: {
      const float floor = how.kind == Kind::fp8_token ? smallest_token_scale : smallest_group_scale;
      const float scale = raised_to(floor, largest / 448.0F);
      return {formats::bits_of(scale), 1.0F / scale};
    }
    case Kind::fp8_group_ue8m0: {
      const std::uint8_t exponent = formats::to_ue8m0(raised_to(smallest_group_scale, largest / 448.0F));
      return {exponent, formats::inverse_of_ue8m0(exponent)};
    }
    case Kind::nvfp4: {
      const float share = largest * sixth;
      const std::uint8_t stored = formats::to_e4m3(scale_in * share);
      const float scale = formats::from_e4m3(stored);
      return {stored, scale == 0.0F ? 0.0F : scale_in / scale};
    }
  }
  return {};
}

void store_value(Bytes& values, const Quantisation& how, std::size_t index, float scaled) noexcept {
  if (how.kind != Kind::nvfp4) {
    values[index] = formats::to_e4m3(scaled);
    return;
  }
  unsigned char& pair = values[index / 2];
  const std::uint8_t code = formats::to_e2m1(scaled);
  pair = static_cast<unsigned char>(index % 2 == 0 ? (pair & 0xf0) | code : (pair & 0x0f) | (code << 4));
}

}  // namespace

std::optional<Quantisation> parse_quantisation(std::string_view name, int hidden) {
  if (name == "fp8_static") return Quantisation{Kind::fp8_static, Layout::none, hidden};
  if (name == "fp8_token") return Quantisation{Kind::fp8_token, Layout::row_major, hidden};
  if (name == "nvfp4_linear") return Quantisation{Kind::nvfp4, Layout::row_major, 16};
  if (name == "nvfp4_128x4") return Quantisation{Kind::nvfp4, Layout::swizzled_128x4, 16};
  if (name == "nvfp4_8x4") return Quantisation{Kind::nvfp4, Layout::swizzled_8x4, 16};
  constexpr std::string_view prefix = "fp8_group";
  if (!name.starts_with(prefix)) return std::nullopt;
  int group = 0;
  const char* const end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(name.data() + prefix.size(), end, group);
  if (error != std::errc() || group <= 0) return std::nullopt;
  const std::string_view scales(rest, static_cast<std::size_t>(end - rest));
  if (scales == "_ue8m0") return Quantisation{Kind::fp8_group_ue8m0, Layout::packed_column, group};
  if (scales == "_fp32") return Quantisation{Kind::fp8_group_fp32, Layout::row_major, group};
  return std::nullopt;
}

QuantisedRows quantise(const Bytes& rows, Dtype dtype, int hidden, const Quantisation& how, float scale_in) {
  const std::size_t elements = rows.size() / element_bytes(dtype);
  const auto size = static_cast<std::size_t>(how.group);
  QuantisedRows result;
  result.values.resize(how.kind == Kind::nvfp4 ? elements / 2 : elements);
  result.scales.resize(elements / static_cast<std::size_t>(hidden) * static_cast<std::size_t>(groups_of(how, hidden)) *
                       how.scale_bytes());
  std::vector<float> group(size);
  for (std::size_t begin = 0; begin < elements; begin += size) {
    for (std::size_t i = 0; i < size; ++i) group[i] = formats::read(rows.data(), begin + i, dtype);
    const Scale scale = scale_of(how, absolute_maximum(group.data(), how.group), scale_in);
    for (std::size_t i = 0; i < size; ++i) store_value(result.values, how, begin + i, group[i] * scale.inverse);
    // Little-endian, as the host and every GPU are.
    std::memcpy(result.scales.data() + begin / size * how.scale_bytes(), &scale.stored, how.scale_bytes());
  }
  return result;
}

std::size_t quantised_bytes(const Quantisation& how, int hidden, std::int64_t tokens) {
  const std::size_t elements = static_cast<std::size_t>(tokens) * static_cast<std::size_t>(hidden);
  return how.kind == Kind::nvfp4 ? elements / 2 : elements;
}

std::size_t scale_array_bytes(const Quantisation& how, int hidden, std::int64_t tokens) {
  const auto rows = static_cast<std::size_t>(tokens), columns = static_cast<std::size_t>(groups_of(how, hidden));
  switch (how.layout) {
    case Layout::none:
      return 0;
    case Layout::row_major:
      return rows * columns * how.scale_bytes();
    case Layout::packed_column:
      return rounded_up(columns, 4) * rounded_up(rows, 4);
    case Layout::swizzled_128x4:
      return rounded_up(rows, 128) * rounded_up(columns, 4);
    case Layout::swizzled_8x4:
      return rounded_up(rows, 8) * rounded_up(columns, 4);
  }
  return 0;
}

std::size_t scale_offset(const Quantisation& how, int hidden, std::int64_t tokens, std::int64_t row, int group) {
  const auto r = static_cast<std::size_t>(row), c = static_cast<std::size_t>(group);
  const auto columns = static_cast<std::size_t>(groups_of(how, hidden));
  const std::size_t tiles_across = rounded_up(columns, 4) / 4;
  switch (how.layout) {
    case Layout::none:
      break;
    case Layout::row_major:
      return (r * columns + c) * how.scale_bytes();
    case Layout::packed_column:
      return (c / 4 * rounded_up(static_cast<std::size_t>(tokens), 4) + r) * 4 + c % 4;
    case Layout::swizzled_128x4:
      return (r / 128 * tiles_across + c / 4) * 512 + r % 32 * 16 + r % 128 / 32 * 4 + c % 4;
    case Layout::swizzled_8x4:
      return (r / 8 * tiles_across + c / 4) * 32 + r % 8 * 4 + c % 4;
  }
  return 0;
}

void place_scales(const QuantisedRows& rows, const Quantisation& how, int hidden, std::int64_t tokens,
                  std::int64_t first, Bytes& array) {
  const std::size_t bytes = how.scale_bytes();
  const int groups = groups_of(how, hidden);
  const unsigned char* source = rows.scales.data();
  for (std::int64_t row = first; source != rows.scales.data() + rows.scales.size(); ++row) {
    for (int group = 0; group < groups; ++group, source += bytes) {
      std::memcpy(array.data() + scale_offset(how, hidden, tokens, row, group), source, bytes);
    }
  }
}

void clear_pads(const Quantisation& how, int hidden, std::int64_t tokens, Bytes& array) {
  Bytes cleared(array.size(), 0);
  for (std::int64_t row = 0; row < tokens; ++row) {
    for (int group = 0; group < groups_of(how, hidden); ++group) {
      const std::size_t at = scale_offset(how, hidden, tokens, row, group);
      std::memcpy(cleared.data() + at, array.data() + at, how.scale_bytes());
    }
  }
  array = std::move(cleared);
}

Bytes arrange_scales(const QuantisedRows& tile, const Quantisation& how, int hidden, std::int64_t tokens) {
  Bytes array(scale_array_bytes(how, hidden, tokens), 0);
  if (tile.scales.empty()) return array;
  const auto rows = static_cast<std::int64_t>(tile.scales.size() / how.scale_bytes()) / groups_of(how, hidden);
  for (std::int64_t first = 0; first < tokens; first += rows) {
    QuantisedRows part;
    const auto count = static_cast<std::size_t>(std::min(rows, tokens - first));
    part.scales.assign(
        tile.scales.begin(),
        tile.scales.begin() +
            static_cast<std::ptrdiff_t>(count * static_cast<std::size_t>(groups_of(how, hidden)) * how.scale_bytes()));
    place_scales(part, how, hidden, tokens, first, array);
  }
  return array;
}

}  // namespace arbiter::tuning
