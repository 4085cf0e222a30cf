// A tune that is killed, at any moment: the database is sound, nothing that was finished is lost, and a resumed run
// decides what an undisturbed run decides.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <map>
#include <new>
#include <random>
#include <system_error>

#include "arbiter/error.hpp"
#include "child_process.hpp"
#include "sqlite/sqlite.hpp"
#include "tune/wire.hpp"
#include "tuner/misbehaving.hpp"
#include "tuner/modelled_tune.hpp"

namespace arbiter {
namespace {

using namespace testing;

/// Two modes, each with a change of winner that has to be bisected, and one algorithm that is wrong.
TuneOptions two_modes(const std::filesystem::path& database) {
  TuneOptions options = modelled_options(database);
  options.families = {small_family(16), small_family(16, Mode::eager)};
  options.effort.candidates = 5;
  return options;
}

CostOf cost() { return two_lines(9); }

/// Starts a tune in a process of its own.
pid_t start(const TuneOptions& options, ProgressSink* sink) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  try {
    modelled_tune(options, cost(), {}, sink);
    ::_exit(0);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "child: %s\n", error.what());
    ::_exit(1);
  }
}

using Key = std::pair<std::string, std::string>;  // problem and candidate

std::map<Key, Trial> all_trials(const std::filesystem::path& path) {
  std::map<Key, Trial> trials;
  const WorkDatabase database = WorkDatabase::open(path);
  for (const Environment& environment : database.environments()) {
    for (const Problem& problem : database.problems(environment)) {
      for (const Trial& trial : database.trials(environment, problem)) {
        trials.emplace(Key{problem.name(), trial.candidate.name}, trial);
      }
    }
  }
  return trials;
}

std::string integrity(const std::filesystem::path& path) {
  return db::Connection::open(path, db::Access::write, path.string()).text("PRAGMA integrity_check");
}

/// Counts trials that were begun; lives in memory that the parent sees.
struct Counter : ProgressSink {
  std::atomic<int> begun{0};
  void update(const Progress& progress) override {
    if (!progress.candidate.empty() && progress.candidate != "finalists") ++begun;
  }
};

