#include "environment/logging.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "arbiter/error.hpp"

namespace arbiter {
namespace {

std::string written(std::string_view level) {
  ::testing::internal::CaptureStderr();
  const Logger logger(level, "arbiter rank 2");
  logger.trace("t");
  logger.debug("d");
  logger.info("i {} %s");  // text, not a format
  logger.warn("w");
  logger.error("e");
  return ::testing::internal::GetCapturedStderr();
}

TEST(Logging, WritesWhatTheLevelAllows) {
  EXPECT_EQ(written("off"), "");
  EXPECT_EQ(written("error"), "[arbiter rank 2] error: e\n");
  EXPECT_EQ(written("warn"), "[arbiter rank 2] warning: w\n[arbiter rank 2] error: e\n");
  EXPECT_EQ(written("info").substr(0, 35), "[arbiter rank 2] info: i {} %s\n[arb");
  EXPECT_NE(written("trace").find("trace: t\n[arbiter rank 2] debug: d\n"), std::string::npos);
}

TEST(Logging, AMessageIsALineThatCannotSteerATerminal) {
  ::testing::internal::CaptureStderr();
  Logger("warn", "arbiter rank 2").warn("'\x1b[2J.db' is damaged\n[arbiter rank 0] warning: forged\n");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "[arbiter rank 2] warning: '\\x1b[2J.db' is damaged | [arbiter rank 0] warning: forged\n");
}

[[noreturn]] void warn_into_a_file_that_may_not_grow() {
  std::signal(SIGXFSZ, SIG_DFL);
  const rlimit limit{8, 8};
  std::FILE* file = std::tmpfile();
  const bool limited = file != nullptr && setrlimit(RLIMIT_FSIZE, &limit) == 0;
  if (!limited || dup2(fileno(file), STDERR_FILENO) < 0) _exit(1);
  Logger("warn", "arbiter rank 2").warn("longer than that");
  _exit(0);
}

TEST(Logging, AFileThatMayNotGrowLosesTheMessageAndNotTheProgram) {
  EXPECT_EXIT(warn_into_a_file_that_may_not_grow(), ::testing::ExitedWithCode(0), "");
}

TEST(Logging, RefusesUnknownLevels) {
  try {
    Logger logger("wran");
    FAIL() << "accepted";
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean 'warn'"), std::string::npos) << error.what();
  }
  EXPECT_THROW(Logger(""), InvalidArgument);
}

}  // namespace
}  // namespace arbiter
