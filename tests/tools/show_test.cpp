// arbiter show and its sisters, as they look on a terminal of 80 columns, on databases made for the purpose.
#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "arbiter/db/contents.hpp"
#include "example_database.hpp"
#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

class Show : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch = std::make_unique<ScratchDirectory>();
    ExampleShape shape;
    shape.samples = 5;
    make_example_database(database(), shape);
  }
  static void TearDownTestSuite() { scratch.reset(); }
  static std::string database() { return scratch->file("example.db"); }

  static void expect_fits(const Outcome& outcome, const std::string& what) {
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_FALSE(outcome.out.empty()) << what;
    std::istringstream lines(outcome.out);
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 80U) << what << ": " << line;
  }

  static std::unique_ptr<ScratchDirectory> scratch;
};

std::unique_ptr<ScratchDirectory> Show::scratch;

TEST_F(Show, EightyColumnsAreEnough) {
  ExampleShape other;
  other.samples = 5;
  other.tokens = {1, 64, 512, 4096};
  other.run = "e0a1b2c3-0000-4000-8000-000000000002";
  make_example_database(scratch->file("other.db"), other);
  const std::string problem = "allreduce_residual_rmsnorm hidden=8192 tokens=64 world=4";
  const std::vector<std::vector<std::string>> commands{{"show", database()},
                                                       {"inspect", database(), problem},
                                                       {"diff", database(), scratch->file("other.db")},
                                                       {"catalogue"},
                                                       {"catalogue", "--explain", "--algorithm", "twoshot_push"},
                                                       {"doctor"}};
  for (const auto& command : commands) expect_fits(run_arbiter(command), command.front());
}

TEST_F(Show, SaysWhatAFileAmountsTo) {
  const Outcome outcome = run_arbiter({"show", database()});
  const std::string first = outcome.out.substr(0, outcome.out.find('\n'));
  const std::size_t decisions = read_contents(database()).decisions.begin()->second.size();
  EXPECT_NE(first.find("x over NCCL, " + std::to_string(decisions) + " decisions, 2, 4 ranks on Example GPU"),
            std::string::npos)
      << first;
  EXPECT_NE(outcome.out.find("vs NCCL"), std::string::npos) << outcome.out;
  // What is equal in all rows stands above them.
  EXPECT_NE(outcome.out.find("\nallreduce bf16, hidden 8192, 4 ranks, graph: "), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("cluster=1"), std::string::npos) << outcome.out;
}

/// 4.78 us of 1 MiB must not stand beside the 1.4 MiB up to which the decision holds.
TEST_F(Show, TimesStandBesideTheSizesTheyWereDecisionMeasurements) {
  const Contents contents = read_contents(database());
  const Decision& first = contents.decisions.begin()->second.front();
  ASSERT_EQ(first.pattern, "allreduce");
  ASSERT_EQ(first.hidden, 4096);
  std::int64_t measured = 0;
  for (const std::int64_t tokens : {1, 4, 16, 64, 256, 1024, 4096}) {
    if (tokens <= first.tokens_max) measured = tokens;
  }
  ASSERT_LT(measured, first.tokens_max) << "the interval ends where something was measured: the test proves nothing";
  const Outcome outcome =
      run_arbiter({"show", database(), "--world", "2", "--hidden", "4096", "--pattern", "allreduce"});
  const std::string interval = "1-" + std::to_string(first.tokens_max);
  const std::size_t at = outcome.out.find(" " + interval + " ");
  ASSERT_NE(at, std::string::npos) << outcome.out;
  const std::string row = outcome.out.substr(at, outcome.out.find('\n', at) - at);
  EXPECT_NE(row.find(" " + std::to_string(measured * 8 / 1024) + " MiB "), std::string::npos) << row;
  ASSERT_EQ(run_arbiter({"snapshot", database(), scratch->file("snapshot.db")}).exit_code, 0);
  const Outcome snapshot = run_arbiter({"show", scratch->file("snapshot.db")});
  EXPECT_NE(snapshot.out.find(row.substr(0, row.find(" MiB "))), std::string::npos) << "a snapshot knows it too:\n"
                                                                                    << snapshot.out;
  EXPECT_EQ(snapshot.out.find("a snapshot: times were taken"), std::string::npos) << snapshot.out;
}

/// Of a file from before the size was recorded the times stand beside the end of their interval, and that is said.
TEST_F(Show, ASnapshotThatDoesNotKnowTheSizesSaysSo) {
  std::vector<DecisionSet> sets = read_decisions(database());
  for (Decision& decision : sets[0].decisions) decision.measured_tokens = not_recorded;
  write_snapshot(scratch->file("older.db"), sets);
  const Outcome older = run_arbiter({"show", scratch->file("older.db")});
  EXPECT_NE(older.out.find("a snapshot: times were taken at some size of the interval"), std::string::npos);
  EXPECT_NE(older.out.find("up to"), std::string::npos) << older.out;
}

TEST_F(Show, TheExamplesOfRenderWork) {
  const std::string help = run_arbiter({"render", "--help"}).out;
  std::istringstream lines(help.substr(help.find("example:")));
  std::size_t run = 0;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string word;
    if (!(words >> word) || word != "arbiter") continue;
    std::vector<std::string> arguments;
    while (words >> word) arguments.push_back(word);
    const Outcome outcome = run_arbiter(arguments);
    EXPECT_EQ(outcome.exit_code, 0) << line << "\n" << outcome.err;
    EXPECT_FALSE(outcome.out.empty()) << line;
    ++run;
  }
  EXPECT_EQ(run, 2U);
}

TEST_F(Show, TheAxesOfAVariantMayComeInAnyOrder) {
  const std::string axes[] = {"threads=256,vectors=1,cluster=1,multicast=0,early_trigger=1",
                              "early_trigger=1,multicast=0,vectors=1,threads=256,cluster=1", "multicast=0,threads=256"};
  std::set<std::string> sources;
  for (const std::string& order : axes) {
    const Outcome outcome = run_arbiter({"render", "--variant", "trtllm/oneshot_push:" + order});
    EXPECT_EQ(outcome.exit_code, 0) << order << outcome.err;
    sources.insert(outcome.out);
  }
  EXPECT_EQ(sources.size(), 1U);
}

}  // namespace
}  // namespace arbiter::testing