TEST(TuneCrash, KilledAtTwoHundredMomentsAndResumed) {
  constexpr int kills = 200;
  const TemporaryFolder folder;
  const TuneResult undisturbed = modelled_tune(two_modes(folder / "undisturbed.db"), cost());
  ASSERT_GE(undisturbed.decisions.size(), 4U);
  ASSERT_GE(undisturbed.bisected, 1U);
  const std::map<Key, Trial> expected = all_trials(folder / "undisturbed.db");

  void* memory = ::mmap(nullptr, sizeof(Counter), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  std::mt19937_64 random(20261124);
  int in_the_middle = 0, in_a_trial = 0, after_finals = 0;
  for (int kill = 0; kill < kills; ++kill) {
    SCOPED_TRACE("kill " + std::to_string(kill));
    const TuneOptions options = two_modes(folder / ("tune" + std::to_string(kill) + ".db"));
    auto* counter = new (memory) Counter;
    const pid_t child = start(options, counter);
    // A moment by what was done, and not by the clock: the machine may be busy.
    const auto target = std::uniform_int_distribution<std::size_t>(0, undisturbed.trials)(random);
    const auto delay = std::chrono::microseconds(std::uniform_int_distribution<>(0, 1500)(random));
    int status = 0;
    bool ended = false;
    while (!ended && static_cast<std::size_t>(counter->begun) < target) {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      ended = ::waitpid(child, &status, WNOHANG) == child;
    }
    if (!ended) {
      std::this_thread::sleep_for(delay);
      ::kill(child, SIGKILL);
      ::waitpid(child, &status, 0);
    }
    if (WIFEXITED(status)) {
      ASSERT_EQ(WEXITSTATUS(status), 0);
    }
    if (!std::filesystem::exists(options.database)) continue;  // killed before it began

    ASSERT_EQ(integrity(options.database), "ok");
    const std::map<Key, Trial> left = all_trials(options.database);
    int open = 0;
    for (const auto& [key, trial] : left) {
      if (trial.status == TrialStatus::running) ++open;
      if (trial.status == TrialStatus::done) ++after_finals;
    }
    ASSERT_LE(open, 1) << "only the trial at hand";
    ASSERT_GE(static_cast<int>(left.size()) + 1, counter->begun) << "a trial that was finished is missing";
    in_a_trial += open;
    in_the_middle += WIFSIGNALED(status) && !left.empty() ? 1 : 0;

    TuneOptions again = options;
    again.resume = true;
    const TuneResult resumed = modelled_tune(again, cost());
    ASSERT_EQ(tuning::to_text(resumed.decisions), tuning::to_text(undisturbed.decisions));
    const std::map<Key, Trial> after = all_trials(options.database);
    ASSERT_EQ(after.size(), expected.size());
    for (const auto& [key, trial] : after) {
      ASSERT_TRUE(expected.contains(key)) << key.first << " " << key.second;
      ASSERT_EQ(trial.status, expected.at(key).status) << key.first << " " << key.second;
      ASSERT_EQ(trial.samples_us.size(), expected.at(key).samples_us.size()) << key.first << " " << key.second;
    }
    ASSERT_LE(resumed.trials + left.size() - static_cast<std::size_t>(open), undisturbed.trials)
        << "something that was finished was measured again";
    std::filesystem::remove(options.database);
  }
  ::munmap(memory, sizeof(Counter));
  EXPECT_GT(in_the_middle, kills / 2);
  EXPECT_GT(in_a_trial, kills / 10);
  EXPECT_GT(after_finals, kills);
}

/// Ends its process the first `times` times that this algorithm is launched in a process; the file counts.
std::function<void(Group&, TuneOptions&)> deadly(const std::string& algorithm) {
  return [algorithm](Group&, TuneOptions& options) {
    options.source.load = [load = options.source.load, algorithm](Group& group, const CandidateSpec& spec,
                                                                  const ProblemFamily& family) {
      LoadResult result = load(group, spec, family);
      if (spec.algorithm() == algorithm) {
        result.candidate = std::make_unique<Misbehaving>(
            std::move(result.candidate), [&group](RunnableCandidate&, const CallTensors&, std::int64_t, StreamHandle) {
              group.bootstrap().barrier();  // so that no rank is still writing to the database
              ::_exit(9);
            });
      }
      return result;
    };
  };
}

TEST(TuneCrash, KillsOfTheWholeCommandExcludeNobody) {
  const TemporaryFolder folder;
  const TuneResult undisturbed = modelled_tune(modelled_options(folder / "undisturbed.db"), cost());
  TuneOptions options = modelled_options(folder / "tune.db");
  const std::string winner = undisturbed.decisions.back().candidate.algorithm;
  for (int kill = 0; kill < 3; ++kill) {
    ASSERT_EQ(test::exit_status_of([&] { return modelled_tune(options, cost(), deadly(winner)), 0; }), 9);
    options.resume = true;
  }
  const TuneResult resumed = modelled_tune(options, cost());
  EXPECT_EQ(tuning::to_text(resumed.decisions), tuning::to_text(undisturbed.decisions))
      << "the winner was in the trial";
  for (const auto& [key, trial] : all_trials(options.database)) {
    EXPECT_NE(trial.status, TrialStatus::crashed) << key.first << " " << key.second;
  }
}

TEST(TuneCrash, WhatAWorkerDiedOfIsSkippedByLaterRunsToo) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "tune.db");
  options.families = {small_family(1)};
  options.effort.anchor_candidates = 4;
  ASSERT_EQ(test::exit_status_of([&] { return modelled_tune(options, cost(), deadly("twoshot_push")), 0; }), 9);
  options.resume = options.restarted = true;
  modelled_tune(options, cost());  // the parent's second set of workers
  options.restarted = false;
  modelled_tune(options, cost());  // and a command of the next day
  std::size_t blamed = 0;
  for (const auto& [key, trial] : all_trials(options.database)) {
    if (trial.status == TrialStatus::crashed) blamed += trial.reason == crashed_worker ? 1 : 100;
  }
  EXPECT_EQ(blamed, 1U);
}

