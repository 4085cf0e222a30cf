// Tensors of one fused call on the CPU device, and what the quantised ones must hold, computed one element at a time
// from tables of the formats.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "communicator_fixture.hpp"

namespace arbiter::test {

/// A value of bf16 or fp32 memory.
inline float element(const unsigned char* data, std::size_t i, Dtype dtype) {
  if (dtype == Dtype::fp32) {
    float x = 0;
    std::memcpy(&x, data + 4 * i, 4);
    return x;
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, data + 2 * i, 2);
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

inline void put(unsigned char* data, std::size_t i, Dtype dtype, float x) {
  if (dtype == Dtype::fp32) {
    std::memcpy(data + 4 * i, &x, 4);
    return;
  }
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto rounded = static_cast<std::uint16_t>(std::isnan(x) ? 0x7FFF : (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
  std::memcpy(data + 2 * i, &rounded, 2);
}

/// Nearest of `values` (ascending, code i is values[i]), the even code of two that are equally near.
inline unsigned nearest_code(const std::vector<float>& values, float magnitude) {
  unsigned best = 0;
  for (unsigned code = 1; code < values.size(); ++code) {
    const double now = std::abs(static_cast<double>(values[code]) - static_cast<double>(magnitude));
    const double before = std::abs(static_cast<double>(values[best]) - static_cast<double>(magnitude));
    if (now < before || (now == before && code % 2 == 0)) best = code;
  }
  return best;
}

inline const std::vector<float>& e4m3_values() {
  static const std::vector<float> values = [] {
    std::vector<float> all;
    for (int code = 0; code < 127; ++code) {
      const int exponent = code / 8;
      const float fraction = static_cast<float>(code % 8) / 8;
      all.push_back(exponent == 0 ? std::ldexp(fraction, -6) : std::ldexp(1 + fraction, exponent - 7));
    }
    return all;
  }();
  return values;
}

inline unsigned to_e4m3(float x) {
  if (std::isnan(x)) return 0x7F;
  const float magnitude = std::min(std::abs(x), 448.0F);
  return nearest_code(e4m3_values(), magnitude) | (std::signbit(x) ? 0x80U : 0U);
}

inline unsigned to_e2m1(float x) {
  static const std::vector<float> values{0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
  if (std::isnan(x)) return 7;
  return nearest_code(values, std::min(std::abs(x), 6.0F)) | (std::signbit(x) ? 8U : 0U);
}

/// The largest magnitude; NaN if there is one.
inline float peak_of(const std::vector<float>& values, std::size_t first, std::size_t count) {
  std::uint32_t peak = 0;
  for (std::size_t i = first; i < first + count; ++i)
    peak = std::max(peak, std::bit_cast<std::uint32_t>(values[i]) & 0x7FFFFFFFU);
  return std::bit_cast<float>(peak);
}

/// Numbers of very different size; rows of zeros, and a row with an infinity and a NaN, among them.
inline std::function<float(int, std::size_t)> awkward(int rank, int hidden, bool special) {
  return [=](int which, std::size_t i) {
    const std::uint32_t mixed =
        (static_cast<std::uint32_t>(i) * 2654435761U + static_cast<std::uint32_t>(which) * 977U) ^
        (which == 1 || which == 2 ? 0U : static_cast<std::uint32_t>(rank) * 40503U);
    const auto row = i / static_cast<std::size_t>(hidden);
    if (which == 2 || which == 3) return 0.25F + static_cast<float>(mixed >> 8 & 0xFF) / 128.0F;
    if (special && row == 1) return 0.0F;
    if (special && row == 2 && which == 0 && i % static_cast<std::size_t>(hidden) == 5) return HUGE_VALF;
    if (special && row == 3 && which == 0 && i % static_cast<std::size_t>(hidden) == 11) return NAN;
    const float sign = (mixed & 1) != 0 ? -1.0F : 1.0F;
    return sign *
           std::ldexp(1.0F + static_cast<float>(mixed >> 9 & 0xFF) / 256.0F, static_cast<int>(mixed >> 20 & 15) - 9);
  };
}

struct Quantised {
  std::vector<unsigned char> quant, scales;
};

/// `rows` of `hidden` values through the quantisation of a pattern.
inline Quantised quantised(const Pattern& pattern, const std::vector<float>& y, int hidden, std::int64_t tokens,
                           float scale_in) {
  const auto h = static_cast<std::size_t>(hidden);
  const auto rows = static_cast<std::size_t>(tokens);
  const PartEntry& part = *pattern.part(PartKind::quantisation);
  Quantised result;
  result.quant.resize(pattern.quant_out_bytes(hidden, tokens));
  result.scales.resize(pattern.scale_out_bytes(hidden, tokens));
  const std::size_t group = pattern.group != 0 ? static_cast<std::size_t>(pattern.group) : h;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t g = 0; g < h / group; ++g) {
      const std::size_t first = row * h + g * group;
      const float peak = peak_of(y, first, group);
      float inverse = 0;
      std::uint32_t stored = 0;
      std::size_t bytes = 1;
      std::size_t at = 0;
      if (part.scale_layout == ScaleLayout::none) {
        inverse = 1.0F / scale_in;
        bytes = 0;
      } else if (part.quant_bits == 4) {
        stored = to_e4m3(scale_in * (peak * (1.0F / 6.0F)));
        const float value = stored == 0x7F ? std::numeric_limits<float>::quiet_NaN() : e4m3_values()[stored];
        inverse = value == 0 ? 0 : scale_in / value;
      } else {
        const float floor = part.scale_layout == ScaleLayout::token ? 0x1p-9F / 448.0F : 1e-10F;
        float scale = peak / 448.0F;
        if (scale < floor) scale = floor;
        stored = std::bit_cast<std::uint32_t>(scale);
        bytes = 4;
        inverse = 1.0F / scale;
        if (part.scale_layout == ScaleLayout::packed_columns) {
          bytes = 1;
          int exponent = 0;
          const float fraction = std::frexp(scale, &exponent);  // scale = fraction * 2^exponent, fraction in [0.5, 1)
          stored =
              std::isfinite(scale) ? static_cast<std::uint32_t>(exponent + 126 + (fraction == 0.5F ? 0 : 1)) : 255U;
          inverse = stored == 255 ? std::numeric_limits<float>::quiet_NaN()
                                  : std::ldexp(1.0F, 127 - static_cast<int>(stored));
        }
      }
      const std::size_t groups = h / group;
      const std::size_t tiles = (groups + 3) / 4;
      switch (part.scale_layout) {
        case ScaleLayout::none:
          break;
        case ScaleLayout::token:
          at = 4 * row;
          break;
        case ScaleLayout::group_rows:
          at = 4 * (row * groups + g);
          break;
        case ScaleLayout::packed_columns:
          at = 4 * (g / 4 * ((rows + 3) / 4 * 4) + row) + g % 4;
          break;
        case ScaleLayout::linear:
          at = row * groups + g;
          break;
        case ScaleLayout::tiles_128x4:
          at = (row / 128 * tiles + g / 4) * 512 + row % 32 * 16 + row % 128 / 32 * 4 + g % 4;
          break;
        case ScaleLayout::tiles_8x4:
          at = (row / 8 * tiles + g / 4) * 32 + row % 8 * 4 + g % 4;
          break;
      }
      if (bytes == 4 && std::isnan(std::bit_cast<float>(stored))) stored = 0x7FC00000;  // one NaN for all
      if (bytes != 0) std::memcpy(result.scales.data() + at, &stored, bytes);
      for (std::size_t i = first; i < first + group; ++i) {
        const float x = y[i] * inverse;
        if (part.quant_bits == 8) {
          result.quant[i] = static_cast<unsigned char>(to_e4m3(x));
        } else {
          result.quant[i / 2] = static_cast<unsigned char>(result.quant[i / 2] | to_e2m1(x) << (4 * (i % 2)));
        }
      }
    }
  }
  return result;
}

using Bytes = std::vector<unsigned char>;

/// Everything that a call of a pattern may read or write, outputs poisoned and with room behind them that must stay so.
class FusedTensors {
 public:
  static constexpr unsigned char poison = 0xA5;
  static constexpr std::size_t guard = 64;
  static constexpr int experts = 3, top_k = 5;

  /// `value(tensor, i)`: the i-th element of an input; weights and scales are made from it too.
  /// Every tensor begins `shift` bytes behind an aligned address.
  FusedTensors(Device& device, const ProblemFamily& family, const std::function<float(int, std::size_t)>& value,
               float scale_in, std::size_t shift = 0)
      : pattern(Catalogue::builtin().pattern(family.pattern)), family_(family), device_(device), shift_(shift) {
    const auto tokens = static_cast<std::size_t>(family.max_tokens);
    const auto h = static_cast<std::size_t>(family.hidden);
    const bool gathers = pattern.needs(arbiter::Tensor::moe_row_map);
    const bool moe = pattern.has(PartKind::prologue);
    rows_ = gathers ? 2 * tokens : moe ? experts * tokens : tokens;
    const auto filled = [&](int which, std::size_t count, Dtype dtype) {
      unsigned char* data = make(count * element_bytes(dtype));
      for (std::size_t i = 0; i < count; ++i) put(data, i, dtype, value(which, i));
      return data;
    };
    call.pattern = pattern.name;
    call.dtype = family.dtype;
    call.hidden = family.hidden;
    call.tokens = family.max_tokens;
    call.input = filled(0, rows_ * h, family.dtype);
    call.residual_in = filled(1, tokens * h, family.dtype);
    call.gamma = filled(2, h, family.dtype);
    const std::size_t terms = tokens * static_cast<std::size_t>(gathers ? top_k : experts);
    call.moe_weights = filled(3, terms, Dtype::fp32);
    call.moe_shared = filled(4, tokens * h, family.dtype);
    auto* map = reinterpret_cast<int*>(make(terms * sizeof(int)));
    for (std::size_t i = 0; i < terms; ++i) map[i] = i % 4 == 1 ? -1 : static_cast<int>(i * 7 % rows_);
    if (gathers) call.moe_row_map = map;
    call.moe_experts = experts;
    call.moe_top_k = top_k;
    call.moe_rows = static_cast<std::int64_t>(rows_);
    auto* scale = reinterpret_cast<float*>(make(sizeof(float)));
    *scale = scale_in;
    call.scale_in = scale;
    call.output = make(tokens * h * element_bytes(family.dtype));
    call.residual_out = make(tokens * h * element_bytes(family.dtype));
    call.norm_out = make(tokens * h * element_bytes(family.dtype));
    call.quant_out = make(pattern.quant_out_bytes(family.hidden, family.max_tokens));
    call.scale_out_bytes = pattern.scale_out_bytes(family.hidden, family.max_tokens);
    call.scale_out = make(call.scale_out_bytes);
    if (!pattern.uses(arbiter::Tensor::output)) call.output = nullptr;
    if (!pattern.uses(arbiter::Tensor::quant_out)) call.quant_out = nullptr;
    if (!pattern.uses(arbiter::Tensor::scale_out)) call.scale_out = nullptr;
    if (!pattern.uses(arbiter::Tensor::residual_out)) call.residual_out = nullptr;
    if (!pattern.uses(arbiter::Tensor::residual_in)) call.residual_in = nullptr;
    if (!pattern.uses(arbiter::Tensor::norm_out)) call.norm_out = nullptr;
  }

  /// This rank's contribution, as floats of the dtype.
  std::vector<float> contribution() const {
    const auto tokens = static_cast<std::size_t>(family_.max_tokens);
    const auto h = static_cast<std::size_t>(family_.hidden);
    const auto* input = static_cast<const unsigned char*>(call.input);
    std::vector<float> result;
    for (std::size_t t = 0; t < tokens; ++t) {
      for (std::size_t i = 0; i < h; ++i) {
        if (!pattern.has(PartKind::prologue)) {
          result.push_back(element(input, t * h + i, family_.dtype));
          continue;
        }
        float sum = 0;
        const bool gathers = call.moe_row_map != nullptr;
        for (std::size_t j = 0; j < static_cast<std::size_t>(gathers ? top_k : experts); ++j) {
          const std::size_t place = gathers ? t * top_k + j : j * tokens + t;
          const std::size_t row = gathers ? static_cast<std::size_t>(call.moe_row_map[place]) : place;
          if (gathers && call.moe_row_map[place] == -1) continue;
          const float product = weight(place) * element(input, row * h + i, family_.dtype);
          sum += product;
        }
        if (call.moe_shared != nullptr)
          sum += element(static_cast<const unsigned char*>(call.moe_shared), t * h + i, family_.dtype);
        result.push_back(rounded(sum));
      }
    }
    return result;
  }

  float rounded(float x) const {
    unsigned char bytes[4];
    put(bytes, 0, family_.dtype, x);
    return element(bytes, 0, family_.dtype);
  }

  float weight(std::size_t i) const {
    return element(static_cast<const unsigned char*>(call.moe_weights), i,
                   call.moe_weights_fp32 ? Dtype::fp32 : family_.dtype);
  }

  std::vector<float> values(const void* data) const {
    std::vector<float> result;
    const auto count = static_cast<std::size_t>(family_.max_tokens) * static_cast<std::size_t>(family_.hidden);
    for (std::size_t i = 0; i < count; ++i)
      result.push_back(element(static_cast<const unsigned char*>(data), i, family_.dtype));
    return result;
  }

  /// The bytes of every output that the call gives, the room behind each included.
  std::vector<Bytes> outputs() const {
    const std::size_t message = static_cast<std::size_t>(family_.max_tokens) *
                                static_cast<std::size_t>(family_.hidden) * element_bytes(family_.dtype);
    std::vector<Bytes> all;
    const auto add = [&](const void* data, std::size_t bytes) {
      if (data == nullptr) return;
      const auto* begin = static_cast<const unsigned char*>(data);
      all.emplace_back(begin, begin + bytes + guard);
    };
    add(call.output, message);
    add(call.residual_out, message);
    add(call.norm_out, message);
    add(call.quant_out, pattern.quant_out_bytes(family_.hidden, family_.max_tokens));
    add(call.scale_out, call.scale_out_bytes);
    return all;
  }

  Call call;
  Pattern pattern;

  unsigned char* make(std::size_t bytes) {
    memory_.push_back(std::make_unique<DeviceMemory>(device_, bytes + guard + shift_));
    auto* data = static_cast<unsigned char*>(memory_.back()->data()) + shift_;
    std::fill_n(data, bytes + guard, poison);
    return data;
  }

 private:
  ProblemFamily family_;
  Device& device_;
  std::size_t shift_;
  std::size_t rows_ = 0;
  std::vector<std::unique_ptr<DeviceMemory>> memory_;
};

/// The bytes, and behind them the room that stays poisoned.
inline void expect_bytes(const void* data, const Bytes& expected, const std::string& what) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (bytes[i] == expected[i]) continue;
    if (wrong++ < 5) {
      ADD_FAILURE() << what << ": byte " << i << " is " << static_cast<int>(bytes[i]) << ", expected "
                    << static_cast<int>(expected[i]);
    }
  }
  for (std::size_t i = expected.size(); i < expected.size() + FusedTensors::guard; ++i)
    ASSERT_EQ(bytes[i], FusedTensors::poison) << what << ": byte " << i << " behind its end was written";
}

}  // namespace arbiter::test
