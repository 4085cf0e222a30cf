// The conformance cases: what every kernel must pass on whatever device this is.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/runtime/candidate.hpp"
#include "arbiter/tuner/progress.hpp"

namespace arbiter {

/// The areas, in the order in which they run: "plain", "tokens", "hidden sizes", "fusion", "quantisation", "group
/// sizes", "sentinel salt", "moe", "graphs", "grid changes", "numerics", "several communicators".
const std::vector<std::string_view>& conformance_areas();

enum class ConformanceSize : std::uint8_t {
  quick,  ///< a selection that takes minutes on the CPU device: every algorithm and dtype, a few hidden sizes, messages
          ///< up to 2 MB; of the fusion space every pair of parts (2 ranks, and on GPUs) or every part (more ranks)
  full,   ///< the whole list: every fused pattern in every dtype, and on GPUs every variant of the catalogue at one
          ///< shape
};

struct ConformanceOptions {
  ConformanceSize size = ConformanceSize::quick;
  std::vector<std::string> areas;       ///< of conformance_areas(); empty: all
  std::vector<std::string> algorithms;  ///< "oneshot_push" or "trtllm/oneshot_push"; empty: all
  std::uint64_t seed = 1;
  /// How many GPUs there are; larger worlds that kernels exist for are then listed as proven on the CPU device only, in
  /// the report of that many ranks. 0: they are not listed.
  int gpus = 0;
  /// How candidates are loaded, on this rank; empty: load_candidate.
  std::function<std::unique_ptr<RunnableCandidate>(Group&, const CandidateSpec&, const ProblemFamily&)> load;
  const std::atomic<bool>* cancel = nullptr;  ///< on any rank: the remaining cases are skipped
};

enum class CaseStatus : std::uint8_t { passed, failed, skipped };
std::string_view to_string(CaseStatus) noexcept;

struct CaseResult {
  std::string area;
  Backend backend{};      ///< automatic: through the communicator
  std::string algorithm;  ///< empty when several are mixed or the communicator chooses
  std::string pattern;
  Dtype dtype{};
  int world = 0;
  int hidden = 0;
  std::int64_t tokens = 0;  ///< the largest of the case
  std::string detail;       ///< what the case does beyond these fields
  std::string candidate;    ///< what was run; empty if nothing was
  CaseStatus status{};
  /// Skipped here for what this machine is, and run on the CPU device.
  bool cpu_only = false;
  std::string reason;  ///< why not passed: which rank, what was expected and what was found; empty if passed
};

struct ConformanceReport {
  Environment environment;
  std::vector<CaseResult> cases;
  std::size_t count(CaseStatus) const noexcept;
};

/// Collective; equal options on all ranks, equal reports. Creates its own group. Several ranks may share a GPU. Each
/// case has its own verdict: one that passes a deadline fails and the next one runs. Use a short deadline
/// (GroupOptions::variables.timeout). Throws InvalidArgument for an unknown area or algorithm, naming the nearest one,
/// and DeviceError on every rank when a device is lost.
ConformanceReport run_conformance(std::shared_ptr<Bootstrap>, std::shared_ptr<Device>, const GroupOptions&,
                                  const ConformanceOptions&, ProgressSink* = nullptr);

/// What `arbiter verify --json` prints; reports of several world sizes in one document. `command`, when not empty, is
/// added at the top level. Throws InvalidArgument for no reports.
std::string conformance_json(const std::vector<ConformanceReport>&, const std::string& command = {});

}  // namespace arbiter
