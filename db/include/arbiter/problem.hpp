// What is asked, what serves it, where that was measured and what was decided, as plain values. Field names are the
// database's column names.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "arbiter/vocabulary.hpp"

namespace arbiter {

/// The fingerprint of where a measurement was taken. Equal fingerprints have equal `key()`.
struct Environment {
  std::string device;    ///< "cuda" or "cpu"
  std::string gpu_name;  ///< "NVIDIA H200", or the processor's name on the CPU device
  int sm_count = 0;
  int compute_capability = 0;  ///< 90; 0 on the CPU device
  int memory_clock_mhz = 0;
  int power_limit_watts = 0;
  std::string driver_version;    ///< "580.95", empty on the CPU device
  std::string cuda_runtime;      ///< "13.0"
  std::string compiler_version;  ///< NVRTC "13.0", or the host compiler's identity on the CPU device
  std::string nccl_version;      ///< "2.28.3", empty without NCCL
  std::string topology;          ///< "nvlink_switch", "nvlink_bridge", "pcie", "shared_memory", "single"
  int nodes = 1;
  int ranks_per_node = 0;  ///< GPUs of a node that are visible to the tune, not the world size of a problem
  /// How many nodes each NVLink domain of the group spans, largest first: "1" within one node, "1+1" for two nodes that
  /// NVLink does not join, "2" for two nodes of one domain; "none" without NVLink; empty: not recorded.
  std::string nvlink_domains;
  std::string symmetric_memory;                       ///< provider: "vmm", "cuda_ipc", "shared_memory"
  bool multicast = false;                             ///< usable and allowed
  std::map<std::string, std::string> nccl_variables;  ///< NCCL_* that change behaviour
  std::string arbiter_version;
  std::string catalogue_hash;

  /// SHA-256 over every field above, in a fixed order (nvlink_domains only where it was recorded: keys never change).
  std::string key() const;
  bool operator==(const Environment&) const = default;
};

/// What is asked. `tokens` rows of `hidden` elements are reduced over `world` ranks.
struct Problem {
  std::string pattern;  ///< catalogue spelling
  Dtype dtype{};
  int hidden = 0;  ///< elements
  std::int64_t tokens = 0;
  int world = 0;
  Mode mode{};
  bool in_place = false;  ///< output is input

  std::int64_t bytes() const noexcept;  ///< tokens * hidden * element size: one rank's message
  std::string key() const;              ///< SHA-256 over every field
  std::string name() const;             ///< "allreduce bf16 hidden=8192 tokens=64 world=2 graph"
  bool operator==(const Problem&) const = default;
};

/// The thing that is timed.
struct Candidate {
  Backend backend{};
  std::string algorithm;  ///< "oneshot_push"; "classic" or "symmetric" for nccl
  /// Canonical text, unique within a pattern: "trtllm/oneshot_push:threads=256,vectors=1,cluster=1,blocks=16";
  /// "+epilogue:threads=512,..." behind it when the pattern runs as a plain allreduce followed by the stand-alone
  /// kernel.
  std::string name;
  Numerics numerics{};
  std::string source_hash;  ///< over the sources of all ranks; empty for nccl

  std::string key() const;  ///< SHA-256 over name and source_hash
  bool operator==(const Candidate&) const = default;
};

/// Of a number that databases of schemas 1 to 3 do not hold, or that nobody knows.
inline constexpr int not_recorded = -1;

/// What the compiler gave the kernels that were timed: of several kernels or ranks, the most that any of them has. Of
/// NCCL and on the CPU device it is not known.
struct KernelUse {
  int registers = not_recorded;    ///< per thread
  int spill_bytes = not_recorded;  ///< of local memory for want of registers: stores and loads
  bool operator==(const KernelUse&) const = default;
};

/// For one environment and one problem family, an interval of tokens and the candidate that won it.
struct Decision {
  std::string pattern;
  Dtype dtype{};
  int hidden = 0;
  int world = 0;
  Mode mode{};
  std::int64_t tokens_min = 0;  ///< inclusive
  std::int64_t tokens_max = 0;  ///< inclusive
  Candidate candidate;
  double median_us = 0;  ///< at the largest measured token count of the interval
  /// The fastest of another algorithm. Where the winner is of class fp8_transport: who won among all others, and serves
  /// wherever that class is not allowed.
  std::optional<Candidate> runner_up;
  double runner_up_median_us = 0;
  std::int64_t measured_tokens = not_recorded;  ///< where the times were taken
  KernelUse use{};                              ///< of the candidate's kernels as they were timed
  KernelUse runner_up_use{};                    ///< likewise

  std::int64_t bytes_min() const noexcept;
  std::int64_t bytes_max() const noexcept;
  bool operator==(const Decision&) const = default;
};

}  // namespace arbiter
