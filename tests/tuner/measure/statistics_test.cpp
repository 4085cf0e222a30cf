#include "arbiter/tuner/statistics.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "arbiter/error.hpp"
#include "oracle/random.hpp"

namespace arbiter {
namespace {

using tuning::Random;

/// Sum of uniform values: close enough to normal, and the same everywhere.
double bell(Random& random) {
  double sum = -6;
  for (int i = 0; i < 12; ++i) sum += random.unit();
  return sum;
}

TEST(Statistics, MedianOfOddEvenAndOne) {
  EXPECT_DOUBLE_EQ(median(std::vector<double>{3, 1, 2}), 2);
  EXPECT_DOUBLE_EQ(median(std::vector<double>{4, 1, 3, 2}), 2.5);
  EXPECT_DOUBLE_EQ(median(std::vector<double>{7}), 7);
}

TEST(Statistics, NoSamplesAreRefused) {
  EXPECT_THROW(median({}), InvalidArgument);
  EXPECT_THROW(summarise({}), InvalidArgument);
}

TEST(Statistics, MedianIgnoresOneOutlier) { EXPECT_DOUBLE_EQ(median(std::vector<double>{2, 2, 2, 2, 1000}), 2); }

TEST(Statistics, FewSamplesGiveTheirRange) {
  const Summary summary = summarise(std::vector<double>{5, 3, 4});
  EXPECT_DOUBLE_EQ(summary.ci_low_us, 3);
  EXPECT_DOUBLE_EQ(summary.ci_high_us, 5);
}

TEST(Statistics, SameSamplesAndSeedGiveTheSameInterval) {
  Random random(7);
  std::vector<double> samples;
  for (int i = 0; i < 30; ++i) samples.push_back(10 + bell(random));
  EXPECT_EQ(summarise(samples, 3), summarise(samples, 3));
  EXPECT_EQ(summarise(samples, 3).median_us, summarise(samples, 4).median_us);
}

TEST(Statistics, IntervalCoversTheTrueMedianAboutAsOftenAsItSays) {
  Random random(42);
  constexpr int experiments = 400;
  int covered = 0;
  double width = 0;
  for (int i = 0; i < experiments; ++i) {
    std::vector<double> samples;
    for (int j = 0; j < 30; ++j) samples.push_back(100 + bell(random));
    const Summary summary = summarise(samples, static_cast<std::uint64_t>(i) + 1, 400);
    if (summary.ci_low_us <= 100 && 100 <= summary.ci_high_us) ++covered;
    width += (summary.ci_high_us - summary.ci_low_us) / experiments;
  }
  // 95% nominal; the bootstrap of a median of 30 is a little off either way.
  EXPECT_GE(covered, experiments * 90 / 100);
  EXPECT_LE(covered, experiments * 99 / 100);
  EXPECT_GT(width, 0.4);  // about 2 * 1.96 * 1.25 / sqrt(30) = 0.9
  EXPECT_LT(width, 1.4);
}

TEST(Statistics, TwoClockStatesAreBimodal) {
  Random random(1);
  std::vector<double> samples;
  for (int i = 0; i < 40; ++i) samples.push_back((i % 3 == 0 ? 12.0 : 10.0) + 0.05 * bell(random));
  EXPECT_TRUE(is_bimodal(samples));
  EXPECT_TRUE(summarise(samples).bimodal);
  EXPECT_EQ(summarise(samples).samples, 40U) << "flagged, not trimmed";
}

TEST(Statistics, OneGroupIsNotBimodal) {
  int flagged_normal = 0, flagged_uniform = 0;
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    Random random(seed);
    std::vector<double> normal, uniform;
    for (int i = 0; i < 30; ++i) {
      normal.push_back(10 + bell(random));
      uniform.push_back(10 + 3 * random.unit());
    }
    flagged_normal += is_bimodal(normal) ? 1 : 0;
    flagged_uniform += is_bimodal(uniform) ? 1 : 0;
  }
  EXPECT_LE(flagged_normal, 2);
  EXPECT_LE(flagged_uniform, 2);
}

TEST(Statistics, TwoGroupsWithinTheNoiseOfAClockAreNotBimodal) {
  std::vector<double> samples;
  for (int i = 0; i < 30; ++i) samples.push_back(i % 2 == 0 ? 10.0 : 10.1);  // 1% apart
  EXPECT_FALSE(is_bimodal(samples));
}

TEST(Statistics, AFewOutliersAreNotBimodal) {
  std::vector<double> samples(30, 10.0);
  samples[3] = samples[9] = 20.0;
  EXPECT_FALSE(is_bimodal(samples));
}

}  // namespace
}  // namespace arbiter
