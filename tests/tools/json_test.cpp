// What programs read: every --json output parses and has the promised members.
#include <gtest/gtest.h>

#include <set>

#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

TEST(Json, Doctor) {
  const Outcome outcome = run_arbiter({"doctor", "--json"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const llvm::json::Value document = parse_object(outcome.out);
  EXPECT_EQ(member(document, "schema")->getAsInteger(), 1);
  const llvm::json::Array& capabilities = *member(document, "capabilities")->getAsArray();
  std::set<std::string> names;
  for (const llvm::json::Value& capability : capabilities) {
    expect_keys(&capability, {"name", "ok", "value", "reason"});
    names.insert(member(capability, "name")->getAsString()->str());
    if (!*member(capability, "ok")->getAsBoolean()) {
      EXPECT_FALSE(member(capability, "reason")->getAsString()->empty()) << "a capability is missing without a reason";
    }
  }
  for (const char* expected :
       {"driver", "cuda_devices", "nvrtc", "nccl", "nccl_tuner_plugin", "multicast", "cache_directory"}) {
    EXPECT_TRUE(names.contains(expected)) << expected;
  }
  expect_keys(member(document, "variables[0]"), {"name", "value", "set", "description"});
}

/// Only what the user set is "set": this program offers NCCL its own plugin.
TEST(Json, DoctorTellsWhatTheUserSet) {
  for (const bool set : {false, true}) {
    const Outcome outcome = run_arbiter({"doctor", "--json"}, {{"NCCL_TUNER_PLUGIN", set ? "none" : ""}});
    const llvm::json::Value document = parse_object(outcome.out);
    for (const llvm::json::Value& variable : *member(document, "variables")->getAsArray()) {
      if (member(variable, "name")->getAsString() != "NCCL_TUNER_PLUGIN") continue;
      EXPECT_EQ(member(variable, "set")->getAsBoolean(), set);
      if (set) {
        EXPECT_EQ(member(variable, "value")->getAsString(), "none");
      }
    }
  }
}

TEST(Json, FailuresAreObjectsToo) {
  const Outcome failure = run_arbiter({"show", "/nowhere/none.db", "--json"});
  EXPECT_EQ(failure.exit_code, 1);
  const llvm::json::Value document = parse_object(failure.out);
  EXPECT_EQ(member(document, "schema")->getAsInteger(), 1);
  EXPECT_EQ(member(document, "error.kind")->getAsString(), "failure");
  EXPECT_EQ(member(document, "error.exit_status")->getAsInteger(), 1);
  EXPECT_NE(member(document, "error.message")->getAsString()->find("/nowhere/none.db"), llvm::StringRef::npos);
  EXPECT_NE(failure.err.find("/nowhere/none.db"), std::string::npos) << "people read it on standard error";

  const Outcome usage = run_arbiter({"tune", "--json", "--quik"});
  EXPECT_EQ(usage.exit_code, 2);
  EXPECT_EQ(member(parse_object(usage.out), "error.kind")->getAsString(), "usage");
  EXPECT_EQ(run_arbiter({"shwo", "--json"}).exit_code, 2);
  // Behind "--" it is another program's.
  EXPECT_EQ(run_arbiter({"run", "--", "/nowhere/program", "--json"}).out, "");
}

TEST(Json, RenderList) {
  const Outcome outcome = run_arbiter({"render", "--list", "--json", "--pattern", "allreduce_residual_rmsnorm"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const llvm::json::Value document = parse_object(outcome.out);
  ASSERT_FALSE(member(document, "variants")->getAsArray()->empty());
  expect_keys(member(document, "variants[0]"),
              {"name", "backend", "algorithm", "pattern", "dtype", "world", "hidden", "parameters"});
}

TEST(Json, CompileForTheCpu) {
  const ScratchDirectory cache;
  const std::vector<std::string> command{"compile",  "--target", "cpu",    "--algorithm", "trtllm/oneshot_push",
                                         "--hidden", "1024",     "--json", "--pattern",   "allreduce_residual_rmsnorm"};
  for (const bool cached : {false, true}) {
    const Outcome outcome = run_arbiter(command, {{"ARBITER_CACHE_DIR", cache.path().string()}});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    const llvm::json::Value document = parse_object(outcome.out);
    expect_keys(member(document, "kernels[0]"), {"target", "variant", "cached", "milliseconds", "registers",
                                                 "shared_bytes", "spill_bytes", "image_bytes"});
    EXPECT_EQ(member(document, "kernels[0].cached")->getAsBoolean(), cached);
  }
  const Outcome list = run_arbiter({"cache", "list", "--json"}, {{"ARBITER_CACHE_DIR", cache.path().string()}});
  ASSERT_EQ(list.exit_code, 0) << list.err;
  const llvm::json::Value document = parse_object(list.out);
  EXPECT_EQ(member(document, "directory")->getAsString(), cache.path().string());
  expect_keys(member(document, "entries[0]"), {"key", "name", "target", "bytes", "last_used"});
}

TEST(Json, CompileWithNvrtc) {
  const Outcome doctor = run_arbiter({"doctor", "--require", "nvrtc"});
  if (doctor.exit_code != 0) GTEST_SKIP() << "no NVRTC here";
  const ScratchDirectory cache;
  const Outcome outcome = run_arbiter({"compile", "--algorithm", "trtllm/oneshot_push", "--target", "sm_90a,sm_100a",
                                       "--pattern", "allreduce_residual_rmsnorm", "--hidden", "2048", "--json"},
                                      {{"ARBITER_CACHE_DIR", cache.path().string()}});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const llvm::json::Value document = parse_object(outcome.out);
  std::set<std::string> targets;
  for (const llvm::json::Value& kernel : *member(document, "kernels")->getAsArray()) {
    targets.insert(member(kernel, "target")->getAsString()->str());
    EXPECT_GT(*member(kernel, "registers")->getAsInteger(), 0);
    EXPECT_GT(*member(kernel, "milliseconds")->getAsNumber(), 0);
  }
  EXPECT_EQ(targets, (std::set<std::string>{"sm_100a", "sm_90a"}));
}

TEST(Json, AMissInTheCacheWithoutJitNamesTheVariant) {
  const ScratchDirectory cache;
  const Outcome outcome = run_arbiter({"compile", "--target", "cpu", "--algorithm", "trtllm/twoshot_barrier", "--json"},
                                      {{"ARBITER_CACHE_DIR", cache.path().string()}, {"ARBITER_JIT", "off"}});
  EXPECT_EQ(outcome.exit_code, 1);
  const llvm::json::Value document = parse_object(outcome.out);
  EXPECT_NE(member(document, "kernels[0].error")->getAsString()->find("twoshot_barrier"), llvm::StringRef::npos);
}

TEST(Json, CacheVerifyFindsWhatIsBroken) {
  const ScratchDirectory cache;
  const std::map<std::string, std::string> variables{{"ARBITER_CACHE_DIR", cache.path().string()}};
  ASSERT_EQ(run_arbiter({"compile", "--target", "cpu", "--algorithm", "trtllm/twoshot_barrier", "--pattern",
                         "allreduce_residual", "--hidden", "512"},
                        variables)
                .exit_code,
            0);
  std::size_t damaged = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(cache.path())) {
    if (entry.is_regular_file() && entry.file_size() > 1000) {
      std::filesystem::resize_file(entry.path(), entry.file_size() / 2);
      ++damaged;
    }
  }
  ASSERT_GT(damaged, 0U);
  const llvm::json::Value document = parse_object(run_arbiter({"cache", "verify", "--json"}, variables).out);
  EXPECT_GT(*member(document, "removed")->getAsInteger(), 0);
  EXPECT_EQ(*member(document, "good")->getAsInteger(), 0);
  EXPECT_EQ(run_arbiter({"cache", "clear"}, variables).exit_code, 0);
}

}  // namespace
}  // namespace arbiter::testing
