// The roundings that kernels do without an instruction, against the formats' tables.
#include <gtest/gtest.h>

#include "runtime/fused_tensors.hpp"

#define ARBITER_DEVICE inline

namespace arbiter {
namespace {

inline unsigned float_to_bits(float x) { return std::bit_cast<unsigned>(x); }
inline float bits_to_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline float add(float a, float b) { return a + b; }
inline float multiply(float a, float b) { return a * b; }
inline float reciprocal_estimate(float x) {
  return 1.0F / x * (1.0F + 0x1p-22F);
}  // as good as the instruction promises
inline float multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
inline unsigned bytes_of(unsigned a, unsigned b, unsigned which) {
  EXPECT_EQ(which, 0x5410U);
  return (a & 0xFFFFU) | b << 16;
}
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
  }
}

/// `x` as one of eight; the others are 1, so that a code which spills over would show.
unsigned e2m1_among_others(float x, unsigned place) {
  float magnitude[8] = {1, 1, 1, 1, 1, 1, 1, 1};
  magnitude[place] = std::fabs(x);
  const unsigned sign = std::signbit(x) ? 8U << (4 * place) : 0U;
  const unsigned all = e2m1_codes(magnitude, sign, std::fabs(x) < 7.0F);
  EXPECT_EQ(all & ~(0xFU << (4 * place)), 0x22222222U & ~(0xFU << (4 * place))) << std::hexfloat << x;
  return all >> (4 * place) & 0xFU;
}

TEST(SmallFloats, EightFp4RoundAsTheFormatDoes) {
  unsigned place = 0;
  for (const float x : samples()) {
    ASSERT_EQ(e2m1_among_others(x, place), test::to_e2m1(x)) << std::hexfloat << x << " at " << place;
    place = (place + 1) % 8;
  }
}

TEST(SmallFloats, EveryMagnitudeThatFp4DoesNotSaturateIsRounded) {
  // From 2^-4, below which everything is 0, to 7, in steps of the coarsest half unit and next to it.
  for (unsigned bits = 0x3D800000U; bits < 0x40E00000U; bits += 127) {
    const float x = bits_to_float(bits);
    ASSERT_EQ(e2m1_code(x) & 7U, test::to_e2m1(x)) << std::hexfloat << x;
    ASSERT_EQ(e2m1_code(x) & 0x007FFFF8U, 0U) << std::hexfloat << x;
  }
}

TEST(SmallFloats, ExponentsAreThoseOfTheRoundedQuotient) {
  const auto expected = [](float magnitude) {
    const float scale = std::max(magnitude / 448.0F, 1e-10F);
    int exponent = 0;
    const float fraction = std::frexp(scale, &exponent);  // scale = fraction * 2^exponent, fraction in [0.5, 1)
    return static_cast<unsigned>((fraction == 0.5F ? exponent - 1 : exponent) + 127);
  };
  for (const float x : samples()) {
    if (!std::isfinite(x)) continue;
    ASSERT_EQ(ue8m0_of_448th(float_to_bits(std::fabs(x))), expected(std::fabs(x))) << std::hexfloat << x;
  }
  for (const unsigned power : {0x2C000000U, 0x3F800000U, 0x43800000U, 0x7F000000U}) {
    for (unsigned fraction = 0; fraction < (1U << 23); fraction += 7) {
      const float x = bits_to_float(power | fraction);
      ASSERT_EQ(ue8m0_of_448th(power | fraction), expected(x)) << std::hexfloat << x;
    }
    for (const unsigned near : {0x5FFFFEU, 0x5FFFFFU, 0x600000U, 0x600001U, 0x600002U}) {
      ASSERT_EQ(ue8m0_of_448th(power | near), expected(bits_to_float(power | near))) << near;
    }
  }
  for (const unsigned bits : {0x7F800000U, 0x7FC00000U, 0x7FFFFFFFU}) EXPECT_EQ(ue8m0_of_448th(bits), 255U);
}

TEST(SmallFloats, EveryE4m3HasItsValue) {
  for (unsigned code = 0; code < 127; ++code) {
    EXPECT_EQ(e4m3_value(code), test::e4m3_values()[code]);
  }
}

TEST(SmallFloats, ThePlainQuotientIsThatOfADivision) {
  // All fractions of all divisors; exponents only move the point, up to those where it is no longer plain.
  for (unsigned code = 8; code < 16; ++code) {
    const float divisor = e4m3_value(code | 7U << 3);
    for (unsigned fraction = 0; fraction < (1U << 23); fraction += 3) {
      const float x = bits_to_float(0x3F800000U | fraction);
      ASSERT_EQ(plain_quotient(x, divisor), x / divisor) << std::hexfloat << x << " / " << divisor;
    }
  }
  for (const float x : samples()) {
    if (!divides_plainly(x)) continue;
    ASSERT_LE(std::fabs(x), 0x1p101F);
    for (unsigned code = 1; code < 127; ++code) ASSERT_EQ(plain_quotient(x, e4m3_value(code)), x / e4m3_value(code));
  }
  for (const float x : {0.0F, -1.0F, 0x1p-101F, 0x1p101F, HUGE_VALF, NAN}) EXPECT_FALSE(divides_plainly(x));
  for (const float x : {0x1p-100F, 1.0F, 0x1p99F}) EXPECT_TRUE(divides_plainly(x));
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
