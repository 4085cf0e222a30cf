// The JSON text that `arbiter show --json` prints: stable, so compared character by character.
#include "arbiter/db/json.hpp"

#include <llvm/Support/JSON.h>

#include "db/fixtures.hpp"

namespace arbiter::test {
namespace {

constexpr const char* expected_environment = R"({
  "key": "ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f",
  "device": "cuda",
  "gpu_name": "NVIDIA H200",
  "sm_count": 132,
  "compute_capability": 90,
  "memory_clock_mhz": 3201,
  "power_limit_watts": 700,
  "driver_version": "580.95",
  "cuda_runtime": "13.0",
  "compiler_version": "13.0",
  "nccl_version": "2.28.3",
  "topology": "nvlink_switch",
  "nodes": 1,
  "ranks_per_node": 4,
  "nvlink_domains": "1",
  "symmetric_memory": "vmm",
  "multicast": false,
  "nccl_variables": {
    "NCCL_ALGO": "Ring",
    "NCCL_PROTO": "LL,\"LL128\" = \\ ü"
  },
  "arbiter_version": "0.1.0",
  "catalogue_hash": "c0ffee"
})";

TEST(JsonTest, EnvironmentIsSpelledExactly) {
  EXPECT_EQ(environment_json(example_environment()), expected_environment);
}

TEST(JsonTest, AnEnvironmentCanBeIndented) {
  const std::string text = environment_json(example_environment(), 4);
  EXPECT_CONTAINS(text, "{\n      \"key\"");
  EXPECT_TRUE(text.ends_with("\n    }"));
}

TEST(JsonTest, DecisionsAreSpelledExactly) {
  DecisionSet set;
  set.decisions = example_decisions(1);
  set.decisions.push_back(set.decisions[0]);
  set.decisions[1].tokens_min = 101;
  set.decisions[1].tokens_max = 1'048'576;  // must not become 1.04858e+06
  set.decisions[1].median_us = 0.1 + 0.2;
  set.decisions[1].runner_up.reset();
  const Candidate own{Backend::nccl, "classic", "nccl/classic", Numerics::nccl, ""};
  const Candidate ring{Backend::nccl, "classic", "nccl/classic:algo=ring,channels=8,proto=ll128", Numerics::nccl, ""};
  set.environment.nodes = 2;
  set.environment.ranks_per_node = 4;
  set.nccl = {{4, 1, 65536, own, 9.5, {}, 0}, {8, 65537, 1 << 20, own, 12.25, ring, 13.5}};
  const std::string text = decisions_json(set);
  EXPECT_TRUE(text.starts_with("{\n  \"schema\": 1,\n  \"environment\": {\n    \"key\": "));
  const std::string expected = R"(  "decisions": [
    {
      "mode": "graph",
      "world": 2,
      "dtype": "bf16",
      "pattern": "allreduce",
      "hidden": 8192,
      "tokens_min": 1,
      "tokens_max": 100,
      "bytes_min": 16384,
      "bytes_max": 1638400,
      "backend": "trtllm",
      "algorithm": "oneshot_push",
      "candidate": "trtllm/oneshot_push:threads=256,vectors=1,cluster=1,blocks=0",
      "numerics": "rank_order_fp32",
      "median_us": 2.3,
      "registers": 40,
      "spill_bytes": 0,
      "runner_up": {
        "backend": "nccl",
        "algorithm": "classic",
        "median_us": 7.7
      }
    },
    {
      "mode": "graph",
      "world": 2,
      "dtype": "bf16",
      "pattern": "allreduce",
      "hidden": 8192,
      "tokens_min": 101,
      "tokens_max": 1048576,
      "bytes_min": 1654784,
      "bytes_max": 17179869184,
      "backend": "trtllm",
      "algorithm": "oneshot_push",
      "candidate": "trtllm/oneshot_push:threads=256,vectors=1,cluster=1,blocks=0",
      "numerics": "rank_order_fp32",
      "median_us": 0.30000000000000004,
      "registers": 40,
      "spill_bytes": 0,
      "runner_up": null
    }
  ],
  "nccl_choices": [
    {
      "world": 4,
      "nodes": 1,
      "bytes_min": 1,
      "bytes_max": 65536,
      "candidate": "nccl/classic",
      "algorithm": null,
      "protocol": null,
      "channels": null,
      "median_us": 9.5,
      "forced": null
    },
    {
      "world": 8,
      "nodes": 2,
      "bytes_min": 65537,
      "bytes_max": 1048576,
      "candidate": "nccl/classic",
      "algorithm": null,
      "protocol": null,
      "channels": null,
      "median_us": 12.25,
      "forced": {
        "candidate": "nccl/classic:algo=ring,channels=8,proto=ll128",
        "algorithm": "ring",
        "protocol": "ll128",
        "channels": 8,
        "median_us": 13.5
      }
    }
  ]
}
)";
  EXPECT_EQ(text.substr(text.find("  \"decisions\"")), expected);
}

TEST(JsonTest, WhatWasMeasuredStandsBesideADecision) {
  DecisionSet set;
  set.decisions.resize(2);
  set.decisions[0].median_us = 2;
  set.decisions[1].median_us = 2;
  set.decisions[1].tokens_min = 7;
  auto parsed = llvm::json::parse(decisions_json(set, [](const Decision& decision) {
    return decision.tokens_min == 7 ? DecisionMeasurements{} : DecisionMeasurements{64, 1 << 20, 7};
  }));
  ASSERT_TRUE(bool(parsed));
  const llvm::json::Array& decisions = *parsed->getAsObject()->getArray("decisions");
  const llvm::json::Object& known = *decisions[0].getAsObject();
  EXPECT_EQ(known.getInteger("measured_tokens"), 64);
  EXPECT_EQ(known.getInteger("measured_bytes"), 1 << 20);
  EXPECT_EQ(known.getNumber("nccl_us"), 7);
  EXPECT_EQ(known.getNumber("times_nccl"), 3.5);
  for (const char* name : {"measured_tokens", "measured_bytes", "nccl_us", "times_nccl"}) {
    const llvm::json::Value* value = decisions[1].getAsObject()->get(name);
    ASSERT_NE(value, nullptr) << name;
    EXPECT_TRUE(value->getAsNull()) << name;
  }
}

TEST(JsonTest, AnEmptySetIsValid) {
  auto parsed = llvm::json::parse(decisions_json({}));
  ASSERT_TRUE(bool(parsed));
  EXPECT_TRUE(parsed->getAsObject()->getArray("decisions")->empty());
}

TEST(JsonTest, BytesThatAreNotTextStillGiveJson) {
  DecisionSet set;
  set.environment.gpu_name = "bad \xff byte, \x01 control, \"quote\"";
  set.environment.nccl_variables["NCCL_\xfe"] = "\xfd";
  EXPECT_TRUE(bool(llvm::json::parse(decisions_json(set))));
}

}  // namespace
}  // namespace arbiter::test
