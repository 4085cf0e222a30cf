// bf16 and fp16 on the host, rounded to nearest even exactly as the kernels round. Used to build inputs and reference
// results; never on a hot path.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "arbiter/vocabulary.hpp"

namespace arbiter::formats {

inline std::uint32_t bits_of(float value) noexcept {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float float_of(std::uint32_t bits) noexcept {
  float value = 0;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

/// The NaN that the GPU's conversions return, whatever the payload was.
inline constexpr std::uint16_t canonical_nan16 = 0x7fff;

inline float from_bf16(std::uint16_t half) noexcept { return float_of(static_cast<std::uint32_t>(half) << 16); }

inline std::uint16_t to_bf16(float value) noexcept {
  if (std::isnan(value)) return canonical_nan16;
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t half_ulp = 0x7fff + ((bits >> 16) & 1);  // ties go to the even neighbour
  return static_cast<std::uint16_t>((bits + half_ulp) >> 16);
}

inline float from_fp16(std::uint16_t half) noexcept {
  const int exponent = (half >> 10) & 0x1f;
  const int fraction = half & 0x3ff;
  float magnitude = 0;
  if (exponent == 0x1f) {
    magnitude = fraction == 0 ? HUGE_VALF : std::nanf("");
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(fraction), -24);
  } else {
    magnitude = std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  }
  return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

inline std::uint16_t to_fp16(float value) noexcept {
  if (std::isnan(value)) return canonical_nan16;
  const std::uint32_t bits = bits_of(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000);
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520.0F) return static_cast<std::uint16_t>(sign | 0x7c00);  // halfway to 65536: infinity
  if (magnitude < 0x1p-14F) {
    // Subnormal: a multiple of 2^-24. nearbyint rounds ties to even in the default rounding mode.
    const auto steps = static_cast<std::uint16_t>(std::nearbyint(std::ldexp(magnitude, 24)));
    return static_cast<std::uint16_t>(sign | steps);
  }
  const std::uint32_t absolute = bits & 0x7fffffff;
  const std::uint32_t rebased = absolute - (112U << 23);  // exponent bias 127 becomes 15
  const std::uint32_t rounded = (rebased + 0xfff + ((rebased >> 13) & 1)) >> 13;
  return static_cast<std::uint16_t>(sign | rounded);
}

/// Element `index` of an array in `dtype`.
inline float read(const void* data, std::size_t index, Dtype dtype) noexcept {
  const auto* bytes = static_cast<const unsigned char*>(data) + index * element_bytes(dtype);
  if (dtype == Dtype::fp32) {
    float value = 0;
    std::memcpy(&value, bytes, sizeof(value));
    return value;
  }
  std::uint16_t half = 0;
  std::memcpy(&half, bytes, sizeof(half));
  return dtype == Dtype::bf16 ? from_bf16(half) : from_fp16(half);
}

/// Round `value` to `dtype` and store it as element `index`.
inline void write(void* data, std::size_t index, Dtype dtype, float value) noexcept {
  auto* bytes = static_cast<unsigned char*>(data) + index * element_bytes(dtype);
  if (dtype == Dtype::fp32) {
    std::memcpy(bytes, &value, sizeof(value));
    return;
  }
  const std::uint16_t half = dtype == Dtype::bf16 ? to_bf16(value) : to_fp16(value);
  std::memcpy(bytes, &half, sizeof(half));
}

}  // namespace arbiter::formats
