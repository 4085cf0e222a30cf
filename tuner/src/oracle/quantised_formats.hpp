// FP8 e4m3, FP4 e2m1 and UE8M0 scales on the host, exactly as the kernels round. Written from the formats' definitions
// and not from the kernels: these judge them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "oracle/float_formats.hpp"

namespace arbiter::formats {

inline constexpr std::uint8_t e4m3_nan = 0x7f;
inline constexpr std::uint8_t e4m3_largest = 0x7e;  ///< 448
inline constexpr std::uint8_t ue8m0_nan = 0xff;

namespace detail {

/// A magnitude in steps of 2^-(fraction_bits) of its binade, ties to even; the smallest binade's steps also serve
/// subnormals. Returns the code of a format whose codes count the steps upwards from 0, without a limit.
inline long nearest_code(float magnitude, int smallest_exponent, int fraction_bits) noexcept {
  const int exponent = std::max(magnitude > 0.0F ? std::ilogb(magnitude) : smallest_exponent, smallest_exponent);
  // nearbyint rounds ties to even in the default rounding mode; the scaling is exact.
  const long steps = std::lrint(std::nearbyint(std::ldexp(static_cast<double>(magnitude), fraction_bits - exponent)));
  return (static_cast<long>(exponent - smallest_exponent) << fraction_bits) + steps;
}

}  // namespace detail

/// To nearest even; too large, and infinite, becomes +-448; NaN becomes 0x7f.
inline std::uint8_t to_e4m3(float value) noexcept {
  if (std::isnan(value)) return e4m3_nan;
  const float magnitude = std::fabs(value);
  const long code = magnitude >= 448.0F ? e4m3_largest : detail::nearest_code(magnitude, -6, 3);
  return static_cast<std::uint8_t>((std::signbit(value) ? 0x80 : 0) | code);
}

inline float from_e4m3(std::uint8_t code) noexcept {
  const int exponent = (code >> 3) & 0xf, fraction = code & 7;
  if ((code & 0x7f) == e4m3_nan) return std::nanf("");
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9)
                                        : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

/// Four bits: to nearest even, saturates at +-6, keeps the sign of zero; NaN becomes +6.
inline std::uint8_t to_e2m1(float value) noexcept {
  if (std::isnan(value)) return 7;
  const float magnitude = std::fabs(value);
  const long code = magnitude >= 6.0F ? 7 : detail::nearest_code(magnitude, 0, 1);
  return static_cast<std::uint8_t>((std::signbit(value) ? 8 : 0) | code);
}

/// The power of two that is not below `value` (not negative), as its biased exponent; 255 for infinity and NaN.
inline std::uint8_t to_ue8m0(float value) noexcept {
  if (!std::isfinite(value)) return ue8m0_nan;
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t exponent = (bits >> 23) + ((bits & 0x7fffff) != 0 ? 1 : 0);
  return static_cast<std::uint8_t>(std::min(exponent, 254U));
}

/// 1 / 2^(exponent - 127): exact, a subnormal at the upper end; NaN for 255.
inline float inverse_of_ue8m0(std::uint8_t exponent) noexcept {
  return exponent == ue8m0_nan ? std::nanf("") : std::ldexp(1.0F, 127 - exponent);
}

}  // namespace arbiter::formats
