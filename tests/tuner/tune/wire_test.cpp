// What ranks tell each other about trials and decisions, and what is no such text.
#include "tune/wire.hpp"

#include <gtest/gtest.h>

#include <string>

#include "arbiter/error.hpp"

namespace arbiter::tuning {
namespace {

TEST(Wire, DeepOrBrokenTextIsADisagreement) {
  for (const std::string& text :
       {std::string(), std::string("{}"), std::string("[1]"), std::string("[{}]"), std::string(100'000, '['),
        "[{\"candidate\": " + std::string(100'000, '['), "[" + std::string(100'000, '{'), std::string("[[[[[]]]]]")}) {
    EXPECT_THROW(trials_from_text(text, {}), Disagreement) << text.substr(0, 40);
    EXPECT_THROW(decisions_from_text(text), Disagreement) << text.substr(0, 40);
  }
}

TEST(Wire, TrialsComeBackAsTheyWere) {
  Problem problem;
  problem.pattern = "allreduce";
  problem.hidden = 8;
  problem.tokens = 1;
  problem.world = 2;
  Trial trial;
  trial.problem = problem;
  trial.candidate = {Backend::nccl, "classic", "nccl/classic", Numerics::nccl, ""};
  trial.status = TrialStatus::done;
  trial.samples_us = {1.5, 5e-324, 0, 1e300};
  trial.use = {64, 8};
  const std::vector<Trial> back = trials_from_text(to_text(std::vector<Trial>{trial}), problem);
  ASSERT_EQ(back.size(), 1U);
  EXPECT_EQ(back[0].candidate, trial.candidate);
  EXPECT_EQ(back[0].samples_us, trial.samples_us);
  EXPECT_EQ(back[0].use, trial.use);
}

TEST(Wire, DecisionsComeBackAsTheyWere) {
  Decision alone;
  alone.pattern = "allreduce_residual";
  alone.dtype = Dtype::fp16;
  alone.hidden = 8;
  alone.world = 2;
  alone.mode = Mode::eager;
  alone.tokens_min = 3;
  alone.tokens_max = std::int64_t{1} << 40;
  alone.candidate = {Backend::mnnvl, "oneshot_push", "mnnvl/oneshot_push:threads=64", Numerics::rank_order_fp32, "abc"};
  alone.median_us = 1.25;
  Decision ahead = alone;
  ahead.mode = Mode::graph;
  ahead.runner_up = {Backend::nccl, "classic", "nccl/classic", Numerics::nccl, ""};
  ahead.runner_up_median_us = 5e-324;
  ahead.measured_tokens = 64;
  ahead.use = {64, 0};
  ahead.runner_up_use = {32, 8};
  const std::vector<Decision> both{alone, ahead};
  EXPECT_EQ(decisions_from_text(to_text(both)), both);
}

TEST(Wire, ADecisionWithoutOneOfItsFieldsIsADisagreement) {
  const std::string text =
      to_text(std::vector<Decision>{Decision{.pattern = "allreduce", .candidate = {}, .runner_up = {}}});
  for (const char* field : {"mode", "world", "dtype", "pattern", "hidden", "tokens_min", "tokens_max", "candidate",
                            "source_hash", "median_us", "measured_tokens", "registers"}) {
    std::string other = text;
    const std::size_t at = other.find('"' + std::string(field) + '"');
    ASSERT_NE(at, std::string::npos) << field;
    other[at + 1] = 'X';
    EXPECT_THROW(decisions_from_text(other), Disagreement) << field;
  }
}

}  // namespace
}  // namespace arbiter::tuning
