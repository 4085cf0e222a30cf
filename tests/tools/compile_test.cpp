// arbiter compile against a record of registers and spills, with a kernel that really spills.
#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

class CompileBaseline : public ::testing::Test {
 protected:
  void SetUp() override {
    if (run_arbiter({"doctor", "--require", "nvrtc"}).exit_code != 0) GTEST_SKIP() << "no NVRTC here";
  }

  /// 1024 threads have 64 registers each: two vectors of fp32 of 16 ranks do not fit.
  Outcome compile(std::vector<std::string> options, const std::string& threads = "1024") const {
    std::vector<std::string> arguments{
        "compile",
        "--target",
        "sm_90a",
        "--variant",
        "trtllm/twoshot_barrier:cluster=1,early_trigger=1,multicast=0,threads=" + threads + ",vectors=2",
        "--dtype",
        "fp32",
        "--world",
        "16",
        "--pattern",
        "allreduce"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    return run_arbiter(arguments, {{"ARBITER_CACHE_DIR", scratch.file("cache")}});
  }

  void write(const std::string& text) const { std::ofstream(record) << text; }

  /// The record of the spilling kernel, as if it had not spilled.
  std::string spotless() const {
    EXPECT_EQ(compile({"--record", record}).exit_code, 0);
    std::string text = read_text(record);
    const std::size_t line = text.find("\nsm_90a\t") + 1;
    const std::size_t spills = text.find('\t', text.find('\t', line) + 1) + 1;
    const std::size_t end = text.find('\t', spills);
    EXPECT_NE(text.substr(spills, end - spills), "0") << "this kernel no longer spills; the test needs another\n"
                                                      << text;
    return text.replace(spills, end - spills, "0");
  }

  const ScratchDirectory scratch;
  const std::string record = scratch.file("kernels.tsv");
};

TEST_F(CompileBaseline, TheRecordOfTodayPasses) {
  ASSERT_EQ(compile({"--record", record}).exit_code, 0);
  const Outcome outcome = compile({"--baseline", record});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.err, "");
}

TEST_F(CompileBaseline, ASpillThatWasNotThereFailsAndNamesTheKernel) {
  write(spotless());
  const Outcome outcome = compile({"--baseline", record});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(
      outcome.err.find("New spill: trtllm/twoshot_barrier:cluster=1,early_trigger=1,multicast=0,threads=1024,vectors=2 "
                       "allreduce fp32 world=16 for sm_90a spills "),
      std::string::npos)
      << outcome.err;
  EXPECT_NE(outcome.err.find("it did not before"), std::string::npos) << outcome.err;
  // Whatever compiled it then.
  std::string text = spotless();
  const std::size_t version = text.find("NVRTC ") + 6;
  write(text.replace(version, text.find('\n') - version, "11.1"));
  const Outcome other = compile({"--baseline", record});
  EXPECT_EQ(other.exit_code, 1);
  EXPECT_NE(other.err.find("was made with NVRTC 11.1; this is "), std::string::npos) << other.err;
}

TEST_F(CompileBaseline, IsReadBeforeItIsRenewed) {
  write(spotless());
  EXPECT_EQ(compile({"--baseline", record, "--record", record}).exit_code, 1);
  EXPECT_EQ(compile({"--baseline", record}).exit_code, 0);
}

TEST_F(CompileBaseline, AKernelThatTheRecordDoesNotHaveIsToldAndMayNotSpill) {
  ASSERT_EQ(compile({"--record", record}, "256").exit_code, 0);
  const Outcome spilling = compile({"--baseline", record});
  EXPECT_EQ(spilling.exit_code, 1);
  EXPECT_NE(spilling.err.find("it is not in the record"), std::string::npos) << spilling.err;
  const std::string text = read_text(record);
  write(text.substr(0, text.find('\n') + 1));
  const Outcome clean = compile({"--baseline", record}, "256");
  EXPECT_EQ(clean.exit_code, 0);
  EXPECT_NE(clean.err.find("Not in " + record + ": 1 kernel\n  trtllm/twoshot_barrier:"), std::string::npos)
      << clean.err;
  EXPECT_NE(clean.err.find("arbiter compile --coverage --record " + record), std::string::npos) << clean.err;
}

TEST_F(CompileBaseline, WhatIsNoRecordIsRefusedBeforeAnythingIsCompiled) {
  const Outcome missing = compile({"--baseline", record});
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_NE(missing.err.find(record), std::string::npos) << missing.err;
  write(spotless() + "sm_90a\t12\n");
  const Outcome outcome = compile({"--baseline", record});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find(record + ": line 3 of the record"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("sm_90a\t12"), std::string::npos) << outcome.err;
}

/// What a tune of the model would compile. Without a compiler nothing is, and every kernel is named.
TEST(CompileModel, LeavesOutWhatNobodyAllowed) {
  const ScratchDirectory scratch;
  const auto named = [&](const std::string& numerics) {
    const Outcome outcome = run_arbiter(
        {"compile", "--model", "llama-8b", "--world", "2", "--json"},
        {{"ARBITER_CACHE_DIR", scratch.file("cache")}, {"ARBITER_JIT", "off"}, {"ARBITER_NUMERICS", numerics}});
    std::set<bool> found;
    const llvm::json::Value document = parse_object(outcome.out);
    for (const llvm::json::Value& kernel : *member(document, "kernels")->getAsArray()) {
      found.insert(member(kernel, "variant")->getAsString()->contains("_push_fp8:"));
    }
    return found;
  };
  EXPECT_EQ(named("any"), std::set<bool>{false});
  EXPECT_EQ(named("lossy"), (std::set<bool>{false, true}));
}

}  // namespace
}  // namespace arbiter::testing
