// libarbiter-nccl.so preloaded into a program that is linked to NCCL; ranks are processes.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace arbiter {
namespace {

struct Outcome {
  int status = -1;
  std::string text;
};

Outcome run(const std::string& variables) {
  const std::string command =
      "ARBITER_LOG=info ARBITER_NCCL_TEST_DEVICE=cpu LD_PRELOAD=" ARBITER_NCCL " " + variables + " " PROGRAM " 2>&1";
  Outcome outcome;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return outcome;
  std::array<char, 4096> buffer{};
  while (std::fgets(buffer.data(), buffer.size(), pipe) != nullptr) outcome.text += buffer.data();
  outcome.status = pclose(pipe);
  return outcome;
}

bool contains(const Outcome& outcome, const std::string& text) { return outcome.text.find(text) != std::string::npos; }

TEST(NcclPreload, AProgramIsServedAndItsOwnNcclIsFound) {
  const Outcome outcome = run("");
  EXPECT_EQ(outcome.status, 0) << outcome.text;
  EXPECT_TRUE(contains(outcome, "rank 0: 0 wrong, 0 forwarded")) << outcome.text;
  EXPECT_TRUE(contains(outcome, "rank 1: 0 wrong, 0 forwarded")) << outcome.text;
  EXPECT_TRUE(contains(outcome, "NCCL 2.28.3 is behind this library: " STAND_IN_FOLDER)) << outcome.text;
  EXPECT_TRUE(contains(outcome, "search path of")) << outcome.text;
  EXPECT_TRUE(contains(outcome, "communicator of 2 ranks")) << outcome.text;
}

TEST(NcclPreload, OffPassesEverythingOn) {
  const Outcome outcome = run("ARBITER_NCCL=off");
  EXPECT_EQ(outcome.status, 0) << outcome.text;
  EXPECT_TRUE(contains(outcome, "rank 0: 0 wrong, 4 forwarded")) << outcome.text;
}

TEST(NcclPreload, WhatIsNotUnderstoodTurnsItOff) {
  for (const char* variables : {"ARBITER_NCCL=verfy", "ARBITER_NCCL_WORKSPACE=lots"}) {
    const Outcome outcome = run(variables);
    EXPECT_EQ(outcome.status, 0) << outcome.text;
    EXPECT_TRUE(contains(outcome, "rank 0: 0 wrong, 4 forwarded")) << outcome.text;
    EXPECT_TRUE(contains(outcome, variables + std::string(variables).find('=') + 1)) << outcome.text;
  }
}

/// "..., N bytes of device memory ..."
long device_memory(const Outcome& outcome) {
  const std::size_t end = outcome.text.find(" bytes of device memory");
  if (end == std::string::npos) return -1;
  return std::atol(outcome.text.c_str() + outcome.text.rfind(' ', end - 1) + 1);
}

TEST(NcclPreload, TheWorkspaceStaysWithinItsLimit) {
  for (const long limit : {300'000L, 400'000L, 1'000'000L, 8'000'000L}) {
    const Outcome outcome = run("ARBITER_NCCL_WORKSPACE=" + std::to_string(limit));
    EXPECT_TRUE(contains(outcome, "rank 0: 0 wrong, 0 forwarded")) << outcome.text;
    EXPECT_GT(device_memory(outcome), 0) << outcome.text;
    EXPECT_LE(device_memory(outcome), limit) << outcome.text;
  }
  const Outcome none = run("ARBITER_NCCL_WORKSPACE=64K");
  EXPECT_EQ(none.status, 0) << none.text;
  EXPECT_TRUE(contains(none, "ARBITER_NCCL_WORKSPACE=65536 is too small for any message")) << none.text;
  EXPECT_TRUE(contains(none, "rank 0: 0 wrong, 4 forwarded")) << none.text;
}

TEST(NcclPreload, FilesThatMayNotGrowLeaveTheCallsToNccl) {
  // Room for the stand-in's own memory, and not for a workspace; the signal as programs have it.
  const Outcome outcome = run("ARBITER_NCCL_WORKSPACE=256M prlimit --fsize=16777216 env --default-signal=XFSZ");
  EXPECT_EQ(outcome.status, 0) << outcome.text;
  EXPECT_TRUE(contains(outcome, "File too large")) << outcome.text;
  EXPECT_TRUE(contains(outcome, "rank 0: 0 wrong, 4 forwarded")) << outcome.text;
  EXPECT_TRUE(contains(outcome, "rank 1: 0 wrong, 4 forwarded")) << outcome.text;
}

TEST(NcclPreload, AFullLogLosesItsMessagesAndNotTheProgram) {
  const std::filesystem::path log =
      std::filesystem::temp_directory_path() / ("arbiter-log-" + std::to_string(getpid()));
  std::ofstream(log).close();
  std::filesystem::resize_file(log, 1U << 30U);  // a hole, as large as a file may get
  const Outcome outcome =
      run("prlimit --fsize=1073741824 env --default-signal=XFSZ sh -c 'exec \"$0\" 2>>" + log.string() + "'");
  EXPECT_EQ(std::filesystem::file_size(log), 1U << 30U);
  std::filesystem::remove(log);
  EXPECT_EQ(outcome.status, 0) << outcome.text;
  EXPECT_TRUE(contains(outcome, "rank 0: 0 wrong, 0 forwarded")) << outcome.text;
}

TEST(NcclPreload, VerifyComparesAndReports) {
  const Outcome right = run("ARBITER_NCCL=verify:2");
  EXPECT_EQ(right.status, 0) << right.text;
  EXPECT_TRUE(contains(right, "rank 0: 0 wrong, 6 forwarded"))
      << "sum, maximum and minimum of two calls: " << right.text;
  EXPECT_TRUE(contains(right, "verified 2 allreduces")) << right.text;
  EXPECT_FALSE(contains(right, "differ")) << right.text;
  const Outcome wrong = run("ARBITER_NCCL=verify:2 STAND_IN_WRONG=1");
  EXPECT_TRUE(contains(wrong, "1 of 512 elements of a bf16 sum differ: element 0")) << wrong.text;
}

TEST(NcclPreload, TheNcclIsTheOneThatTheLoaderWouldHaveTaken) {
  // The program has a RUNPATH, which LD_LIBRARY_PATH beats.
  const std::string copy = ::testing::TempDir() + "/arbiter-other-nccl";
  ASSERT_EQ(std::system(("mkdir -p " + copy + " && cp " STAND_IN " " + copy + "/libnccl.so.2").c_str()), 0);
  const Outcome outcome = run("LD_LIBRARY_PATH=" + copy);
  EXPECT_EQ(outcome.status, 0) << outcome.text;
  EXPECT_TRUE(contains(outcome, "is behind this library: " + copy + "/libnccl.so.2 (LD_LIBRARY_PATH)")) << outcome.text;
}

TEST(NcclPreload, FunctionsOfANewerNcclThatOursLacksAreNamed) {
  const Outcome outcome = run("ARBITER_NCCL_LIBRARY=" STAND_IN_NEWER " ARBITER_LOG=warn");
  EXPECT_EQ(outcome.status, 0) << outcome.text;
  EXPECT_TRUE(contains(outcome, "does not know: ncclInTheFuture, pncclInTheFuture")) << outcome.text;
  const Outcome known = run("ARBITER_LOG=warn");
  EXPECT_FALSE(contains(known, "does not know")) << known.text;
}

TEST(NcclPreload, ALibraryThatIsNotNcclIsRefused) {
  const Outcome outcome = run("ARBITER_NCCL_LIBRARY=" ARBITER_NCCL);
  EXPECT_NE(outcome.status, 0);
  EXPECT_TRUE(contains(outcome, "this is Arbiter's libarbiter-nccl.so, not NCCL")) << outcome.text;
}

}  // namespace
}  // namespace arbiter
