// The best NCCL configuration by message size, from trials.
#include "arbiter/tuner/nccl_choices.hpp"

#include <gtest/gtest.h>

#include "arbiter/db/nccl_configuration.hpp"
#include "arbiter/tuner/recompute.hpp"
#include "db/fixtures.hpp"

namespace arbiter::test {
namespace {

constexpr std::int64_t row = 8192 * 2;  // bytes of a row of the example problem

Candidate classic(const std::string& parameters) {
  Candidate candidate = nccl_candidate();
  if (!parameters.empty()) candidate.name += ":" + parameters;
  return candidate;
}

class NcclChoices : public ::testing::Test {
 protected:
  NcclChoices() {
    arbiter::Run begun;
    begun.id = "run";
    run = database.begin_run(example_environment(), begun);
  }

  static Problem plain(std::int64_t tokens, Mode mode = Mode::graph) {
    Problem problem = example_problem(tokens);
    problem.pattern = "allreduce";
    problem.mode = mode;
    return problem;
  }

  void measured(const Problem& problem, const Candidate& candidate, double us, TrialStatus status = TrialStatus::done) {
    Trial trial{problem, candidate, status, status == TrialStatus::done ? "" : "why", 10, 0, {}};
    for (int i = 0; i < 12; ++i) trial.samples_us.push_back(us * (1 + 0.0005 * i));
    database.begin_trial(run, example_environment(), problem, candidate);
    database.finish_trial(run, example_environment(), trial);
  }

  std::vector<NcclChoice> choices() { return nccl_choices(database, example_environment()); }

  ScratchDirectory scratch;
  WorkDatabase database = WorkDatabase::open(scratch / "work.db");
  std::string run;
  const Candidate own = classic("");
  const Candidate ring = classic("algo=ring,channels=8,proto=ll128");
  const Candidate tree = classic("algo=tree,channels=4,proto=ll");
};

TEST_F(NcclChoices, AreCutWhereTheWinnerChanges) {
  for (const std::int64_t tokens : {1, 2, 8, 16}) {
    measured(plain(tokens), own, 10);
    measured(plain(tokens), tree, tokens < 8 ? 7 : 12);
    measured(plain(tokens), ring, tokens < 8 ? 9 : 8);
    measured(plain(tokens), example_candidate(), 1);  // not NCCL
  }
  const std::vector<NcclChoice> found = choices();
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].candidate, tree);
  EXPECT_EQ(found[0].world, 4);
  EXPECT_EQ(found[0].bytes_min, 1);
  EXPECT_EQ(found[0].bytes_max, boundary(2 * row, 8 * row));
  EXPECT_EQ(found[1].candidate, ring);
  EXPECT_EQ(found[1].bytes_min, found[0].bytes_max + 1);
  EXPECT_EQ(found[1].bytes_max, 16 * row) << "nothing is claimed above what was measured";
  EXPECT_NEAR(found[1].median_us, 8, 0.1);
  EXPECT_EQ(found[1].forced, ring);
}

TEST_F(NcclChoices, NcclsOwnChoiceStaysUnlessItIsBeatenBeyondNoise) {
  measured(plain(1), own, 10);
  measured(plain(1), ring, 9.95);
  measured(plain(1), tree, 9.99);
  const std::vector<NcclChoice> found = choices();
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].candidate, own);
  ASSERT_TRUE(found[0].forced);
  EXPECT_TRUE(nccl_configuration(*found[0].forced)->complete());
  EXPECT_NEAR(found[0].forced_median_us, 9.97, 0.1);
}

TEST_F(NcclChoices, AConfigurationThatLeavesTheChannelsOpenIsNotForced) {
  measured(plain(1), own, 10);
  measured(plain(1), classic("algo=ring,proto=ll"), 5);
  measured(plain(1), ring, 7);
  const std::vector<NcclChoice> found = choices();
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].candidate.name, "nccl/classic:algo=ring,proto=ll");
  EXPECT_EQ(found[0].forced, ring);
}

TEST_F(NcclChoices, KeepTheNeighbourWithinNoise) {
  for (const std::int64_t tokens : {1, 2}) {
    measured(plain(tokens), own, 10);
    measured(plain(tokens), ring, tokens == 1 ? 7 : 7.04);
    measured(plain(tokens), tree, tokens == 1 ? 8 : 7.0);
  }
  ASSERT_EQ(choices().size(), 1U);
  EXPECT_EQ(choices()[0].candidate, ring);
}

TEST_F(NcclChoices, ComeFromFinishedOutOfPlacePlainTrialsInGraphMode) {
  measured(plain(1), tree, 3, TrialStatus::wrong);
  Problem fused = example_problem(1);
  measured(fused, tree, 1);
  Problem in_place = plain(1);
  in_place.in_place = true;
  measured(in_place, tree, 1);
  Candidate symmetric = own;
  symmetric.algorithm = "symmetric";
  symmetric.name = "nccl/symmetric";
  measured(plain(1), symmetric, 1);
  EXPECT_TRUE(choices().empty());
  measured(plain(1, Mode::eager), tree, 3);
  ASSERT_EQ(choices().size(), 1U) << "eager if nothing else was measured";
  EXPECT_EQ(choices()[0].candidate, tree);
  measured(plain(1), own, 30);
  ASSERT_EQ(choices().size(), 1U);
  EXPECT_EQ(choices()[0].candidate, own);
}

TEST_F(NcclChoices, EqualBytesAreOneSize) {
  Problem wide = plain(1);
  wide.hidden = 4096;
  wide.dtype = Dtype::fp32;  // the same number of bytes
  measured(plain(1), own, 10);
  measured(wide, ring, 5);
  ASSERT_EQ(choices().size(), 1U);
  EXPECT_EQ(choices()[0].candidate, ring);
}

TEST_F(NcclChoices, AreRecomputedWithTheDecisions) {
  measured(plain(1), own, 10);
  measured(plain(1), ring, 5);
  database.replace_nccl_choices(example_environment(), {{2, 1, 2, tree, 1, {}, 0}});  // from nowhere
  recompute_decisions(database, example_environment());
  ASSERT_EQ(database.decisions().size(), 1U);
  EXPECT_EQ(database.decisions()[0].nccl, choices());
  EXPECT_EQ(choices()[0].candidate, ring);
}

}  // namespace
}  // namespace arbiter::test