TEST(TuneCrash, WhatFailedForWantOfMemoryIsTriedAgain) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "tune.db");
  options.families = {small_family(2)};
  const TuneResult undisturbed = modelled_tune(options, cost());
  options.database = folder / "poor.db";
  const auto poor = [](const std::string& algorithm, auto&& fail) {
    return [algorithm, fail](Group&, TuneOptions& mine) {
      mine.source.load = [load = mine.source.load, algorithm, fail](Group& group, const CandidateSpec& spec,
                                                                    const ProblemFamily& family) {
        LoadResult result = load(group, spec, family);
        if (spec.algorithm() == algorithm) {
          result.candidate = std::make_unique<Misbehaving>(
              std::move(result.candidate),
              [fail](RunnableCandidate&, const CallTensors&, std::int64_t, StreamHandle) { fail(); });
        }
        return result;
      };
    };
  };
  modelled_tune(options, cost(), poor("oneshot_push", [] { throw Unavailable("no memory for 4096 bytes"); }));
  std::size_t passing = 0;
  for (const auto& [key, trial] : all_trials(options.database)) {
    if (trial.status == TrialStatus::failed) passing += trial.reason.find(passing_cause) != std::string::npos;
  }
  EXPECT_GE(passing, 1U);
  options.resume = true;
  const auto full = poor("oneshot_push", [] { throw std::system_error(ENOSPC, std::generic_category(), "a file"); });
  modelled_tune(options, cost(), full);
  const auto no_files = poor("oneshot_push", [] { throw std::system_error(EMFILE, std::generic_category(), "open"); });
  modelled_tune(options, cost(), no_files);
  modelled_tune(options, cost());
  for (const auto& [key, trial] : all_trials(options.database)) {
    EXPECT_NE(trial.status, TrialStatus::failed) << key.second << ": " << trial.reason;
  }
  EXPECT_FALSE(undisturbed.decisions.empty());
}

TEST(TuneCrash, WhatFailsByItselfIsNotTriedAgain) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "tune.db");
  options.families = {small_family(1)};
  const auto broken = [](Group&, TuneOptions& mine) {
    mine.source.load = [load = mine.source.load](Group& group, const CandidateSpec& spec, const ProblemFamily& family) {
      LoadResult result = load(group, spec, family);
      if (spec.algorithm() == "twoshot_push") {
        result.candidate = std::make_unique<Misbehaving>(
            std::move(result.candidate), [](RunnableCandidate&, const CallTensors&, std::int64_t, StreamHandle) {
              throw std::system_error(EINVAL, std::generic_category(), "a launch");
            });
      }
      return result;
    };
  };
  modelled_tune(options, cost(), broken);
  options.resume = true;
  modelled_tune(options, cost());
  std::size_t failed = 0;
  for (const auto& [key, trial] : all_trials(options.database)) failed += trial.status == TrialStatus::failed;
  EXPECT_GE(failed, 1U);
}

TEST(TuneCrash, AFamilyWithoutADecisionIsSaidWithTheReason) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "tune.db");
  options.families = {small_family(1), small_family(1, Mode::eager)};
  const TuneResult result = modelled_tune(options, cost(), [](Group&, TuneOptions& mine) {
    mine.source.load = [load = mine.source.load](Group& group, const CandidateSpec& spec, const ProblemFamily& family) {
      if (family.mode == Mode::eager) return LoadResult{nullptr, "the disk is full"};
      return load(group, spec, family);
    };
  });
  ASSERT_EQ(result.undecided.size(), 1U);
  EXPECT_NE(result.undecided[0].find("allreduce bf16 hidden=8 eager on 2 ranks: "), std::string::npos)
      << result.undecided[0];
  EXPECT_NE(result.undecided[0].find("the disk is full"), std::string::npos) << result.undecided[0];
  EXPECT_FALSE(result.decisions.empty()) << "of the other family";

  TuneOptions hasty = modelled_options(folder / "hasty.db");
  hasty.budget = std::chrono::milliseconds(1);
  hasty.families = {small_family(1)};
  const TuneResult nothing = modelled_tune(hasty, cost(), [](Group& group, TuneOptions&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    group.bootstrap().barrier();
  });
  for (const std::string& why : nothing.undecided) EXPECT_NE(why.find("budget"), std::string::npos) << why;
  EXPECT_EQ(nothing.undecided.empty(), !nothing.decisions.empty());
}

