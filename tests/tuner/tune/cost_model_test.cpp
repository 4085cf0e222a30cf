#include "tune/cost_model.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace arbiter::tuning {
namespace {

std::optional<CostMiss> observe(CostModel& model, std::size_t candidate, std::size_t group, double bytes, double us) {
  const CostObservation one[] = {{candidate, group, us}};
  return model.observe(bytes, one);
}

TEST(CostModel, ALineIsFoundExactly) {
  const CostPoint points[] = {{1000, 2.1}, {4000, 2.4}, {64000, 8.4}};
  const CostLine line = fit_cost(points);
  EXPECT_NEAR(line.latency_us, 2.0, 1e-9);
  EXPECT_NEAR(line.us_per_byte, 1e-4, 1e-12);
}

TEST(CostModel, NeitherLatencyNorSlopeIsNegative) {
  const CostPoint falling[] = {{1000, 5}, {2000, 4}, {4000, 3}};
  EXPECT_EQ(fit_cost(falling).us_per_byte, 0);
  EXPECT_GE(fit_cost(falling).latency_us, 3);
  EXPECT_LE(fit_cost(falling).latency_us, 5);
  const CostPoint steep[] = {{1000, 1}, {2000, 4}, {4000, 16}};
  EXPECT_EQ(fit_cost(steep).latency_us, 0);
  EXPECT_GT(fit_cost(steep).us_per_byte, 0);
  const CostPoint one[] = {{1000, 3}};
  EXPECT_EQ(fit_cost(one).at(8000), 3);
}

TEST(CostModel, PredictsFromOwnTimesThenFromTheAlgorithm) {
  CostModel model;
  EXPECT_FALSE(model.predict(0, 0, 1000).has_value());
  observe(model, 0, 0, 1000, 2.1);
  EXPECT_FALSE(model.predict(0, 0, 4000).has_value()) << "one size says nothing about the slope";
  observe(model, 0, 0, 4000, 2.4);
  EXPECT_NEAR(*model.predict(0, 0, 2000), 2.2, 1e-9);
  EXPECT_NEAR(*model.predict(7, 0, 2000), 2.2, 1e-9) << "never measured: the fastest of its algorithm";
  EXPECT_FALSE(model.predict(7, 1, 2000).has_value()) << "another algorithm";
  observe(model, 1, 0, 1000, 4.2);
  EXPECT_NEAR(*model.predict(1, 0, 2000), 4.4, 1e-9) << "measured once: twice the line of its algorithm";
  EXPECT_FALSE(model.predict(0, 0, 100'000).has_value()) << "too far away";
}

TEST(CostModel, ReportsTheWorstMissOfASize) {
  CostModel model;
  EXPECT_FALSE(observe(model, 0, 0, 1000, 2).has_value());
  EXPECT_FALSE(observe(model, 0, 0, 2000, 2).has_value());
  EXPECT_EQ(model.checked(), 0U);
  const CostObservation size[] = {{0, 0, 3}, {1, 0, 2}, {2, 0, 1}, {3, 0, std::numeric_limits<double>::infinity()}};
  const std::optional<CostMiss> worst = model.observe(4000, size);
  ASSERT_TRUE(worst.has_value());
  EXPECT_EQ(model.checked(), 3U);
  EXPECT_EQ(worst->candidate, 2U) << "half is further off than one and a half";
  EXPECT_NEAR(worst->ratio, 0.5, 1e-9) << "predicted from the sizes before, not from the others of this one";
  EXPECT_FALSE(model.observe(4000, size).has_value()) << "the same again is no test of a prediction";
  EXPECT_EQ(model.checked(), 3U);
}

TEST(CostModel, TheOrderOfOneSizeDoesNotMatter) {
  CostModel forward, backward;
  std::vector<CostObservation> size{{0, 0, 2}, {1, 0, 3}, {2, 1, 9}, {3, 1, 5}};
  for (const double bytes : {1000., 2000., 4000., 8000.}) {
    for (CostObservation& each : size) each.us *= 1.1 + 0.1 * static_cast<double>(each.candidate);
    forward.observe(bytes, size);
    backward.observe(bytes, std::vector<CostObservation>(size.rbegin(), size.rend()));
  }
  EXPECT_EQ(forward.margin(), backward.margin());
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(forward.predict(i, i < 2 ? 0 : 1, 3000), backward.predict(i, i < 2 ? 0 : 1, 3000));
  }
}

TEST(CostModel, HopelessMeansBeyondTheMisses) {
  CostModel exact, wrong;
  for (const double bytes : {1000., 2000., 4000.}) {
    observe(exact, 0, 0, bytes, 2 + bytes / 1000);
    observe(wrong, 0, 0, bytes, 2 + bytes / 1000);
  }
  for (std::size_t i = 1; i < 30; ++i) {
    observe(exact, i, 0, 1500, 3.5);
    observe(wrong, i, 0, 1500, i % 2 == 0 ? 3.5 : 14);
  }
  EXPECT_LT(exact.margin(), 1.6);
  EXPECT_GT(wrong.margin(), 4);
  EXPECT_TRUE(exact.hopeless(0, 0, 3000, 2.5));
  EXPECT_FALSE(wrong.hopeless(0, 0, 3000, 2.5)) << "predictions that are often wrong prune less";
  EXPECT_FALSE(exact.hopeless(0, 0, 3000, 4.5));
  EXPECT_FALSE(exact.hopeless(0, 9, 3000, 0.1)) << "nothing is known of it";
}

}  // namespace
}  // namespace arbiter::tuning
