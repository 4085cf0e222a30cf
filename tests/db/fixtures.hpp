// Example records and scratch files for the tests of the database layer.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "arbiter/db/database.hpp"
#include "arbiter/error.hpp"

// Builds in which tests of speed mean nothing and exhaustive ones are thinned out.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(NDEBUG)
#define ARBITER_SLOW_BUILD 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define ARBITER_SLOW_BUILD 1
#endif
#endif

namespace arbiter::test {

class ScratchDirectory {
 public:
  ScratchDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "arbiter-db-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::permissions(path_, std::filesystem::perms::owner_all, ignored);
    std::filesystem::remove_all(path_, ignored);
  }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline void write_file(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// The names in a directory and the bytes of its files: equal before and after means that nothing was written there.
inline std::vector<std::pair<std::string, std::string>> contents(const std::filesystem::path& directory) {
  std::vector<std::pair<std::string, std::string>> all;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    all.emplace_back(entry.path().filename().string(), entry.is_regular_file() ? read_file(entry.path()) : "");
  }
  std::sort(all.begin(), all.end());
  return all;
}

inline Environment example_environment() {
  Environment environment;
  environment.device = "cuda";
  environment.gpu_name = "NVIDIA H200";
  environment.sm_count = 132;
  environment.compute_capability = 90;
  environment.memory_clock_mhz = 3201;
  environment.power_limit_watts = 700;
  environment.driver_version = "580.95";
  environment.cuda_runtime = "13.0";
  environment.compiler_version = "13.0";
  environment.nccl_version = "2.28.3";
  environment.topology = "nvlink_switch";
  environment.nodes = 1;
  environment.ranks_per_node = 4;
  environment.nvlink_domains = "1";
  environment.symmetric_memory = "vmm";
  environment.multicast = false;
  environment.nccl_variables = {{"NCCL_ALGO", "Ring"}, {"NCCL_PROTO", "LL,\"LL128\" = \\ ü"}};
  environment.arbiter_version = "0.1.0";
  environment.catalogue_hash = "c0ffee";
  return environment;
}

inline Environment other_environment() {
  Environment environment = example_environment();
  environment.gpu_name = "NVIDIA H100";
  return environment;
}

inline Problem example_problem(std::int64_t tokens = 64) {
  return {.pattern = "allreduce_residual_rmsnorm",
          .dtype = Dtype::bf16,
          .hidden = 8192,
          .tokens = tokens,
          .world = 4,
          .mode = Mode::graph,
          .in_place = false};
}

inline Candidate example_candidate(int number = 0) {
  return {.backend = Backend::trtllm,
          .algorithm = "oneshot_push",
          .name = "trtllm/oneshot_push:threads=256,vectors=1,cluster=1,blocks=" + std::to_string(number),
          .numerics = Numerics::rank_order_fp32,
          .source_hash = "feed" + std::to_string(number)};
}

inline Candidate nccl_candidate() {
  return {.backend = Backend::nccl,
          .algorithm = "classic",
          .name = "nccl/classic",
          .numerics = Numerics::nccl,
          .source_hash = ""};
}

inline Trial done_trial(std::int64_t tokens = 64, int candidate = 0) {
  return {.problem = example_problem(tokens),
          .candidate = example_candidate(candidate),
          .status = TrialStatus::done,
          .reason = "",
          .calls_per_sample = 50,
          .blocks = 16,
          .samples_us = {2.5, 2.4375, 0.1, 1e-9, 12345.678},
          .use = {64, 0}};
}

/// `count` decisions in several families, in the order of DecisionSet::decisions.
inline std::vector<Decision> example_decisions(int count = 12) {
  std::vector<Decision> decisions;
  for (const Mode mode : {Mode::graph, Mode::eager}) {
    for (const int world : {2, 4}) {
      for (const Dtype dtype : {Dtype::bf16, Dtype::fp32}) {
        for (const char* pattern : {"allreduce", "allreduce_residual_rmsnorm"}) {
          const int intervals = (count + 15) / 16;
          for (int i = 0; i < intervals; ++i) {
            if (static_cast<int>(decisions.size()) == count) return decisions;
            Decision decision;
            decision.pattern = pattern;
            decision.dtype = dtype;
            decision.hidden = 8192;
            decision.world = world;
            decision.mode = mode;
            decision.tokens_min = 100 * i + 1;
            decision.tokens_max = 100 * i + 100;
            decision.candidate = example_candidate(i % 7);
            decision.median_us = 2.3 + 0.1 * i;
            if (i % 4 != 3) decision.measured_tokens = 100 * i + 64;
            if (i % 5 != 4) decision.use = {40 + i, 8 * (i % 2)};
            if (i % 3 != 2) {
              decision.runner_up = nccl_candidate();
              decision.runner_up_median_us = 7.7 + i;
              if (i % 2 == 1) decision.runner_up_use = {32, 0};
            }
            decisions.push_back(decision);
          }
        }
      }
    }
  }
  return decisions;
}

/// The message of the DatabaseError that `action` throws; fails the test if it throws none.
template <typename Action>
std::string message_of(Action&& action) {
  try {
    action();
  } catch (const DatabaseError& error) {
    return error.what();
  }
  ADD_FAILURE() << "expected a DatabaseError";
  return {};
}

#define EXPECT_CONTAINS(text, part) \
  EXPECT_NE(std::string(text).find(part), std::string::npos) << "got: " << (text) << "\nexpected in it: " << (part)

}  // namespace arbiter::test
