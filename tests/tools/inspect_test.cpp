// arbiter inspect, on a database made for the purpose.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "arbiter/db/contents.hpp"
#include "example_database.hpp"
#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

class InspectCommand : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch = std::make_unique<ScratchDirectory>();
    ExampleShape shape;
    shape.tokens = {1, 64, 4096};
    shape.samples = 5;
    make_example_database(database(), shape);
  }
  static void TearDownTestSuite() { scratch.reset(); }
  static std::string database() { return scratch->file("example.db"); }
  static Outcome inspect(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"inspect", "--db", database()});
    return run_arbiter(arguments);
  }
  static void expect_refused(const std::vector<std::string>& arguments, int code,
                             const std::vector<std::string>& expected) {
    const Outcome outcome = inspect(arguments);
    EXPECT_EQ(outcome.exit_code, code) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    for (const std::string& text : expected) {
      EXPECT_NE(outcome.err.find(text), std::string::npos) << "expected '" << text << "' in: " << outcome.err;
    }
  }

  static std::unique_ptr<ScratchDirectory> scratch;
};

std::unique_ptr<ScratchDirectory> InspectCommand::scratch;

TEST_F(InspectCommand, ShowsEveryCandidate) {
  const Outcome outcome = inspect({"allreduce bf16 hidden=8192 tokens=64 world=4"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  for (const char* expected :
       {"allreduce bf16 hidden=8192 tokens=64 world=4 graph: 1 MiB\n", "Example GPU (cuda, 132 SMs)", "example-host",
        "2025-10-09 08:53 UTC", "winner [1]", "slower by ", "oneshot_push", "nccl", "GB/s", "regs", " 64+8 ",
        "x over NCCL", "wrong result [", "] rank 1, element 512", "failed [", "] rank 0 waited longer",
        "screened out [", "] slower than the best"}) {
    EXPECT_NE(outcome.out.find(expected), std::string::npos) << expected << "\n" << outcome.out;
  }
}

TEST_F(InspectCommand, TextWordsAndOptionsMeanTheSame) {
  const std::string text = inspect({"allreduce bf16 hidden=8192 tokens=64 world=4 graph"}).out;
  EXPECT_NE(text, "");
  EXPECT_EQ(inspect({"allreduce", "world=4", "tokens=64", "hidden=8192"}).out, text);
  EXPECT_EQ(inspect({"--pattern", "allreduce", "--dtype", "bf16", "--hidden", "8192", "--tokens", "64", "--world", "4",
                     "--mode", "graph"})
                .out,
            text);
  EXPECT_EQ(inspect({"allreduce", "tokens=64", "--hidden", "8192", "--world", "4"}).out, text);
}

TEST_F(InspectCommand, Json) {
  const Outcome outcome = inspect({"allreduce", "world=4", "tokens=4096", "hidden=8192", "--json"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const llvm::json::Value document = parse_object(outcome.out);
  expect_keys(&document, {"schema", "environment", "problem", "decision", "candidates"});
  expect_keys(member(document, "problem"),
              {"name", "pattern", "dtype", "hidden", "tokens", "world", "mode", "in_place", "bytes"});
  expect_keys(member(document, "decision"), {"tokens_min", "tokens_max", "candidate", "registers", "spill_bytes"});
  ASSERT_EQ(member(document, "candidates")->getAsArray()->size(), 9U);
  for (const llvm::json::Value& candidate : *member(document, "candidates")->getAsArray()) {
    expect_keys(
        &candidate,
        {"candidate",  "backend",    "algorithm", "numerics",       "source_hash",         "run",           "status",
         "reason",     "winner",     "verdict",   "blocks",         "calls_per_sample",    "samples",       "median_us",
         "ci_low_us",  "ci_high_us", "bimodal",   "slower_percent", "algorithm_bandwidth", "bus_bandwidth", "registers",
         "spill_bytes"});
  }
  EXPECT_EQ(member(document, "candidates[0].winner")->getAsBoolean(), true);
  EXPECT_EQ(member(document, "candidates[0].candidate")->getAsString(),
            member(document, "decision.candidate")->getAsString());
  const double us = *member(document, "candidates[0].median_us")->getAsNumber();
  const double bytes = 4096.0 * 8192 * 2;
  EXPECT_NEAR(*member(document, "candidates[0].algorithm_bandwidth")->getAsNumber() / (bytes / us * 1e6), 1, 1e-4);
  EXPECT_NEAR(*member(document, "candidates[0].bus_bandwidth")->getAsNumber() / (bytes / us * 1.5e6), 1, 1e-4);
  EXPECT_LE(*member(document, "candidates[0].ci_low_us")->getAsNumber(), us);
  EXPECT_EQ(*member(document, "candidates[8].median_us"), nullptr);
  EXPECT_EQ(member(document, "decision.registers")->getAsInteger(), 48);
  for (const llvm::json::Value& candidate : *member(document, "candidates")->getAsArray()) {
    const bool nccl = member(candidate, "backend")->getAsString() == llvm::StringRef("nccl");
    EXPECT_EQ(member(candidate, "registers")->getAsInteger().has_value(), !nccl);
  }
}

TEST_F(InspectCommand, SaysWhatIsMissing) {
  expect_refused({"allreduce", "world=4"}, 2, {"6 measured problems match", "hidden=4096,8192", "tokens=1,64,4096"});
  expect_refused({"allreduce", "world=4", "tokens=80", "hidden=8192"}, 1,
                 {"no such problem",
                  "arbiter inspect --db " + database() + " 'allreduce bf16 hidden=8192 tokens=64 world=4 graph'"});
  expect_refused({"allreduce", "world=8", "tokens=64", "hidden=7168"}, 1,
                 {" 'allreduce bf16 hidden=8192 tokens=64 world=4 graph'"});
  expect_refused({"alreduce", "world=4", "tokens=64", "hidden=8192"}, 1, {"'alreduce'", "did you mean 'allreduce'"});
  expect_refused({"allreduce", "world=4", "tokens=64", "hidden=8192", "in_place"}, 1, {"nearest"});
  expect_refused({"--environment", "zzz", "allreduce"}, 1, {"no such environment"});
}

TEST_F(InspectCommand, WhatItSuggestsItAccepts) {
  const std::string file = scratch->file("large.db");
  ExampleShape shape;
  shape.patterns = {"allreduce"};
  shape.worlds = {4};
  shape.samples = 5;
  for (const auto& [hidden, tokens] : {std::pair(64, 1L << 41), std::pair(2'000'000'000, 16L)}) {
    shape.hiddens = {hidden};
    shape.tokens = {tokens};
    shape.run = "e0a1b2c3-0000-4000-8000-" + std::to_string(100'000'000'000 + tokens % 1000);
    make_example_database(file, shape);
    const Outcome refused = run_arbiter({"inspect", "--db", file, "--hidden", std::to_string(hidden), "tokens=1"});
    const std::string name = fmt::format("allreduce bf16 hidden={} tokens={} world=4 graph", hidden, tokens);
    EXPECT_NE(refused.err.find("'" + name + "'"), std::string::npos) << refused.err;
    const Outcome accepted = run_arbiter({"inspect", "--db", file, name});
    EXPECT_EQ(accepted.exit_code, 0) << accepted.err;
  }
  EXPECT_EQ(run_arbiter({"inspect", "--db", file, "tokens=9223372036854775807"}).exit_code, 1);
  EXPECT_EQ(run_arbiter({"inspect", "--db", file, "tokens=9223372036854775808"}).exit_code, 2);
}

TEST_F(InspectCommand, RefusesWhatItDoesNotUnderstand) {
  expect_refused({"allreduce", "hiden=8192"}, 2, {"'hiden'", "'hidden'"});
  expect_refused({"allreduce", "tokens=many"}, 2, {"tokens 'many'", "whole number"});
  expect_refused({"allreduce", "tokens="}, 2, {"tokens= needs a value"});
  expect_refused({"allreduce", "8192"}, 2, {"'8192' is not understood", "hidden=8192"});
  expect_refused({"world=2", "--world", "4"}, 2, {"world is given twice"});
  expect_refused({"--dtype", "bf61"}, 2, {"'bf16'"});
}

TEST_F(InspectCommand, EachEnvironmentIsShownOnItsOwn) {
  ExampleShape shape;
  shape.tokens = {64};
  shape.worlds = {4};
  shape.hiddens = {8192};
  shape.samples = 5;
  const std::string file = scratch->file("two.db");
  make_example_database(file, shape);
  shape.gpu_name = "Another GPU";
  shape.run = "e0a1b2c3-0000-4000-8000-000000000002";
  make_example_database(file, shape);
  const Outcome both = run_arbiter({"inspect", "--db", file, "--pattern", "allreduce"});
  EXPECT_NE(both.out.find("Example GPU"), std::string::npos) << both.err;
  EXPECT_NE(both.out.find("Another GPU"), std::string::npos);
  const Outcome json = run_arbiter({"inspect", "--db", file, "--pattern", "allreduce", "--json"});
  EXPECT_NE(json.err.find("one of 2 environments; choose with --environment:"), std::string::npos) << json.err;
  const std::string key = member(parse_object(json.out), "environment.key")->getAsString()->substr(0, 12).str();
  EXPECT_EQ(run_arbiter({"inspect", "--db", file, "--pattern", "allreduce", "--json", "--environment", key}).out,
            json.out);
}

TEST_F(InspectCommand, ShowPlotsTheCurves) {
  const std::vector<std::string> arguments{"show",      "--db",    database(), "--plot",   "--pattern",
                                           "allreduce", "--world", "4",        "--hidden", "8192"};
  const std::map<std::string, std::string> plain{{"LC_ALL", "C"}, {"COLUMNS", "70"}};
  const Outcome outcome = run_arbiter(arguments, plain);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  for (const char* expected :
       {"allreduce bf16, hidden 8192, 4 ranks, graph", " wins  ", "trtllm/oneshot_push", "64 MiB"}) {
    EXPECT_NE(outcome.out.find(expected), std::string::npos) << expected << "\n" << outcome.out;
  }
  EXPECT_EQ(outcome.out.find_first_of("\033\xe2"), std::string::npos) << "plain ASCII was asked for";
  EXPECT_EQ(outcome.out.find("hidden 4096"), std::string::npos);
  const Outcome utf8 = run_arbiter(arguments, {{"LC_ALL", "C.UTF-8"}, {"COLUMNS", "70"}});
  EXPECT_NE(utf8.out.find("▲"), std::string::npos) << utf8.out;
  EXPECT_EQ(run_arbiter({"show", "--db", database(), "--plot", "--json"}).exit_code, 2);
  ASSERT_EQ(run_arbiter({"snapshot", "--db", database(), scratch->file("plotted.db")}).exit_code, 0);
  const Outcome snapshot = run_arbiter({"show", "--db", scratch->file("plotted.db"), "--plot"}, plain);
  EXPECT_EQ(snapshot.exit_code, 0) << snapshot.err;
  EXPECT_NE(snapshot.out.find("winners and runner-ups at one size of each interval"), std::string::npos)
      << snapshot.out;
  std::vector<DecisionSet> sets = read_decisions(database());
  for (Decision& decision : sets[0].decisions) decision.measured_tokens = not_recorded;
  write_snapshot(scratch->file("old.db"), sets);
  const Outcome old = run_arbiter({"show", "--db", scratch->file("old.db"), "--plot"}, plain);
  EXPECT_NE(old.out.find("winners and runner-ups where intervals end"), std::string::npos) << old.out;
}

TEST_F(InspectCommand, ASnapshotHasNoMeasurements) {
  ASSERT_EQ(run_arbiter({"snapshot", "--db", database(), scratch->file("snapshot.db")}).exit_code, 0);
  const Outcome outcome = run_arbiter({"inspect", "--db", scratch->file("snapshot.db"), "allreduce"});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(outcome.err.find("is a snapshot"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace arbiter::testing
