// What 8-bit transport does to values, on the host: the error that is promised, and the values that are promised.
#include "oracle/fp8_transport.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "oracle/float_formats.hpp"
#include "oracle/quantised_formats.hpp"
#include "oracle/random.hpp"

namespace arbiter::tuning {
namespace {

std::vector<float> sent(std::vector<float> group) {
  over_the_link(group);
  return group;
}

Bytes tile_of(const std::vector<float>& values, Dtype dtype) {
  Bytes tile(values.size() * element_bytes(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) formats::write(tile.data(), i, dtype, values[i]);
  return tile;
}

std::vector<float> values_of(const Bytes& tile, Dtype dtype) {
  std::vector<float> values(tile.size() / element_bytes(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = formats::read(tile.data(), i, dtype);
  return values;
}

/// Box and Muller's.
std::vector<float> gaussian(std::size_t count, double scale, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    const double radius = std::sqrt(-2 * std::log(1 - random.unit()));
    value = static_cast<float>(scale * radius * std::cos(2 * std::numbers::pi * random.unit()));
  }
  return values;
}

TEST(Fp8Transport, EveryCodeArrivesAsItIsWhateverTheScale) {
  for (const int exponent : {-126, -60, 0, 60, 119}) {
    for (int code = 0; code < 256; ++code) {
      if ((code & 0x7f) == formats::e4m3_nan) continue;
      const float value = std::ldexp(formats::from_e4m3(static_cast<std::uint8_t>(code)), exponent);
      const float largest = std::ldexp(448.0F, exponent);  // what sets the scale
      EXPECT_EQ(sent({value, largest})[0], value) << code << " times 2^" << exponent;
    }
  }
}

TEST(Fp8Transport, TheScaleIsTheLeastPowerOfTwoThatFits) {
  // The finest step of a group is 2^-9 of its scale.
  const float step = 0x1p-9F;
  EXPECT_EQ(sent({448, step})[1], step);
  EXPECT_EQ(sent({448, step / 2 * 1.01F})[1], step) << "to nearest";
  EXPECT_EQ(sent({448, step / 2})[1], 0.0F) << "ties to even";
  EXPECT_EQ(sent({449, step})[1], 0.0F) << "a scale of 2: half a step, to even";
  EXPECT_EQ(sent({449, step})[0], 448.0F);
  EXPECT_EQ(sent({465, 0})[0], 480.0F) << "no saturation: scaled, it is far from the largest code";
}

TEST(Fp8Transport, ZerosTinyAndHugeValues) {
  EXPECT_EQ(sent({0, 0, 0}), (std::vector<float>{0, 0, 0}));
  // One huge value makes the rest of its group 0 below 2^-18 of it, and costs the next group nothing.
  std::vector<float> values(2 * fp8_group, 1.0F);
  values[5] = 0x1p30F;
  const std::vector<float> found =
      values_of(fp8_sum(std::vector<Bytes>{tile_of(values, Dtype::fp32)}, Dtype::fp32, values.size(), 1), Dtype::fp32);
  EXPECT_EQ(found[5], 0x1p30F);
  EXPECT_EQ(found[4], 0.0F);
  EXPECT_EQ(found[fp8_group], 1.0F);
  // Below the smallest scale there are still 9 bits behind 2^-126.
  EXPECT_EQ(sent({0x1p-133F, 0x1p-135F}), (std::vector<float>{0x1p-133F, 0x1p-135F}));
  EXPECT_EQ(sent({0x1p-137F}), (std::vector<float>{0.0F}));
  // Within a sixteenth of the end of the range a value may round to what its type does not have.
  EXPECT_EQ(sent({65504})[0], 65536.0F);
  EXPECT_TRUE(std::isinf(sent({formats::from_bf16(0x7f7f)})[0]));
}

TEST(Fp8Transport, WhatIsNotFiniteMakesItsGroupNan) {
  for (const float bad : {HUGE_VALF, -HUGE_VALF, std::nanf("")}) {
    std::vector<float> values(3 * fp8_group, 1.0F);
    values[fp8_group + 7] = bad;
    const std::vector<Bytes> tiles{tile_of(std::vector<float>(values.size(), 1.0F), Dtype::bf16),
                                   tile_of(values, Dtype::bf16)};
    for (const int legs : {1, 2}) {
      const std::vector<float> found = values_of(fp8_sum(tiles, Dtype::bf16, values.size(), legs), Dtype::bf16);
      for (std::size_t i = 0; i < found.size(); ++i) {
        const bool within = i / fp8_group == 1;
        EXPECT_EQ(std::isnan(found[i]), within) << bad << ", element " << i;
        if (!within) {
          EXPECT_EQ(found[i], 2.0F);
        }
      }
    }
  }
}

TEST(Fp8Transport, TheErrorIsWithinItsBoundOnGaussianInputs) {
  for (const Dtype dtype : {Dtype::bf16, Dtype::fp16, Dtype::fp32}) {
    for (const std::size_t ranks : {2U, 4U, 8U}) {
      for (const double scale : {1e-3, 1.0, 100.0}) {
        std::vector<Bytes> tiles;
        for (std::size_t r = 0; r < ranks; ++r) tiles.push_back(tile_of(gaussian(64 * fp8_group, scale, r + 1), dtype));
        for (const int legs : {1, 2}) {
          const double error = relative_error(fp8_sum(tiles, dtype, 64 * fp8_group, legs), tiles, dtype);
          EXPECT_LE(error, fp8_tolerance(legs)) << to_string(dtype) << ", " << ranks << " ranks, " << legs << " legs";
          EXPECT_GT(error, legs * std::exp2(-6.5)) << "nothing was rounded";
        }
      }
    }
  }
}

TEST(Fp8Transport, GroupsRunThroughTheWholeMessage) {
  // Rows of 72: a group begins in one row and ends in the next, the last one is short, and the tile repeats.
  const std::vector<float> row = gaussian(72, 1, 3);
  std::vector<float> message;
  for (std::size_t i = 0; i < 72 * 40 + 24; ++i) message.push_back(row[i % 72]);
  const std::vector<Bytes> repeating{tile_of(row, Dtype::fp32)}, whole{tile_of(message, Dtype::fp32)};
  EXPECT_EQ(fp8_sum(repeating, Dtype::fp32, message.size(), 2), fp8_sum(whole, Dtype::fp32, message.size(), 2));
  std::vector<float> last(message.end() - static_cast<std::ptrdiff_t>(message.size() % fp8_group), message.end());
  over_the_link(last);
  const std::vector<float> found = values_of(fp8_sum(repeating, Dtype::fp32, message.size(), 1), Dtype::fp32);
  EXPECT_TRUE(std::equal(last.begin(), last.end(), found.end() - static_cast<std::ptrdiff_t>(last.size())));
}

TEST(Fp8Transport, NoSumLooksLikeNothing) {
  // A zero that is negative on every rank, behind a positive one: as 16-bit values, the word of the sentinel.
  for (const Dtype dtype : {Dtype::bf16, Dtype::fp16, Dtype::fp32}) {
    const std::vector<Bytes> tiles(2, tile_of({0.0F, -0.0F, -0.0F, 0.0F}, dtype));
    for (const int legs : {1, 2}) {
      const Bytes sum = fp8_sum(tiles, dtype, 4, legs);
      for (std::size_t at = 0; at < sum.size(); at += 4) {
        std::uint32_t word = 1;
        std::memcpy(&word, sum.data() + at, 4);
        EXPECT_EQ(word, 0U);
      }
    }
  }
}

}  // namespace
}  // namespace arbiter::tuning
