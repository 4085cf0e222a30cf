#include "oracle/float_formats.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace arbiter::formats {
namespace {

TEST(FloatFormats, EveryBf16SurvivesTheWayThroughFp32) {
  for (std::uint32_t i = 0; i <= 0xffff; ++i) {
    const auto half = static_cast<std::uint16_t>(i);
    const float value = from_bf16(half);
    if (std::isnan(value)) {
      EXPECT_EQ(to_bf16(value), canonical_nan16);
    } else {
      ASSERT_EQ(to_bf16(value), half);
    }
  }
}

TEST(FloatFormats, EveryFp16SurvivesTheWayThroughFp32) {
  for (std::uint32_t i = 0; i <= 0xffff; ++i) {
    const auto half = static_cast<std::uint16_t>(i);
    const float value = from_fp16(half);
    if (std::isnan(value)) {
      EXPECT_EQ(to_fp16(value), canonical_nan16);
    } else {
      ASSERT_EQ(to_fp16(value), half);
    }
  }
}

/// The nearest of all finite values, the even one of two at the same distance.
template <typename From>
std::uint16_t nearest_even(float value, std::uint16_t below, From from) {
  const auto above = static_cast<std::uint16_t>(below + 1);
  const double to_below = static_cast<double>(value) - static_cast<double>(from(below));
  const double to_above = static_cast<double>(from(above)) - static_cast<double>(value);
  if (to_below != to_above) return to_below < to_above ? below : above;
  return below % 2 == 0 ? below : above;
}

TEST(FloatFormats, RoundsToNearestEvenBetweenEveryPairOfNeighbours) {
  for (std::uint16_t half = 0; half < 0x7bff; ++half) {  // up to the largest finite fp16
    const auto low = static_cast<double>(from_fp16(half));
    const auto high = static_cast<double>(from_fp16(static_cast<std::uint16_t>(half + 1)));
    for (const double share : {0.25, 0.5, 0.75}) {
      const auto value = static_cast<float>(low + share * (high - low));
      ASSERT_EQ(to_fp16(value), nearest_even(value, half, from_fp16)) << half << " + " << share;
      ASSERT_EQ(to_fp16(-value), nearest_even(value, half, from_fp16) | 0x8000);
    }
  }
  for (std::uint16_t half = 0; half < 0x7f7f; ++half) {  // up to the largest finite bf16
    const auto low = static_cast<double>(from_bf16(half));
    const auto high = static_cast<double>(from_bf16(static_cast<std::uint16_t>(half + 1)));
    for (const double share : {0.25, 0.5, 0.75}) {
      const auto value = static_cast<float>(low + share * (high - low));
      ASSERT_EQ(to_bf16(value), nearest_even(value, half, from_bf16)) << half << " + " << share;
    }
  }
}

TEST(FloatFormats, OverflowsToInfinityAtHalfway) {
  EXPECT_EQ(to_fp16(65504.0F), 0x7bff);
  EXPECT_EQ(to_fp16(65519.99F), 0x7bff);
  EXPECT_EQ(to_fp16(65520.0F), 0x7c00);
  EXPECT_EQ(to_fp16(-1e30F), 0xfc00);
  EXPECT_EQ(to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(to_bf16(-std::numeric_limits<float>::infinity()), 0xff80);
}

TEST(FloatFormats, ReadsAndWritesByIndex) {
  unsigned char data[16] = {};
  for (const Dtype dtype : {Dtype::bf16, Dtype::fp16, Dtype::fp32}) {
    write(data, 2, dtype, -1.5F);
    EXPECT_EQ(read(data, 2, dtype), -1.5F);
    EXPECT_EQ(read(data, 0, dtype), 0.0F);
  }
}

}  // namespace
}  // namespace arbiter::formats
