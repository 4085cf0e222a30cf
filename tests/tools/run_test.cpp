// arbiter run: what it sets, what it says, and that the program gets its arguments as they are.
#include <gtest/gtest.h>

#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

TEST(Run, SetsThePreloadAndPassesArgumentsOn) {
  const Outcome outcome = run_arbiter({"run", "--verify", "7", "--", "sh", "-c",
                                       "echo \"$0 $1|$LD_PRELOAD|$ARBITER_NCCL|$VLLM_NCCL_SO_PATH\"", "--json", "-x"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out.rfind("--json -x|/", 0), 0U) << outcome.out;
  EXPECT_NE(outcome.out.find("/libarbiter-nccl.so|verify:7|/"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.err.find("arbiter run: LD_PRELOAD=/"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("arbiter run: ARBITER_NCCL=verify:7"), std::string::npos) << outcome.err;
}

TEST(Run, KeepsWhatTheUserSet) {
  const Outcome outcome = run_arbiter({"run", "--", "sh", "-c", "echo \"$LD_PRELOAD|$VLLM_NCCL_SO_PATH\""},
                                      {{"LD_PRELOAD", "libm.so.6"}, {"VLLM_NCCL_SO_PATH", "/mine.so"}});
  EXPECT_NE(outcome.out.find("/libarbiter-nccl.so:libm.so.6|/mine.so"), std::string::npos)
      << outcome.out << outcome.err;
}

TEST(Run, TheProgramsExitCodeIsItsOwn) {
  EXPECT_EQ(run_arbiter({"run", "--", "sh", "-c", "exit 5"}).exit_code, 5);
  const Outcome missing = run_arbiter({"run", "--", "/no/such/program"});
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_NE(missing.err.find("/no/such/program"), std::string::npos) << missing.err;
}

TEST(Run, WrongUsage) {
  EXPECT_EQ(run_arbiter({"run"}).exit_code, 2);
  EXPECT_EQ(run_arbiter({"run", "--db", "/no/such.db", "--", "true"}).exit_code, 2);
  EXPECT_EQ(run_arbiter({"run", "--verify", "0", "--", "true"}).exit_code, 2);
}

TEST(Run, JsonStartsNothing) {
  const Outcome outcome = run_arbiter({"run", "--json", "--", "sh", "-c", "exit 9"});
  EXPECT_EQ(outcome.exit_code, 0);
  const llvm::json::Value report = parse_object(outcome.out);
  EXPECT_NE(member(report, "variables.LD_PRELOAD"), nullptr);
}

}  // namespace
}  // namespace arbiter::testing
