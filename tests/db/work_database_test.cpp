// Everything that goes into the work database comes out again.
#include "arbiter/db/database.hpp"

#include <cmath>
#include <limits>

#include "db/fixtures.hpp"
#include "sqlite/sqlite.hpp"

namespace arbiter::test {
namespace {

class WorkDatabaseTest : public ::testing::Test {
 protected:
  ScratchDirectory scratch;
  WorkDatabase database = WorkDatabase::open(scratch / "work.db");
  Environment environment = example_environment();
  std::string run = database.begin_run(environment, {});

  void store(const Trial& trial) {
    database.begin_trial(run, environment, trial.problem, trial.candidate);
    database.finish_trial(run, environment, trial);
  }
};

void expect_equal(const Trial& a, const Trial& b) {
  EXPECT_EQ(a.problem, b.problem);
  EXPECT_EQ(a.candidate, b.candidate);
  EXPECT_EQ(a.status, b.status);
  EXPECT_EQ(a.reason, b.reason);
  EXPECT_EQ(a.calls_per_sample, b.calls_per_sample);
  EXPECT_EQ(a.blocks, b.blocks);
  EXPECT_EQ(a.samples_us, b.samples_us);
}

TEST_F(WorkDatabaseTest, AMovedDatabaseWorksOn) {
  WorkDatabase moved = std::move(database);
  EXPECT_EQ(moved.runs().size(), 1U);
  EXPECT_EQ(moved.path().filename(), "work.db");
}

TEST_F(WorkDatabaseTest, EnvironmentComesBackWhole) {
  Environment plain;  // the CPU device, as bare as it gets
  plain.device = "cpu";
  plain.multicast = true;
  database.begin_run(plain, {});
  const auto all = database.environments();
  ASSERT_EQ(all.size(), 2U);
  EXPECT_TRUE(all[0] == environment || all[1] == environment);
  EXPECT_TRUE(all[0] == plain || all[1] == plain);
}

TEST_F(WorkDatabaseTest, EveryOutcomeComesBackWhole) {
  std::vector<Trial> stored;
  int number = 0;
  for (const TrialStatus status :
       {TrialStatus::done, TrialStatus::wrong, TrialStatus::failed, TrialStatus::crashed, TrialStatus::pruned}) {
    Trial trial = done_trial(64, number++);
    trial.status = status;
    if (status != TrialStatus::done) {
      trial.reason = "rank 3 said: \"ü\"; DROP TABLE trial; --\nsecond line";
      trial.samples_us.clear();
    }
    store(trial);
    stored.push_back(trial);
  }
  for (const Trial& trial : stored) {
    const auto found = database.trial(environment, trial.problem, trial.candidate);
    ASSERT_TRUE(found) << to_string(trial.status);
    expect_equal(*found, trial);
  }
  const auto all = database.trials(environment, example_problem());
  ASSERT_EQ(all.size(), stored.size());
  for (std::size_t i = 0; i < all.size(); ++i) expect_equal(all[i], stored[i]);  // candidate names are in order
}

TEST_F(WorkDatabaseTest, TrialsAreKeptApartByEverythingInTheirKey) {
  const Trial trial = done_trial();
  store(trial);
  EXPECT_FALSE(database.trial(environment, example_problem(65), trial.candidate));
  EXPECT_FALSE(database.trial(environment, trial.problem, example_candidate(1)));
  EXPECT_FALSE(database.trial(other_environment(), trial.problem, trial.candidate));
  Problem in_place = trial.problem;
  in_place.in_place = true;
  EXPECT_FALSE(database.trial(environment, in_place, trial.candidate));
  Candidate other_source = trial.candidate;
  other_source.source_hash = "changed";
  EXPECT_FALSE(database.trial(environment, trial.problem, other_source));
}

TEST_F(WorkDatabaseTest, ARunningTrialIsNotAResult) {
  database.begin_trial(run, environment, example_problem(), example_candidate());
  EXPECT_FALSE(database.trial(environment, example_problem(), example_candidate()));
  const auto all = database.trials(environment, example_problem());
  ASSERT_EQ(all.size(), 1U);
  EXPECT_EQ(all[0].status, TrialStatus::running);
}

TEST_F(WorkDatabaseTest, ATrialThatIsNotDoneIsReplaced) {
  Trial trial = done_trial();
  trial.status = TrialStatus::failed;
  trial.reason = "out of memory";
  trial.samples_us = {1.0, 2.0};
  store(trial);
  store(done_trial());
  const auto all = database.trials(environment, trial.problem);
  ASSERT_EQ(all.size(), 1U);
  expect_equal(all[0], done_trial());
}

TEST_F(WorkDatabaseTest, ADoneTrialIsNeverLost) {
  store(done_trial());
  Trial again = done_trial();
  again.samples_us = {9.0};
  store(again);
  const auto found = database.trial(environment, again.problem, again.candidate);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->samples_us, again.samples_us) << "the latest counts";
  EXPECT_EQ(database.trials(environment, again.problem).size(), 1U);
  // A third attempt that turns out wrong is the news about this candidate, and still nothing is deleted.
  Trial wrong = done_trial();
  wrong.status = TrialStatus::wrong;
  wrong.reason = "element 7";
  wrong.samples_us.clear();
  store(wrong);
  EXPECT_EQ(database.trial(environment, wrong.problem, wrong.candidate)->status, TrialStatus::wrong);
  db::Connection raw = db::Connection::open(database.path(), db::Access::read, "raw");
  EXPECT_EQ(raw.integer("SELECT count(*) FROM trial"), 3);
  EXPECT_EQ(raw.integer("SELECT count(*) FROM sample"), 6) << "five of the first, one of the second";
}

TEST_F(WorkDatabaseTest, ProblemsAreThoseOfTheEnvironment) {
  store(done_trial(64));
  store(done_trial(128));
  EXPECT_EQ(database.problems(environment), (std::vector<Problem>{example_problem(64), example_problem(128)}));
  EXPECT_TRUE(database.problems(other_environment()).empty());
}

TEST_F(WorkDatabaseTest, RunsKeepTheirProvenance) {
  arbiter::Run given{.id = "my-run",
                     .host = "node7",
                     .command = "arbiter tune --gpus '0-3'",
                     .started = 1'700'000'000,
                     .finished = 0,
                     .sm_clock_start_mhz = 1980,
                     .sm_clock_end_mhz = 0,
                     .power_start_watts = 100,
                     .power_end_watts = 0,
                     .clocks_dropped = false};
  EXPECT_EQ(database.begin_run(environment, given), "my-run");
  given.finished = 1'700'000'100;
  given.sm_clock_end_mhz = 1500;
  given.power_end_watts = 690;
  given.clocks_dropped = true;
  database.finish_run("my-run", given);
  const auto runs = database.runs();
  ASSERT_EQ(runs.size(), 2U);
  const arbiter::Run& stored = runs[0];  // the fixture's run started later
  EXPECT_EQ(stored.id, given.id);
  EXPECT_EQ(stored.host, given.host);
  EXPECT_EQ(stored.command, given.command);
  EXPECT_EQ(stored.started, given.started);
  EXPECT_EQ(stored.finished, given.finished);
  EXPECT_EQ(stored.sm_clock_start_mhz, 1980);
  EXPECT_EQ(stored.sm_clock_end_mhz, 1500);
  EXPECT_EQ(stored.power_start_watts, 100);
  EXPECT_EQ(stored.power_end_watts, 690);
  EXPECT_TRUE(stored.clocks_dropped);
  EXPECT_EQ(runs[1].id.size(), 36U) << "an id is made when none is given";
  EXPECT_GT(runs[1].started, 1'700'000'000);
}

TEST_F(WorkDatabaseTest, RunsMustExistAndBeNew) {
  arbiter::Run again;
  again.id = run;
  EXPECT_CONTAINS(message_of([&] { database.begin_run(environment, again); }), "exists already");
  EXPECT_CONTAINS(message_of([&] { database.finish_run("nothing", {}); }), "no run 'nothing'");
  EXPECT_CONTAINS(
      message_of([&] { database.begin_trial("nothing", environment, example_problem(), example_candidate()); }),
      "no run 'nothing'");
  EXPECT_CONTAINS(
      message_of([&] { database.begin_trial(run, other_environment(), example_problem(), example_candidate()); }),
      "another environment");
  EXPECT_TRUE(database.problems(environment).empty()) << "a refused trial leaves nothing";
}

TEST_F(WorkDatabaseTest, TrialsAreRecordedTogetherOrNotAtAll) {
  Trial pruned = done_trial();
  pruned.status = TrialStatus::pruned;
  pruned.reason = "screened";
  store(pruned);
  Trial other = done_trial(64, 1), nonsense = done_trial(64, 2);
  nonsense.samples_us.push_back(std::nan(""));
  EXPECT_CONTAINS(message_of([&] {
                    database.record_trials(run, environment, {done_trial(), other, nonsense});
                  }),
                  "finite");
  Trial elsewhere = other;
  elsewhere.status = TrialStatus::running;
  EXPECT_CONTAINS(message_of([&] { database.record_trials(run, environment, {done_trial(), elsewhere}); }), "running");
  EXPECT_CONTAINS(message_of([&] { database.record_trials("nobody", environment, {done_trial()}); }), "begin_run");
  ASSERT_EQ(database.trials(environment, example_problem()).size(), 1U);
  expect_equal(database.trials(environment, example_problem()).front(), pruned);

  database.record_trials(run, environment, {done_trial(), other});
  const auto all = database.trials(environment, example_problem());
  ASSERT_EQ(all.size(), 2U);
  expect_equal(all[0], done_trial());
  expect_equal(all[1], other);
}

TEST_F(WorkDatabaseTest, OnlyABegunTrialCanBeFinished) {
  EXPECT_CONTAINS(message_of([&] { database.finish_trial(run, environment, done_trial()); }), "begin_trial");
  store(done_trial());
  EXPECT_CONTAINS(message_of([&] { database.finish_trial(run, environment, done_trial()); }), "begin_trial");
  database.begin_trial(run, environment, example_problem(), example_candidate());
  Trial trial = done_trial();
  trial.status = TrialStatus::running;
  EXPECT_CONTAINS(message_of([&] { database.finish_trial(run, environment, trial); }), "'running'");
}

TEST_F(WorkDatabaseTest, NonsenseIsNotStored) {
  database.begin_trial(run, environment, example_problem(), example_candidate());
  const auto refused = [&](auto&& spoil, const char* part) {
    Trial trial = done_trial();
    spoil(trial);
    EXPECT_CONTAINS(message_of([&] { database.finish_trial(run, environment, trial); }), part);
  };
  refused([](Trial& t) { t.samples_us.push_back(std::nan("")); }, "finite");
  refused([](Trial& t) { t.samples_us.push_back(HUGE_VAL); }, "finite");
  refused([](Trial& t) { t.samples_us.push_back(-1.0); }, "finite");
  refused([](Trial& t) { t.samples_us.clear(); }, "no samples");
  refused([](Trial& t) { t.blocks = -1; }, "blocks");
  refused([](Trial& t) { t.reason = "\xff"; }, "UTF-8");
  database.finish_trial(run, environment, done_trial());  // none of them spoiled the trial

  Problem problem = example_problem();
  problem.tokens = 0;
  EXPECT_CONTAINS(message_of([&] { database.begin_trial(run, environment, problem, example_candidate()); }), "tokens");
  Candidate candidate = example_candidate();
  candidate.numerics = Numerics::multimem;
  EXPECT_CONTAINS(message_of([&] { database.begin_trial(run, environment, example_problem(), candidate); }),
                  "numerics class");
  candidate = example_candidate();
  candidate.backend = Backend::automatic;
  EXPECT_CONTAINS(message_of([&] { database.begin_trial(run, environment, example_problem(), candidate); }), "auto");
  Environment strange = environment;
  strange.nccl_variables["NCCL_X"] = std::string("a\0b", 3);
  EXPECT_CONTAINS(message_of([&] { database.begin_run(strange, {}); }), "NUL");
}

TEST_F(WorkDatabaseTest, DecisionsComeBackInOrder) {
  auto decisions = example_decisions(100);
  auto shuffled = decisions;
  std::reverse(shuffled.begin(), shuffled.end());
  database.replace_decisions(environment, shuffled);
  const auto sets = database.decisions();
  ASSERT_EQ(sets.size(), 1U);
  EXPECT_EQ(sets[0].environment, environment);
  EXPECT_EQ(sets[0].decisions, decisions);
}

TEST_F(WorkDatabaseTest, ReplacingDecisionsTouchesOneEnvironmentOnly) {
  database.replace_decisions(environment, example_decisions(5));
  database.replace_decisions(other_environment(), example_decisions(7));
  database.replace_decisions(environment, example_decisions(3));
  for (const DecisionSet& set : database.decisions()) {
    EXPECT_EQ(set.decisions.size(), set.environment == environment ? 3U : 7U);
  }
  database.replace_decisions(environment, {});
  ASSERT_EQ(database.decisions().size(), 1U) << "an environment without decisions is left out";
}

TEST_F(WorkDatabaseTest, ReplacingDecisionsIsAllOrNothing) {
  database.replace_decisions(environment, example_decisions(5));
  auto bad = example_decisions(4);
  // Passes every check of its own; the collision is found only when it is inserted after the others.
  bad[3].candidate.algorithm = "another";
  bad[3].candidate.name = bad[0].candidate.name;
  bad[3].candidate.source_hash = bad[0].candidate.source_hash;
  EXPECT_CONTAINS(message_of([&] { database.replace_decisions(environment, bad); }), "another backend");
  ASSERT_EQ(database.decisions().size(), 1U);
  EXPECT_EQ(database.decisions()[0].decisions, example_decisions(5));
}

TEST_F(WorkDatabaseTest, DecisionsThatMakeNoSenseAreRefused) {
  const auto refused = [&](auto&& spoil, const char* part) {
    auto decisions = example_decisions(32);
    spoil(decisions);
    EXPECT_CONTAINS(message_of([&] { database.replace_decisions(environment, decisions); }), part);
  };
  refused([](auto& d) { d[0].tokens_max = d[1].tokens_min; }, "overlaps");
  refused([](auto& d) { d[1].tokens_min = d[0].tokens_min; }, "overlaps");
  refused([](auto& d) { d[0].tokens_min = 0; }, "tokens_min");
  refused([](auto& d) { d[0].tokens_max = 0; }, "tokens_max");
  refused([](auto& d) { d[0].median_us = std::nan(""); }, "median_us");
  refused([](auto& d) { d[0].median_us = HUGE_VAL; }, "median_us");
  refused([](auto& d) { d[0].runner_up_median_us = -1; }, "runner_up_median_us");
  refused([](auto& d) { d[0].runner_up.reset(); }, "no runner_up");
  refused([](auto& d) { d[0].hidden = 0; }, "hidden");
  refused([](auto& d) { d[0].world = 0; }, "world");
  refused([](auto& d) { d[0].pattern.clear(); }, "pattern");
  refused([](auto& d) { d[0].candidate.name.clear(); }, "name");
  EXPECT_TRUE(database.decisions().empty());
}

TEST_F(WorkDatabaseTest, AnOpenEndedIntervalIsLegal) {
  auto decisions = example_decisions(1);
  decisions[0].tokens_max = std::numeric_limits<std::int64_t>::max();
  database.replace_decisions(environment, decisions);
  ASSERT_EQ(database.decisions().size(), 1U);
  EXPECT_EQ(database.decisions()[0].decisions, decisions);
}

TEST_F(WorkDatabaseTest, EverythingIsThereAfterReopening) {
  store(done_trial());
  database.replace_decisions(environment, example_decisions());
  const auto path = database.path();
  { WorkDatabase closing = std::move(database); }
  database = WorkDatabase::open(path);
  EXPECT_TRUE(database.trial(environment, example_problem(), example_candidate()));
  ASSERT_EQ(database.decisions().size(), 1U);
  EXPECT_EQ(database.decisions()[0].decisions, example_decisions());
  EXPECT_EQ(database.runs().size(), 1U);
}

}  // namespace
}  // namespace arbiter::test