TEST(TuneCrash, RestartedWorkersSkipTheCandidateAtOnce) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "tune.db");
  options.families = {small_family(2)};
  options.effort.anchor_candidates = 4;
  const auto tune_it = [&] { return modelled_tune(options, cost(), deadly("twoshot_push")), 0; };
  ASSERT_EQ(test::exit_status_of(tune_it), 9);
  options.resume = options.restarted = true;
  int restarts = 1;
  while (test::exit_status_of(tune_it) == 9 && restarts < 20) ++restarts;
  std::size_t crashed = 0;
  for (const auto& [key, trial] : all_trials(options.database)) crashed += trial.status == TrialStatus::crashed;
  EXPECT_EQ(crashed, static_cast<std::size_t>(restarts)) << "one process each";
}

TEST(TuneCrash, ALostDeviceIsBlamedOnTheCandidate) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "tune.db");
  options.families = {small_family(2)};
  std::atomic<bool> lose{true};
  const auto losing = [&](Group&, TuneOptions& mine) {
    mine.source.load = [&, load = mine.source.load](Group& group, const CandidateSpec& spec,
                                                    const ProblemFamily& family) {
      LoadResult result = load(group, spec, family);
      if (spec.algorithm() == "twoshot_push") {
        result.candidate = std::make_unique<Misbehaving>(
            std::move(result.candidate),
            [&](RunnableCandidate& real, const CallTensors& tensors, std::int64_t elements, StreamHandle stream) {
              if (!lose) return real.enqueue(tensors, elements, stream);
              static_cast<ClockworkDevice&>(group.device()).lose();
              throw DeviceError("an illegal memory access was encountered");
            });
      }
      return result;
    };
  };
  EXPECT_THROW(modelled_tune(options, cost(), losing), DeviceError);
  std::size_t crashed = 0;
  for (const auto& [key, trial] : all_trials(options.database)) {
    EXPECT_NE(trial.status, TrialStatus::running);
    if (trial.status != TrialStatus::crashed) continue;
    EXPECT_EQ(trial.candidate.algorithm, "twoshot_push");
    EXPECT_NE(trial.reason.find("illegal memory access"), std::string::npos) << trial.reason;
    ++crashed;
  }
  EXPECT_EQ(crashed, 1U);
  lose = false;
  options.resume = true;
  const TuneResult resumed = modelled_tune(options, cost(), losing);
  EXPECT_EQ(resumed.measured, resumed.problems);
  EXPECT_TRUE(std::any_of(resumed.notes.begin(), resumed.notes.end(),
                          [](const std::string& note) { return note.find("did not survive") != std::string::npos; }));
}

TEST(TuneCrash, WhatIsStuckIsReportedByName) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "tune.db");
  options.families = {small_family(1)};
  options.stuck_after = std::chrono::minutes(1);
  std::atomic<bool> stuck{false};
  options.now = [&] { return std::chrono::steady_clock::time_point(std::chrono::minutes(stuck ? 2 : 0)); };
  std::mutex mutex;
  std::vector<std::string> told;
  std::atomic<bool> go_on{false};
  const TuneResult result = modelled_tune(options, cost(), [&](Group& group, TuneOptions& mine) {
    mine.on_stuck = [&, rank = group.rank()](const std::string& what) {
      const std::lock_guard lock(mutex);
      told.push_back(std::to_string(rank) + " " + what);
      if (told.size() == 2) go_on = true;
    };
    mine.source.load = [&, load = mine.source.load](Group& g, const CandidateSpec& spec, const ProblemFamily& family) {
      LoadResult loaded = load(g, spec, family);
      if (spec.algorithm() == "twoshot_push") {
        loaded.candidate = std::make_unique<Misbehaving>(
            std::move(loaded.candidate),
            [&](RunnableCandidate& real, const CallTensors& tensors, std::int64_t elements, StreamHandle stream) {
              if (g.rank() == 1) stuck = true;
              while (g.rank() == 1 && !go_on) std::this_thread::yield();
              real.enqueue(tensors, elements, stream);
            });
      }
      return loaded;
    };
  });
  EXPECT_EQ(result.measured, 1U);
  ASSERT_EQ(told.size(), 2U) << "every rank notices, and says it once";
  for (const std::string& what : told) {
    EXPECT_NE(what.find("twoshot_push"), std::string::npos) << what;
    EXPECT_NE(what.find("tokens=1 world=2"), std::string::npos) << what;
  }
}

}  // namespace
}  // namespace arbiter
