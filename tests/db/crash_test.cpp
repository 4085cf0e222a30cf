// Kill the writer at random moments: the database opens, what was finished is there, what was running is `crashed`.
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <random>
#include <thread>

#include "db/fixtures.hpp"
#include "sqlite/sqlite.hpp"

namespace arbiter::test {
namespace {

constexpr int deaths = 20;

/// What the child says it has done; it says so only after the call has returned.
struct Report {
  int begun = 0;
  int finished = 0;
};

[[noreturn]] void write_trials_forever(const std::filesystem::path& path, int first, int pipe) {
  try {
    const Environment environment = example_environment();
    WorkDatabase database = WorkDatabase::open(path);
    const std::string run = database.begin_run(environment, {});
    for (int number = first;; ++number) {
      database.begin_trial(run, environment, example_problem(), example_candidate(number));
      Report report{.begun = number + 1, .finished = number};
      if (::write(pipe, &report, sizeof report) != sizeof report) ::_exit(2);
      Trial trial = done_trial(64, number);
      trial.samples_us.assign(200, number + 0.5);
      database.finish_trial(run, environment, trial);
      report.finished = number + 1;
      if (::write(pipe, &report, sizeof report) != sizeof report) ::_exit(2);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "child: %s\n", error.what());
    ::_exit(3);
  }
}

TEST(CrashTest, NothingFinishedIsEverLost) {
  ScratchDirectory scratch;
  const auto path = scratch / "work.db";
  std::mt19937 random(20240607);
  const Environment environment = example_environment();
  int next = 0;
  int running_found = 0;
  for (int death = 0; death < deaths; ++death) {
    int pipe[2];
    ASSERT_EQ(::pipe(pipe), 0);
    const pid_t child = ::fork();
    if (child == 0) write_trials_forever(path, next, pipe[1]);
    ::close(pipe[1]);
    std::this_thread::sleep_for(std::chrono::microseconds(
        std::uniform_int_distribution<>(death % 4 == 0 ? 0 : 5'000, death % 4 == 0 ? 5'000 : 60'000)(random)));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself";
    Report last{.begun = next, .finished = next};
    for (Report report; ::read(pipe[0], &report, sizeof report) == sizeof report;) last = report;
    ::close(pipe[0]);

    if (std::filesystem::exists(path) && last.begun > 0) {
      EXPECT_NO_THROW(read_decisions(path)) << "a reader needs no writer to tidy up first";
    }
    WorkDatabase database = WorkDatabase::open(path);
    for (int number = 0; number < last.finished; ++number) {
      const auto trial = database.trial(environment, example_problem(), example_candidate(number));
      ASSERT_TRUE(trial) << "trial " << number << " was lost";
      if (trial->status == TrialStatus::done) {
        ASSERT_EQ(trial->samples_us, std::vector<double>(200, number + 0.5));
      } else {
        ASSERT_EQ(trial->status, TrialStatus::crashed);
      }
    }
    database.begin_run(environment, {});
    int running = 0;
    int done = 0;
    int crashed = 0;
    const auto trials = database.trials(environment, example_problem());
    for (const Trial& trial : trials) {
      running += trial.status == TrialStatus::running ? 1 : 0;
      done += trial.status == TrialStatus::done ? 1 : 0;
      crashed += trial.status == TrialStatus::crashed ? 1 : 0;
      EXPECT_EQ(trial.reason.empty(), trial.status == TrialStatus::done);
    }
    EXPECT_EQ(running, 0);
    EXPECT_EQ(done + crashed, static_cast<int>(trials.size()));
    // At most one trial was under way per death, and its row may have been committed but not yet reported.
    EXPECT_GE(static_cast<int>(trials.size()), last.begun);
    EXPECT_LE(static_cast<int>(trials.size()), last.begun + 1);
    EXPECT_LE(crashed, death + 1);
    running_found = crashed;
    next = static_cast<int>(trials.size());
  }
  EXPECT_GT(next, deaths) << "the children were killed before they did anything";
  EXPECT_GT(running_found, 0) << "no child was killed during a trial";
  db::Connection raw = db::Connection::open(path, db::Access::write, "raw");
  EXPECT_EQ(raw.text("PRAGMA integrity_check"), "ok");
  EXPECT_FALSE(db::Statement(raw, "PRAGMA foreign_key_check").step());
}

TEST(CrashTest, OnlyTrialsOfThisEnvironmentCrash) {
  ScratchDirectory scratch;
  WorkDatabase database = WorkDatabase::open(scratch / "work.db");
  const Environment other = other_environment();
  const std::string run = database.begin_run(other, {});
  database.begin_trial(run, other, example_problem(), example_candidate());
  database.begin_run(example_environment(), {});
  EXPECT_EQ(database.trials(other, example_problem()).at(0).status, TrialStatus::running);
  database.begin_run(other, {});
  EXPECT_EQ(database.trials(other, example_problem()).at(0).status, TrialStatus::crashed);
}

TEST(CrashTest, ACrashedTrialCanBeTriedAgain) {
  ScratchDirectory scratch;
  WorkDatabase database = WorkDatabase::open(scratch / "work.db");
  const Environment environment = example_environment();
  database.begin_trial(database.begin_run(environment, {}), environment, example_problem(), example_candidate());
  const std::string run = database.begin_run(environment, {});
  ASSERT_EQ(database.trial(environment, example_problem(), example_candidate())->status, TrialStatus::crashed);
  EXPECT_CONTAINS(message_of([&] { database.finish_trial(run, environment, done_trial()); }), "begin_trial");
  database.begin_trial(run, environment, example_problem(), example_candidate());
  database.finish_trial(run, environment, done_trial());
  EXPECT_EQ(database.trial(environment, example_problem(), example_candidate())->status, TrialStatus::done);
}

TEST(Crash, TheReasonTellsADeadWorkerFromADeadCommand) {
  ScratchDirectory scratch;
  WorkDatabase database = WorkDatabase::open(scratch / "work.db");
  const Environment environment = example_environment();
  const auto reason = [&] { return database.trial(environment, example_problem(), example_candidate())->reason; };
  arbiter::Run run;
  run.started = 1000;
  const auto begin = [&](const std::string& id) {
    database.begin_trial(id, environment, example_problem(), example_candidate());
  };
  begin(database.begin_run(environment, run));
  run.started = 2000;
  const std::string second = database.begin_run(environment, run);
  EXPECT_EQ(reason(), crashed_with_command);
  begin(second);
  const std::string third = database.begin_run(environment, run);
  EXPECT_EQ(reason(), crashed_with_command) << "however often";
  begin(third);
  run.started = 3000;
  const std::string fourth = database.begin_run(environment, run, 2001);
  EXPECT_EQ(reason(), crashed_with_command) << "it began before the command whose worker died";
  begin(fourth);
  const std::string fifth = database.begin_run(environment, run, 3000);
  EXPECT_EQ(reason(), crashed_worker);
  begin(fifth);
  database.finish_trial(fifth, environment, done_trial());
  EXPECT_EQ(reason(), "") << "an outcome replaces the note";
}

}  // namespace
}  // namespace arbiter::test
