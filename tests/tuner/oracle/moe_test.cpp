// The oracle of the mixture-of-experts prologues, against sums worked out by hand from the arrays in device memory.
#include "oracle/moe.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <set>

#include "oracle/float_formats.hpp"

namespace arbiter::tuning {
namespace {

constexpr int hidden = 16;
constexpr std::int64_t rows = 7, tokens = 17;

/// What a kernel would compute, from what lies in device memory.
float by_hand(const MoeTiles& tiles, bool finalize, Dtype dtype, Dtype weight_dtype, std::int64_t token, int column) {
  const Bytes weights = moe_weight_array(tiles, rows, tokens, weight_dtype);
  const auto parts = static_cast<std::int64_t>(tiles.parts.size());
  const auto element = [&](std::int64_t block, std::int64_t row) {
    return formats::read(tiles.parts[static_cast<std::size_t>(block)].data(),
                         static_cast<std::size_t>(row % rows * hidden + column), dtype);
  };
  float total = 0;
  for (std::int64_t part = 0; part < parts; ++part) {
    const std::int64_t index = finalize ? token * parts + part : part * tokens + token;
    const float weight = formats::read(weights.data(), static_cast<std::size_t>(index), weight_dtype);
    if (finalize) {
      const Bytes map = moe_row_map(tiles, rows, tokens);
      std::int32_t permuted = 0;
      std::memcpy(&permuted, map.data() + 4 * index, 4);
      if (permuted == -1) continue;
      total += weight * element(permuted / tokens, permuted % tokens);
    } else {
      total += weight * element(part, token);
    }
  }
  if (!tiles.shared.empty()) {
    total += formats::read(tiles.shared.data(), static_cast<std::size_t>(token % rows * hidden + column), dtype);
  }
  return total;
}

TEST(Moe, TheContributionIsTheWeightedSumOfWhatLiesInMemory) {
  for (const bool finalize : {false, true}) {
    for (const Dtype dtype : {Dtype::bf16, Dtype::fp16, Dtype::fp32}) {
      for (const int parts : {1, 4, 8, 16}) {
        for (const bool shared : {false, true}) {
          const bool weights_fp32 = parts != 4;
          const MoeShape shape{parts, parts, shared, weights_fp32};
          const MoeTiles tiles = make_moe_tiles(Content::random, dtype, rows, hidden, 1, 3, finalize, shape);
          const Bytes result = contribution(tiles, dtype, rows, hidden);
          Bytes expected(result.size());
          for (std::int64_t token = 0; token < tokens; ++token) {
            for (int column = 0; column < hidden; ++column) {
              const auto at = static_cast<std::size_t>(token % rows * hidden + column);
              formats::write(expected.data(), at, dtype,
                             by_hand(tiles, finalize, dtype, weights_fp32 ? Dtype::fp32 : dtype, token, column));
            }
          }
          ASSERT_EQ(result, expected) << finalize << " " << to_string(dtype) << " " << parts << " " << shared;
        }
      }
    }
  }
}

TEST(Moe, SomeChoicesAreSkippedAndNoPermutedRowIsChosenTwice) {
  const MoeTiles tiles =
      make_moe_tiles(Content::random, Dtype::bf16, rows, hidden, 0, 5, true, MoeShape{4, 8, true, true});
  const Bytes map = moe_row_map(tiles, rows, tokens);
  std::set<std::int32_t> seen;
  std::size_t skipped = 0;
  for (std::size_t i = 0; i < map.size() / 4; ++i) {
    std::int32_t row = 0;
    std::memcpy(&row, map.data() + 4 * i, 4);
    if (row == -1) {
      ++skipped;
      continue;
    }
    EXPECT_TRUE(row >= 0 && row < 8 * tokens && seen.insert(row).second) << row;
  }
  EXPECT_GT(skipped, map.size() / 4 / 8);
  EXPECT_LT(skipped, map.size() / 4 * 3 / 4);
}

TEST(Moe, IntegersStaySmallIntegers) {
  for (const bool finalize : {false, true}) {
    const MoeTiles tiles =
        make_moe_tiles(Content::integers, Dtype::bf16, rows, hidden, 2, 5, finalize, MoeShape{16, 8, true, false});
    const Bytes result = contribution(tiles, Dtype::bf16, rows, hidden);
    bool any = false;
    for (std::size_t i = 0; i < result.size() / 2; ++i) {
      const float value = formats::read(result.data(), i, Dtype::bf16);
      ASSERT_TRUE(value == std::round(value) && std::fabs(value) <= 8);
      any = any || value != 0;
    }
    EXPECT_TRUE(any);
  }
}

TEST(Reference, NormsAreThoseOfTheTextbook) {
  Bytes gamma(4 * 4);
  for (std::size_t i = 0; i < 4; ++i) formats::write(gamma.data(), i, Dtype::fp32, static_cast<float>(i + 1));
  const std::vector<double> row{1, 2, 3, 6};
  const std::vector<double> rms = normalised(Composition::Norm::rmsnorm, row, 4, {gamma, Dtype::fp32, 0.5, 1});
  const double scale = 1 / std::sqrt((1 + 4 + 9 + 36) / 4.0 + 0.5);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(rms[i], row[i] * scale * (static_cast<double>(i) + 2), 1e-12);
  const std::vector<double> layer = normalised(Composition::Norm::layernorm, row, 4, {gamma, Dtype::fp32, 0.5, 0});
  const double deviation = 1 / std::sqrt((4 + 1 + 0 + 9) / 4.0 + 0.5);
  for (std::size_t i = 0; i < 4; ++i)
    EXPECT_NEAR(layer[i], (row[i] - 3) * deviation * (static_cast<double>(i) + 1), 1e-12);
}

}  // namespace
}  // namespace arbiter::tuning
