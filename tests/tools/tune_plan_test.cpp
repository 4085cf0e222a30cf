// What `arbiter tune --dry-run` says, beside the tunes that are on record.
#include "ranks/tune_plan.hpp"

#include <gtest/gtest.h>

#include "compile/variant_options.hpp"

namespace arbiter::cli {
namespace {

TunePlan plan(int world, std::int64_t max_tokens) {
  std::vector<ProblemFamily> families;
  for (const char* pattern : {"allreduce", "allreduce_residual_rmsnorm"}) {
    families.push_back({pattern, Dtype::bf16, 8192, max_tokens, Mode::graph});
  }
  return plan_families(DeviceKind::cuda, limits_of("sm_90a"), {world}, families, {});
}

void expect_between(double estimate, double took) {
  EXPECT_LE(estimate, uncertainty * took);
  EXPECT_GE(uncertainty * estimate, took);
}

/// README.md and bench/results name the tunes: from an empty kernel cache, plain and fused. Those of 4 ranks, and of
/// two on one GPU, are of the time when results were compared on the host.
TEST(TunePlan, EstimatesLieWithinAFactorOfTwoOfTunesOnRecord) {
  const TunePlan h200 = plan(4, 8192);  // 2026-11-27-decisions-4xh200.json
  expect_between(h200.seconds, 82);
  expect_between(static_cast<double>(h200.trials), 1277);
  expect_between(static_cast<double>(h200.kernels), 184);
  expect_between(plan(2, 8192).seconds, 36);    // 2026-11-28-tune-faster-2xh200.json
  expect_between(plan(2, 2048).seconds, 46.2);  // 2026-11-24-tune-twice-2-ranks-on-1xh100.json
}

TEST(TunePlan, MoreToMeasureTakesLonger) {
  EXPECT_GT(plan(4, 8192).seconds, plan(2, 8192).seconds);
  EXPECT_GT(plan(2, 8192).seconds, plan(2, 2048).seconds);
  const std::vector<ProblemFamily> family{{"allreduce", Dtype::bf16, 8192, 8192, Mode::graph}};
  const TargetLimits limits = limits_of("sm_90a");
  const TunePlan all = plan_families(DeviceKind::cuda, limits, {2}, family, {});
  const TunePlan few = plan_families(DeviceKind::cuda, limits, {2}, family, {1, 64});
  EXPECT_EQ(few.families.front().tokens, (std::vector<std::int64_t>{1, 64})) << "and none between them";
  EXPECT_GT(all.seconds, few.seconds);
  EXPECT_GT(all.trials, few.trials);
}

TEST(TunePlan, EightBitTransportCountsWhereItIsAllowed) {
  const std::vector<ProblemFamily> family{{"allreduce", Dtype::bf16, 8192, 64, Mode::graph}};
  const auto kernels = [&](NumericsPolicy numerics) {
    return plan_families(DeviceKind::cuda, limits_of("sm_90a"), {2}, family, {}, numerics).families.front().kernels;
  };
  EXPECT_GT(kernels(NumericsPolicy::lossy), kernels(NumericsPolicy::any));
  EXPECT_GT(kernels(NumericsPolicy::any), 0U);
}

}  // namespace
}  // namespace arbiter::cli
