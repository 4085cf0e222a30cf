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
  const std::vector<Trial> back = trials_from_text(to_text(std::vector<Trial>{trial}), problem);
  ASSERT_EQ(back.size(), 1U);
  EXPECT_EQ(back[0].candidate, trial.candidate);
  EXPECT_EQ(back[0].samples_us, trial.samples_us);
}

}  // namespace
}  // namespace arbiter::tuning
