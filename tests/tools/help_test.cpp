// Every command explains itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

class Help : public ::testing::TestWithParam<const char*> {};

TEST_P(Help, NamesTheCommandItsOptionsAndAnExample) {
  const std::string command = GetParam();
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{command, "--help"}, {command, "-h"}, {"help", command}}) {
    const Outcome outcome = run_arbiter(arguments);
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_EQ(outcome.err, "");
    EXPECT_TRUE(outcome.out.starts_with("usage: arbiter " + command)) << outcome.out;
    EXPECT_NE(outcome.out.find("--help"), std::string::npos);
    EXPECT_NE(outcome.out.find("\nexample:\n  arbiter " + command), std::string::npos) << outcome.out;
  }
}

/// But for the examples, which are copied as they are.
TEST_P(Help, FitsTheTerminal) {
  for (const int columns : {80, 100, 140}) {
    const Outcome outcome = run_arbiter({GetParam(), "--help"}, {{"COLUMNS", std::to_string(columns)}});
    std::istringstream lines(outcome.out.substr(0, outcome.out.find("\nexample:\n")));
    std::size_t longest = 0;
    for (std::string line; std::getline(lines, line);) longest = std::max(longest, line.size());
    EXPECT_LE(longest, static_cast<std::size_t>(std::min(columns, 100))) << outcome.out;
  }
}

TEST_P(Help, WinsOverEverythingElseThatIsWellFormed) {
  const std::string command = GetParam();
  const Outcome outcome = command == "completion" || command == "man"
                              ? run_arbiter({command, "--output", "nowhere/at/all", "--help"})
                              : run_arbiter({command, "--json", "--help"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("example:"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Commands, Help,
                         ::testing::Values("doctor", "tune", "show", "inspect", "report", "bench", "verify",
                                           "catalogue", "render", "compile", "cache", "merge", "diff", "export",
                                           "import", "snapshot", "history", "forget", "run", "completion", "man"),
                         [](const auto& test) { return std::string(test.param); });

TEST(Overview, ListsEveryCommand) {
  const Outcome outcome = run_arbiter({"--help"});
  EXPECT_EQ(outcome.exit_code, 0);
  for (const char* command : {"doctor",    "tune",     "show",    "inspect", "report", "bench",      "verify",
                              "catalogue", "render",   "compile", "cache",   "merge",  "diff",       "export",
                              "import",    "snapshot", "history", "forget",  "run",    "completion", "man"}) {
    EXPECT_NE(outcome.out.find(std::string("  ") + command + " "), std::string::npos) << command;
  }
}

TEST(Overview, WithoutArgumentsIsUsage) {
  const Outcome outcome = run_arbiter({});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_NE(outcome.out.find("usage: arbiter <command>"), std::string::npos);
}

TEST(Overview, Version) {
  const Outcome outcome = run_arbiter({"--version"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.out.rfind("arbiter ", 0), 0U);
}

}  // namespace
}  // namespace arbiter::testing
