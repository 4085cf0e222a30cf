// Decisions computed anew from trials: those of the tuner, and the same in whatever order databases were merged.
#include "arbiter/tuner/recompute.hpp"

#include <gtest/gtest.h>

#include "arbiter/db/contents.hpp"
#include "db/random_contents.hpp"
#include "oracle/seed.hpp"

namespace arbiter::test {
namespace {

const RecomputeDecisions recompute = [](WorkDatabase& database, const Environment& environment) {
  recompute_decisions(database, environment);
};

Candidate candidate(const std::string& algorithm) {
  return {Backend::trtllm, algorithm, "trtllm/" + algorithm, Numerics::rank_order_fp32, "feed"};
}

Trial trial(std::int64_t tokens, const Candidate& candidate, TrialStatus status, double us) {
  Trial trial{example_problem(tokens), candidate, status, status == TrialStatus::done ? "" : "why not", 50, 16, {}};
  for (int i = 0; i < 12 && us > 0; ++i) trial.samples_us.push_back(us * (1 + 0.001 * i));
  return trial;
}

void store(WorkDatabase& database, const std::string& run, const Trial& trial) {
  database.begin_trial(run, example_environment(), trial.problem, trial.candidate);
  if (trial.status != TrialStatus::running) database.finish_trial(run, example_environment(), trial);
}

class Recompute : public ::testing::Test {
 protected:
  std::string begin(const std::string& id, std::int64_t started) {
    arbiter::Run run;
    run.id = id;
    run.started = started;
    return database.begin_run(example_environment(), run);
  }
  std::vector<Decision> decisions() {
    recompute_decisions(database, example_environment());
    const std::vector<DecisionSet> sets = database.decisions();
    return sets.empty() ? std::vector<Decision>{} : sets.front().decisions;
  }

  ScratchDirectory scratch;
  WorkDatabase database = WorkDatabase::open(scratch / "work.db");
  const Candidate one = candidate("oneshot_push"), two = candidate("twoshot_push");
};

TEST_F(Recompute, GivesWhatTheTunerDecidesFromTheSameSamples) {
  const std::string run = begin("a", 1);
  std::vector<SizeResult> sizes;
  for (const std::int64_t tokens : {1, 8, 64}) {
    SizeResult size{tokens, {}};
    for (const Trial& measured :
         {trial(tokens, one, TrialStatus::done, tokens < 64 ? 2 : 9), trial(tokens, two, TrialStatus::done, 4),
          trial(tokens, nccl_candidate(), TrialStatus::done, 8)}) {
      store(database, run, measured);
      size.candidates.push_back(
          {measured.candidate, measured.blocks, summarise(measured.samples_us, tuning::seed_of(measured.problem, 0))});
    }
    sizes.push_back(size);
  }
  const Problem any = example_problem();
  const ProblemFamily family{any.pattern, any.dtype, any.hidden, 64, any.mode};
  const std::vector<Decision> found = decisions();
  EXPECT_EQ(found, decide(family, any.world, sizes, {}));
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].candidate, one);
  EXPECT_EQ(found[1].candidate, two);
  EXPECT_EQ(found[1].tokens_max, 64);
}

TEST_F(Recompute, TheLatestTrialCountsUnlessItIsStillRunning) {
  const std::string first = begin("a", 1);
  store(database, first, trial(8, one, TrialStatus::done, 2));
  store(database, first, trial(8, two, TrialStatus::done, 4));
  EXPECT_EQ(decisions().front().candidate, one);
  const std::string second = begin("b", 2);
  store(database, second, trial(8, one, TrialStatus::running, 0));
  EXPECT_EQ(decisions().front().candidate, one);
  database.finish_trial(second, example_environment(), trial(8, one, TrialStatus::wrong, 0));
  EXPECT_EQ(decisions().front().candidate, two) << "a candidate that was wrong the last time won";
}

TEST_F(Recompute, EarlierDecisionsNeitherStayNorCount) {
  const std::string run = begin("a", 1);
  Candidate noisy = two;
  store(database, run, trial(8, one, TrialStatus::done, 2));
  store(database, run, trial(8, noisy, TrialStatus::done, 2.001));
  const std::vector<Decision> fresh = decisions();
  std::vector<Decision> incumbent = fresh;
  incumbent.front().candidate = noisy;
  incumbent.front().runner_up.reset();
  incumbent.front().runner_up_median_us = 0;
  database.replace_decisions(example_environment(), incumbent);
  EXPECT_EQ(decisions(), fresh);
  database.forget(run, recompute);
  EXPECT_TRUE(database.decisions().empty());
  EXPECT_TRUE(database.contents().empty());
}

TEST(RecomputeAfterMerge, DecidesAlikeInAnyOrder) {
  std::size_t compared = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const ScratchDirectory scratch;
    RandomContents random(seed);
    WorkDatabase::open(scratch / "a.db").merge(random.next(), recompute);
    WorkDatabase::open(scratch / "b.db").merge(random.next(), recompute);
    merge(scratch / "ab.db", {scratch / "a.db", scratch / "b.db"}, recompute);
    merge(scratch / "b.db", {scratch / "a.db"}, recompute);
    merge(scratch / "a.db", {scratch / "ab.db"}, recompute);
    const Contents ab = read_contents(scratch / "ab.db");
    ASSERT_EQ(ab, read_contents(scratch / "b.db"));
    ASSERT_EQ(ab, read_contents(scratch / "a.db"));
    for (const auto& [key, list] : ab.decisions) compared += list.size();
  }
  EXPECT_GT(compared, 30U);
}

}  // namespace
}  // namespace arbiter::test
