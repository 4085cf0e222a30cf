// `auto` beside every backend, NCCL first, on the same problems in the same minutes.
#pragma once

#include <atomic>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arbiter/communicator.hpp"
#include "arbiter/tuner/measure.hpp"
#include "arbiter/tuner/progress.hpp"
#include "arbiter/tuner/statistics.hpp"

namespace arbiter {

struct BenchOptions {
  std::vector<Problem> problems;  ///< world is that of the group; in_place false
  /// Work database whose trials say which candidate of each algorithm is best at a size (rank 0 reads it). Without
  /// one, or without a trial, the catalogue's default of that algorithm is timed.
  std::filesystem::path database;
  MeasureSettings measure;
  int samples = 30;  ///< at least, per result
  std::uint64_t seed = 1;
  const std::atomic<bool>* cancel = nullptr;  ///< on any rank: return the rows that are complete
};

/// One entry of a row: a time, or why there is none.
struct BenchResult {
  std::optional<Summary> time;
  std::string chosen;       ///< candidate name
  std::string rule;         ///< `auto` only: which rule chose it
  std::string unavailable;  ///< empty exactly when `time` is set
};

struct BenchRow {
  Problem problem;
  /// In this order: "auto", "nccl", "nccl_symmetric" and "nccl_registered" (the call on symmetric windows and on
  /// registered buffers: what a program would have to change its allocations for), then "<backend>/<algorithm>" in
  /// catalogue order.
  std::vector<std::pair<std::string, BenchResult>> results;
};

/// Collective. `communicator` must be on the same ranks and devices as `group`, and is prepared here for the problems.
/// Every result is verified before it is timed; all results of a row are sampled in interleaved blocks, so that their
/// ratios are fair. Rows are equal on all ranks.
std::vector<BenchRow> bench(Group& group, Communicator& communicator, const BenchOptions&, ProgressSink* = nullptr);

/// What `arbiter bench --json` prints. `command`, when not empty, is added at the top level (files under
/// bench/results/).
std::string bench_json(const Environment&, const std::vector<BenchRow>&, const std::string& command = {});

}  // namespace arbiter
