// Why a candidate won or lost, from the trials in a database.
#include "arbiter/tuner/inspect.hpp"

#include <gtest/gtest.h>

#include "arbiter/tuner/recompute.hpp"
#include "db/fixtures.hpp"

namespace arbiter {
namespace {

class Inspect : public ::testing::Test {
 protected:
  Inspect() : database(WorkDatabase::open(scratch / "work.db")) { begin("first", 1000); }

  void begin(const std::string& id, std::int64_t started) {
    arbiter::Run stored;  // testing::Test has a Run() of its own
    stored.id = run = id;
    stored.started = started;
    database.begin_run(environment, stored);
  }

  static Candidate candidate(const std::string& name, Numerics numerics = Numerics::rank_order_fp32) {
    Candidate made = numerics == Numerics::nccl ? test::nccl_candidate() : test::example_candidate();
    made.name = start_of(made) + name;
    made.numerics = numerics;
    return made;
  }

  static std::string start_of(const Candidate& of) {
    return std::string(to_string(of.backend)) + "/" + of.algorithm + ":";
  }
  /// What the test called it.
  static std::string short_name(const Candidate& of) { return of.name.substr(start_of(of).size()); }

  /// Samples within `spread` of `us`.
  void timed(const Candidate& what, double us, int blocks = 16, double spread = 0.001, std::int64_t tokens = 64) {
    Trial trial = test::done_trial(tokens);
    trial.candidate = what;
    trial.blocks = blocks;
    trial.samples_us.clear();
    for (int i = -10; i <= 10; ++i) trial.samples_us.push_back(us * (1 + spread * i / 10));
    store(trial);
  }

  void untimed(const Candidate& what, TrialStatus status, const std::string& reason) {
    Trial trial = test::done_trial();
    trial.candidate = what;
    trial.status = status;
    trial.reason = reason;
    trial.samples_us.clear();
    store(trial);
  }

  void store(const Trial& trial) {
    database.begin_trial(run, environment, trial.problem, trial.candidate);
    if (trial.status != TrialStatus::running) database.finish_trial(run, environment, trial);
  }

  Inspection look(std::int64_t tokens = 64) {
    recompute_decisions(database, environment);
    return look_at_what_is_stored(tokens);
  }

  Inspection look_at_what_is_stored(std::int64_t tokens) {
    contents = database.contents();
    trials = problem_trials(contents, environment.key());
    for (const ProblemTrials& problem : trials) {
      if (problem.problem.tokens == tokens) return inspect(contents, environment.key(), problem);
    }
    ADD_FAILURE() << "no problem of " << tokens << " tokens";
    return {};
  }

  static std::string verdict(const Inspection& inspection, const std::string& name) {
    for (const InspectedCandidate& c : inspection.candidates) {
      if (short_name(*c.latest.candidate) == name) return c.verdict;
    }
    return "not there";
  }

