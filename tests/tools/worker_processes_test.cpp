// Worker processes without GPUs: this test program is started as its own worker, and behaves as it is told.
#include "ranks/worker_processes.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <string>
#include <vector>

#include "arbiter/error.hpp"
#include "options/options.hpp"
#include "ranks/launcher_restarts.hpp"
#include "ranks/session.hpp"

namespace arbiter::cli {
namespace {

/// What `arbiter <what> --worker` does here, on rank `rank`.
[[noreturn]] void behave(const std::string& what) {
  const WorkerPlace place = worker_place();
  const bool odd_one = place.rank == 1;
  if (what == "killed" && odd_one) raise(SIGKILL);
  if (what == "exits" && odd_one) {
    std::fprintf(stderr, "something only the log knows\n");
    std::_Exit(7);
  }
  if (what == "usage" && odd_one) fail_worker(place, "too many of these", true, false, false);
  if (what == "lost" && odd_one) fail_worker(place, "the device is lost", false, true, false);
  if (what == "echo") fail_worker(place, odd_one ? "the cause" : "rank 1 did not arrive", false, false, !odd_one);
  if (what == "stops" && odd_one) raise(SIGSTOP);
  while (what == "stops always" && odd_one) raise(SIGSTOP);
  if (what == "stops always") {
    for (;;) pause();
  }
  if (what == "hangs" || what == "killed" || what == "lost" || what == "usage" || what == "exits") {
    for (;;) pause();
  }
  if (what == "listens") {
    SignalWatch signals;
    while (signals.wait(1000) != SIGTERM) {
    }
    end_worker(place, "stopped");
  }
  end_worker(place, "from rank " + std::to_string(place.rank) + " after " + std::to_string(place.restarts));
}

WorkersReport run(const std::string& what, int world = 3, bool cancellable = false) {
  const SignalWatch signals;
  const std::vector<std::string> arguments{what};
  WorkersOptions options;
  options.world = world;
  options.restarts = 2;
  options.cancellable = cancellable;
  options.on_interrupt = "told so";
  // The others end by themselves, or never do.
  options.grace = what == "echo" ? std::chrono::hours(1) : std::chrono::milliseconds(0);
  return run_workers(arguments, options, signals);
}

TEST(WorkerProcesses, RankZerosResultComesBack) {
  const WorkersReport report = run("succeeds");
  EXPECT_EQ(report.outcome, WorkersOutcome::succeeded);
  EXPECT_EQ(report.result, "from rank 0 after 2");
  EXPECT_EQ(report.message, "");
}

TEST(WorkerProcesses, AFullTemporaryFolderIsSaidBeforeAnythingIsStarted) {
  // No file may grow beyond a kilobyte: writing fails as on a full disk, but for the cause.
  struct rlimit before {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  small.rlim_cur = 1024;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  std::string said;
  try {
    run("succeeds");
  } catch (const Unavailable& error) {
    said = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_NE(said.find("no room for the workers' files in '"), std::string::npos) << said;
  EXPECT_NE(said.find("File too large"), std::string::npos) << said;
  EXPECT_NE(said.find("TMPDIR"), std::string::npos) << said;
}

TEST(WorkerProcesses, OneThatIsKilledEndsTheOthersAndIsNamed) {
  const WorkersReport report = run("killed");
  EXPECT_EQ(report.outcome, WorkersOutcome::died);
  EXPECT_NE(report.message.find("rank 1 of 3: ended by signal 9"), std::string::npos) << report.message;
}

TEST(LauncherRestarts, TorchrunSaysHowOften) {
  unsetenv("TORCHELASTIC_RESTART_COUNT");
  EXPECT_EQ(launcher_restarts(), 0);
  setenv("TORCHELASTIC_RESTART_COUNT", "2", 1);
  EXPECT_EQ(launcher_restarts(), 2);
  setenv("TORCHELASTIC_RESTART_COUNT", "often", 1);
  EXPECT_THROW(launcher_restarts(), UsageError);
  unsetenv("TORCHELASTIC_RESTART_COUNT");
}

TEST(LauncherRestarts, WhenAProcessWasStarted) {
  const std::int64_t mine = process_started(getpid());
  const std::int64_t now = time(nullptr);
  EXPECT_LE(mine, now + 1);
  EXPECT_GE(mine, now - 3600);
  EXPECT_LE(process_started(getppid()), mine);
  EXPECT_EQ(process_started(-1), 0);
}

TEST(WorkerProcesses, OneThatIsStoppedIsToldToGoOn) {
  const WorkersReport report = run("stops");
  EXPECT_EQ(report.outcome, WorkersOutcome::succeeded);
  EXPECT_EQ(report.result, "from rank 0 after 2");
}

TEST(WorkerProcesses, OneThatIsStoppedAgainAndAgainIsEnded) {
  const WorkersReport report = run("stops always");
  EXPECT_EQ(report.outcome, WorkersOutcome::died);
  EXPECT_NE(report.message.find("rank 1 of 3: ended by signal 9"), std::string::npos) << report.message;
}

TEST(WorkerProcesses, TheLogOfOneThatSaysNothingElseIsShown) {
  const WorkersReport report = run("exits");
  EXPECT_EQ(report.outcome, WorkersOutcome::died);
  EXPECT_NE(report.message.find("exit status 7"), std::string::npos) << report.message;
  EXPECT_NE(report.message.find("something only the log knows"), std::string::npos) << report.message;
}

TEST(WorkerProcesses, WrongUsageIsNotAFailureOfTheMachine) {
  const WorkersReport report = run("usage");
  EXPECT_EQ(report.outcome, WorkersOutcome::failed);
  EXPECT_TRUE(report.usage);
  EXPECT_NE(report.message.find("too many of these"), std::string::npos) << report.message;
}

TEST(WorkerProcesses, ALostDeviceAsksForARestart) { EXPECT_EQ(run("lost").outcome, WorkersOutcome::died); }

TEST(WorkerProcesses, TheCauseIsReportedAndNotItsEcho) {
  const WorkersReport report = run("echo");
  EXPECT_EQ(report.outcome, WorkersOutcome::failed);
  EXPECT_NE(report.message.find("rank 1 of 3: the cause"), std::string::npos) << report.message;
}

TEST(WorkerProcesses, NothingIsLeftInTheTemporaryDirectory) {
  char pattern[] = "/tmp/arbiter-test-tmp-XXXXXX";
  ASSERT_NE(mkdtemp(pattern), nullptr);
  setenv("TMPDIR", pattern, 1);
  run("killed");
  run("succeeds");
  unsetenv("TMPDIR");
  EXPECT_TRUE(std::filesystem::is_empty(pattern));
  std::filesystem::remove_all(pattern);
}

/// Runs `body` in a process of its own, interrupts it after a moment, and returns its status as waitpid gives it.
template <typename Body>
int interrupted(Body body, int times) {
  const pid_t process = fork();
  if (process == 0) {
    body();
    _exit(0);
  }
  for (int i = 0; i < times; ++i) {
    usleep(400'000);
    kill(process, SIGINT);
  }
  int status = 0;
  waitpid(process, &status, 0);
  return status;
}

TEST(WorkerProcesses, AnInterruptStopsThoseThatDoNotListen) {
  const int status = interrupted([] { run("hangs"); }, 1);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130);
}

TEST(WorkerProcesses, TheFirstInterruptAsksTheSecondInsists) {
  const int listening = interrupted(
      [] {
        const WorkersReport report = run("listens", 2, true);
        _exit(report.cancelled && report.result == "stopped" ? 42 : 1);
      },
      1);
  ASSERT_TRUE(WIFEXITED(listening));
  EXPECT_EQ(WEXITSTATUS(listening), 42);
  const int hanging = interrupted([] { run("hangs", 2, true); }, 2);
  ASSERT_TRUE(WIFEXITED(hanging));
  EXPECT_EQ(WEXITSTATUS(hanging), 130);
}

TEST(CommandText, IsWhatAPersonWouldType) {
  EXPECT_EQ(command_text("tune", std::vector<std::string>{"--db", "a.db", "--worker", "--hidden", "1024,2048"}),
            "arbiter tune --db a.db --hidden 1024,2048");
  EXPECT_EQ(command_text("tune", std::vector<std::string>{"--db", "it's $HOME/a b.db", ""}),
            "arbiter tune --db 'it'\\''s $HOME/a b.db' ''");
}

TEST(CheckGpus, RefusesMoreRanksThanGpusAndGpusThatAreNotThere) {
  const auto refusal = [](std::vector<int> gpus, std::vector<int> worlds, int visible, bool in_process = false) {
    SessionOptions session;
    session.gpus = std::move(gpus);
    session.worlds = std::move(worlds);
    session.in_process = in_process;
    try {
      check_gpus(session, visible);
      return std::string();
    } catch (const UsageError& error) {
      return std::string(error.what());
    }
  };
  EXPECT_EQ(refusal({0, 1, 2, 3}, {2, 4}, 4), "");
  EXPECT_EQ(refusal({3, 1}, {2}, 4), "");
  EXPECT_EQ(refusal({0, 1, 2, 3}, {2, 8}, 4),
            "8 ranks need 8 GPUs, but there are 4; lower --world or name more with --gpus");
  EXPECT_EQ(refusal({0, 4}, {2}, 4),
            "--gpus: GPU 4 is not visible here; there are 4 GPUs, numbered from 0 (CUDA_VISIBLE_DEVICES decides)");
  EXPECT_EQ(refusal({0, 1}, {2}, 1),
            "--gpus: GPU 1 is not visible here; there is 1 GPU, numbered from 0 (CUDA_VISIBLE_DEVICES decides)");
  EXPECT_NE(refusal({0, 0}, {2}, 1).find("names a GPU twice"), std::string::npos);
  EXPECT_EQ(refusal({0, 0}, {2}, 1, true), "") << "threads may share one";
}

TEST(ChooseWorlds, OneLaunchedRankMeansThatTheWorkersAreStartedHere) {
  const auto chosen = [](const LauncherVariables& launcher, std::vector<int> worlds = {}) {
    SessionOptions session;
    session.gpus = {0, 1, 2, 3, 4, 5, 6, 7};
    session.worlds = std::move(worlds);
    choose_worlds(session, launcher, 8);
    return session;
  };
  LauncherVariables step;  // srun --pty bash: SLURM_STEP_ID, and one task
  step.launcher = "slurm";
  EXPECT_FALSE(chosen(step).launched);
  EXPECT_EQ(chosen(step).worlds, (std::vector<int>{2, 4, 8}));
  EXPECT_EQ(chosen(step, {4}).worlds, std::vector<int>{4});
  EXPECT_FALSE(chosen({}).launched) << "no launcher";

  step.size = 8;
  EXPECT_TRUE(chosen(step).launched);
  EXPECT_EQ(chosen(step).worlds, std::vector<int>{8});
  EXPECT_THROW(chosen(step, {4}), UsageError);
}

TEST(WorkerProcesses, TheOptionIsNotForPeople) { EXPECT_THROW(worker_place(), InvalidArgument); }

}  // namespace
}  // namespace arbiter::cli

int main(int count, char** values) {
  const std::vector<std::string> arguments(values + 1, values + count);
  if (!arguments.empty() && arguments.back() == "--worker") arbiter::cli::behave(arguments.front());
  testing::InitGoogleTest(&count, values);
  return RUN_ALL_TESTS();
}
