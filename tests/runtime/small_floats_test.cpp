// The roundings that kernels do without an instruction, against the formats' tables.
#include <gtest/gtest.h>

#include "fused_tensors.hpp"

#define ARBITER_DEVICE inline

namespace arbiter {
namespace {

inline unsigned float_to_bits(float x) { return std::bit_cast<unsigned>(x); }
inline float bits_to_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline float add(float a, float b) { return a + b; }
inline float multiply(float a, float b) { return a * b; }
inline float multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
#include "device/small_floats.h"

/// Floats of every size, and the neighbours of everything where a rounding may change.
std::vector<float> samples() {
  std::vector<float> all;
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 16411) {
    all.push_back(bits_to_float(static_cast<unsigned>(bits)));
  }
  const auto around = [&](double value) {
    const unsigned bits = float_to_bits(static_cast<float>(value));
    for (const unsigned near : {bits - 1, bits, bits + 1}) {
      all.push_back(bits_to_float(near));
      all.push_back(bits_to_float(near | 0x80000000U));
    }
  };
  const std::vector<float>& values = test::e4m3_values();
  for (std::size_t i = 0; i + 1 < values.size(); ++i) {
    around(static_cast<double>(values[i + 1]));
    around((static_cast<double>(values[i]) + static_cast<double>(values[i + 1])) / 2);
  }
  for (const double x : {0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 464.0, 480.0})
    around(x);
  for (const unsigned bits : {0U, 0x80000000U, 1U, 0x7F7FFFFFU, 0x7F800000U, 0xFF800000U, 0x7F800001U, 0xFFC00000U})
    all.push_back(bits_to_float(bits));
  return all;
}

TEST(SmallFloats, RoundAsTheFormatsDo) {
  for (const float x : samples()) {
    ASSERT_EQ(e4m3_bits(x), test::to_e4m3(x)) << std::hexfloat << x;
    ASSERT_EQ(e2m1_bits(x), test::to_e2m1(x)) << std::hexfloat << x;
  }
}

TEST(SmallFloats, EveryE4m3HasItsValue) {
  for (unsigned code = 0; code < 127; ++code) {
    EXPECT_EQ(e4m3_value(code), test::e4m3_values()[code]);
    EXPECT_EQ(e4m3_value(code | 0x80U), -test::e4m3_values()[code]);
  }
  EXPECT_TRUE(std::isnan(e4m3_value(0x7F)));
  EXPECT_TRUE(std::isnan(e4m3_value(0xFF)));
}

TEST(SmallFloats, TheQuotientIsThatOfADivision) {
  // All fractions of some exponents: the others only move the point.
  for (const unsigned exponent : {0x30000000U, 0x3F800000U, 0x43000000U, 0x7F000000U}) {
    for (unsigned fraction = 0; fraction < (1U << 23); ++fraction) {
      const float x = bits_to_float(exponent | fraction);
      ASSERT_EQ(over_448(x), x / 448.0F) << std::hexfloat << x;
    }
  }
  EXPECT_EQ(over_448(0.0F), 0.0F);
  EXPECT_EQ(over_448(HUGE_VALF), HUGE_VALF);
  EXPECT_TRUE(std::isnan(over_448(NAN)));
}

}  // namespace
}  // namespace arbiter