  test::ScratchDirectory scratch;
  Environment environment = test::example_environment();
  WorkDatabase database;
  std::string run;
  Contents contents;
  std::vector<ProblemTrials> trials;
};

TEST_F(Inspect, BandwidthsAreThoseOfNcclTests) {
  Problem problem = test::example_problem(1024);  // 1024 x 8192 bf16 = 16 MiB, 4 ranks
  EXPECT_DOUBLE_EQ(algorithm_bandwidth(problem, 100), 16777216 / 100e-6);
  EXPECT_DOUBLE_EQ(bus_bandwidth(problem, 100), 16777216 / 100e-6 * 1.5);
  problem.world = 2;
  EXPECT_DOUBLE_EQ(bus_bandwidth(problem, 100), algorithm_bandwidth(problem, 100));
}

TEST_F(Inspect, OrderedFromTheWinnerToWhatWasNotTimed) {
  untimed(candidate("a"), TrialStatus::wrong, "rank 1, element 3");
  timed(candidate("slow"), 9);
  timed(candidate("fast"), 3);
  timed(candidate("middle"), 6);
  untimed(candidate("b"), TrialStatus::pruned, "");
  const Inspection inspection = look();
  std::vector<std::string> names;
  for (const InspectedCandidate& c : inspection.candidates) names.push_back(short_name(*c.latest.candidate));
  EXPECT_EQ(names, (std::vector<std::string>{"fast", "middle", "slow", "a", "b"}));
  ASSERT_NE(inspection.decision, nullptr);
  EXPECT_TRUE(inspection.candidates[0].winner);
  EXPECT_FALSE(inspection.candidates[1].winner);
  EXPECT_NEAR(inspection.candidates[2].slower_percent, 200, 1e-9);
  EXPECT_EQ(verdict(inspection, "fast"), "winner: fastest beyond noise");
  EXPECT_EQ(verdict(inspection, "middle"), "slower by 100.0%");
  EXPECT_EQ(verdict(inspection, "a"), "wrong result: rank 1, element 3");
  EXPECT_EQ(verdict(inspection, "b"), "screened out");
}

TEST_F(Inspect, ScreenedCandidatesSayByHowMuchTheyLost) {
  timed(candidate("fast"), 3);
  timed(candidate("slow"), 9);
  Trial trial = test::done_trial();
  trial.candidate = candidate("screened");
  trial.status = TrialStatus::pruned;
  trial.reason = "screened";
  trial.samples_us = {4.4, 4.5, 4.6};
  store(trial);
  const Inspection inspection = look();
  ASSERT_EQ(inspection.candidates.size(), 3U);
  const InspectedCandidate& last = inspection.candidates[2];  // behind the finalists, although one of them is slower
  EXPECT_EQ(short_name(*last.latest.candidate), "screened");
  EXPECT_TRUE(last.screened);
  ASSERT_TRUE(last.summary);
  EXPECT_EQ(last.summary->samples, 3U);
  EXPECT_NEAR(last.slower_percent, 50, 1e-9);
  EXPECT_EQ(last.verdict, "screened out: slower by 50.0% after 3 samples");
  EXPECT_EQ(verdict(inspection, "fast"), "winner: fastest beyond noise");
}

TEST_F(Inspect, ALossyCandidateShowsItsErrorBesideItsTime) {
  timed(candidate("exact"), 3);
  Trial trial = test::done_trial();
  trial.candidate = candidate("lossy", Numerics::fp8_transport);
  trial.reason = "relative L2 error 0.0213";
  trial.samples_us = {8.9, 9, 9.1};
  store(trial);
  const Inspection inspection = look();
  EXPECT_EQ(verdict(inspection, "lossy"), "slower by 200.0%; relative L2 error 0.0213");
  EXPECT_EQ(verdict(inspection, "exact"), "winner: fastest beyond noise");
}

TEST_F(Inspect, WithinNoiseSaysWhichRuleDecided) {
  timed(candidate("best"), 3.00, 16);
  timed(candidate("blocks"), 2.99, 32);
  timed(candidate("nccl/classic", Numerics::nccl), 2.98, 0);
  timed(candidate("hair"), 3.01, 16);
  const Inspection inspection = look();
  EXPECT_EQ(verdict(inspection, "best"), "winner: fastest with 3 others within noise, by numerics, then blocks");
  EXPECT_EQ(verdict(inspection, "blocks"), "tie: takes 32 blocks, not 16");
  EXPECT_EQ(verdict(inspection, "nccl/classic"), "tie: less strict numerics: nccl");
  EXPECT_EQ(verdict(inspection, "hair"), "tie: slower by a hair");
}

TEST_F(Inspect, WhatWasDecidedBeforeIsKept) {
  timed(candidate("many"), 3.01, 64);
  timed(candidate("few"), 3.00, 8);
  ASSERT_EQ(look().decision->candidate, candidate("few"));
  std::vector<Decision> before = contents.decisions.begin()->second;
  before.front().candidate = candidate("many");
  database.replace_decisions(environment, before);
  const Inspection inspection = look_at_what_is_stored(64);
  EXPECT_EQ(verdict(inspection, "many"), "winner: within noise of the fastest, and decided before");
  EXPECT_EQ(verdict(inspection, "few"), "tie: what was decided before is kept");
}

TEST_F(Inspect, TheLatestTrialThatEndedCounts) {
  timed(candidate("one"), 9);
  timed(candidate("other"), 5);
  begin("second", 2000);
  timed(candidate("one"), 3);
  EXPECT_EQ(verdict(look(), "one"), "winner: fastest beyond noise");
  Trial trial = test::done_trial();
  trial.candidate = candidate("one");
  trial.status = TrialStatus::running;
  store(trial);
  Inspection inspection = look();
  EXPECT_EQ(verdict(inspection, "one"), "winner: fastest beyond noise");
  EXPECT_EQ(inspection.candidates.front().latest.trial->run, "second");
  trial.candidate = candidate("new");
  store(trial);
  inspection = look();
  EXPECT_NE(verdict(inspection, "new").find("not finished"), std::string::npos) << verdict(inspection, "new");
}

TEST_F(Inspect, AProblemWithoutADecisionIsNotJudged) {
  timed(candidate("one"), 9);
  look();
  contents.decisions.clear();
  const Inspection inspection = inspect(contents, environment.key(), trials.front());
  EXPECT_EQ(inspection.decision, nullptr);
  EXPECT_FALSE(inspection.candidates.front().winner);
  EXPECT_EQ(inspection.candidates.front().verdict, "timed; nothing was decided here");
}

TEST_F(Inspect, AnOlderDecisionIsNotExplainedAway) {
  timed(candidate("one"), 9);
  timed(candidate("two"), 3);
  look();
  for (auto& [key, decisions] : contents.decisions) decisions.front().candidate = candidate("one");
  const Inspection inspection = inspect(contents, environment.key(), trials.front());
  EXPECT_EQ(inspection.candidates.front().verdict, "winner: decided by other measurements than these");
  EXPECT_EQ(inspection.candidates.back().verdict, "faster by 66.7%: the decision comes from other measurements");
}

TEST_F(Inspect, FamiliesKeepUnfusedCandidatesApart) {
  Candidate fused = candidate("threads=1");
  EXPECT_EQ(family_name(fused), "trtllm/oneshot_push");
  fused.name += "+epilogue:threads=512";
  EXPECT_EQ(family_name(fused), "trtllm/oneshot_push+epilogue");
  EXPECT_EQ(family_name(test::nccl_candidate()), "nccl/classic");
}

}  // namespace
}  // namespace arbiter
