// Ranks of launchers that give a job no name meet by the process that started them. The launchers here are forks of
// this test, and their ranks are this test again, in another environment.
#include "bootstrap/launching_process.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "arbiter/bootstrap.hpp"
#include "runtime/launcher_environment.hpp"

namespace arbiter {
namespace {

using test::LauncherEnvironment;

constexpr const char* report_to = "LAUNCHING_PROCESS_TEST_REPORT";

/// Not a test: what a rank runs.
TEST(LaunchingProcess, DISABLED_Rank) {
  const LauncherVariables read = read_launcher_variables();
  const std::string line = read.job + "|" + read.rendezvous + "\n";
  ASSERT_EQ(write(std::atoi(std::getenv(report_to)), line.data(), line.size()), static_cast<ssize_t>(line.size()));
}

enum class Started { directly, through_a_shell };

/// Never returns: this process becomes rank `rank`, or waits for it as its wrapper.
[[noreturn]] void become_rank(int rank, Started how) {
  setenv("PMI_RANK", std::to_string(rank).c_str(), 1);
  setenv("PMI_SIZE", "2", 1);
  setenv("PMI_FD", std::to_string(6 + rank).c_str(), 1);
  setenv("MPI_LOCALRANKID", std::to_string(rank).c_str(), 1);
  setenv("MPI_LOCALNRANKS", "2", 1);
  std::array<char, 4096> self{};
  if (readlink("/proc/self/exe", self.data(), self.size() - 1) < 0) _exit(3);
  const std::string filter = "--gtest_filter=LaunchingProcess.DISABLED_Rank";
  const std::string all = "--gtest_also_run_disabled_tests";
  if (how == Started::directly) {
    execl(self.data(), self.data(), filter.c_str(), all.c_str(), nullptr);
  } else {
    const std::string command = std::string("'") + self.data() + "' " + filter + " " + all + "; exit $?";
    execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
  }
  _exit(4);
}

/// What the two ranks of one mpiexec report.
std::vector<std::string> run_job(const std::array<Started, 2>& how) {
  std::array<int, 2> report{};
  if (pipe(report.data()) != 0) return {};
  const pid_t launcher = fork();
  if (launcher == 0) {
    setenv(report_to, std::to_string(report[1]).c_str(), 1);
    if (freopen("/dev/null", "w", stdout) == nullptr) _exit(5);
    for (int rank = 0; rank < 2; ++rank) {
      if (fork() == 0) become_rank(rank, how[static_cast<std::size_t>(rank)]);
    }
    int status = 0, failed = 0;
    while (wait(&status) > 0) failed |= status;
    _exit(failed == 0 ? 0 : 1);
  }
  close(report[1]);
  std::string text;
  std::array<char, 512> buffer{};
  for (ssize_t got = 0; (got = read(report[0], buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  close(report[0]);
  int status = 0;
  waitpid(launcher, &status, 0);
  EXPECT_EQ(status, 0);
  std::vector<std::string> lines;
  for (std::size_t at = 0, end = 0; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    lines.push_back(text.substr(at, end - at));
  }
  return lines;
}

TEST(LaunchingProcess, RanksOfOneJobMeetAndThoseOfAnotherDoNot) {
  const LauncherEnvironment environment({});
  const std::vector<std::string> one = run_job({Started::directly, Started::through_a_shell});
  const std::vector<std::string> other = run_job({Started::through_a_shell, Started::directly});
  ASSERT_EQ(one.size(), 2U);
  ASSERT_EQ(other.size(), 2U);
  EXPECT_EQ(one[0], one[1]);
  EXPECT_EQ(other[0], other[1]);
  EXPECT_NE(one[0], other[0]) << "two jobs of one user and of one size";
  EXPECT_NE(one[0].find("|file:///"), std::string::npos) << one[0];
}

TEST(LaunchingProcess, AJobInsideARankOfAnotherIsAJobOfItsOwn) {
  // The launcher has the variables of the rank that it runs in, which differ from those of its own ranks.
  const LauncherEnvironment environment({});
  const std::vector<std::string> outer = run_job({Started::directly, Started::directly});
  setenv("PMI_RANK", "7", 1);
  setenv("PMI_SIZE", "8", 1);
  const std::vector<std::string> inner = run_job({Started::directly, Started::through_a_shell});
  unsetenv("PMI_RANK");
  unsetenv("PMI_SIZE");
  ASSERT_EQ(inner.size(), 2U);
  EXPECT_EQ(inner[0], inner[1]);
  EXPECT_NE(inner[0], outer.at(0));
}

/// What the ranks of a real MPICH say that share a machine with those of another job.
TEST(LaunchingProcess, OfMpichTellsItsJobsApart) {
  if (std::system("command -v mpiexec.hydra >/dev/null 2>&1") != 0) GTEST_SKIP() << "MPICH's mpiexec.hydra is not here";
  const LauncherEnvironment environment({});
  std::array<char, 4096> self{};
  ASSERT_GT(readlink("/proc/self/exe", self.data(), self.size() - 1), 0);
  const std::string command = std::string(report_to) + "=1 timeout 60 mpiexec.hydra -n 2 '" + self.data() +
                              "' --gtest_filter=LaunchingProcess.DISABLED_Rank --gtest_also_run_disabled_tests";
  std::array<FILE*, 2> jobs{};
  for (FILE*& job : jobs) job = popen(command.c_str(), "r");
  std::array<std::vector<std::string>, 2> said;
  for (std::size_t i = 0; i < 2; ++i) {
    ASSERT_NE(jobs[i], nullptr);
    std::array<char, 1024> line{};
    while (std::fgets(line.data(), line.size(), jobs[i]) != nullptr) {
      if (std::strchr(line.data(), '|') != nullptr) said[i].emplace_back(line.data());
    }
    EXPECT_EQ(pclose(jobs[i]), 0);
    ASSERT_EQ(said[i].size(), 2U);
    EXPECT_EQ(said[i][0], said[i][1]);
  }
  EXPECT_NE(said[0][0], said[1][0]);
}

TEST(LaunchingProcess, IsTheParentOfAnyProcessWithoutTheVariables) {
  const LauncherEnvironment environment({{"PMI_RANK", "0"}, {"PMI_SIZE", "2"}});
  constexpr std::array names{"PMI_RANK", "PMI_SIZE"};
  const std::string parent = launching_process(names);
  EXPECT_NE(parent.find("/" + std::to_string(getppid()) + "/"), std::string::npos) << parent;
}

}  // namespace
}  // namespace arbiter
