// What the database stores besides problems and decisions, as plain values. Field names are the column names.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/problem.hpp"
#include "arbiter/vocabulary.hpp"

namespace arbiter {

enum class Compatibility : std::uint8_t { equal, compatible, incompatible };

struct CompatibilityReport {
  Compatibility verdict{};
  std::vector<std::string> differences;  ///< "driver_version: 580.95 here, 580.82 measured"
  /// How near the two are: 1 for every field that differs, plus a fraction that grows with how far its numbers are
  /// apart. 0 when equal. The nearest of several compatible environments is the one with the smallest.
  double distance = 0;
};

/// May a decision for `candidate`, measured in `measured`, be used in `here`? What cannot touch a candidate does not
/// count, and is not said: NCCL's version and variables are those of candidates that use NCCL, the compiler and
/// symmetric memory those of our own kernels. The table is in docs/database.md. The number of ranks and the source
/// hash are not of the environment: the caller compares them. Where `timed` was recorded, another compiler is
/// compatible, and the caller asks exceeds() once the kernels are compiled.
CompatibilityReport compatibility(const Environment& here, const Environment& measured, const Candidate& candidate,
                                  const KernelUse& timed = {});

/// Why kernels that use this much are not those that were timed: more registers, or a spill that was not there.
/// Empty: they may serve, or one of the two is not known. "this compiler gives it 72 registers, measured with 64".
std::string exceeds(const KernelUse& here, const KernelUse& timed);

/// The most of both; not known if one of them is not.
KernelUse most_of(const KernelUse&, const KernelUse&) noexcept;

/// The distance of a report on everything that differs, whatever it touches. 0 exactly when the two are equal.
double environment_distance(const Environment& here, const Environment& measured);

/// May a decision that was measured on other machines, and is shipped for all like them, be used in `here`? GPU, SM
/// count, memory clock, links and number of nodes must be equal; everything else is only said.
CompatibilityReport same_hardware(const Environment& here, const Environment& measured);

enum class TrialStatus : std::uint8_t { running, done, wrong, failed, crashed, pruned };
std::string_view to_string(TrialStatus) noexcept;
TrialStatus parse_trial_status(std::string_view);

/// One candidate measured on one problem.
struct Trial {
  Problem problem;
  Candidate candidate;
  TrialStatus status{};
  std::string reason;              ///< why not `done`; of fp8_transport, its error
  int calls_per_sample = 0;        ///< K: calls in one graph or burst
  int blocks = 0;                  ///< thread blocks the candidate occupies (0 for nccl): the last tie-break
  std::vector<double> samples_us;  ///< microseconds per call; a sample is the slowest rank of one replay
  KernelUse use{};
};

/// For one environment and number of ranks, an interval of message sizes and the NCCL configuration that was fastest
/// there among NCCL's classic ones, plain allreduce: for programs that use only NCCL, which see bytes and ranks, not
/// dtypes and rows.
struct NcclChoice {
  int world = 0;
  std::int64_t bytes_min = 0;  ///< inclusive; of one rank's message
  std::int64_t bytes_max = 0;  ///< inclusive
  Candidate candidate;         ///< "nccl/classic" where NCCL's own choice could not be beaten
  double median_us = 0;        ///< at the largest measured size of the interval
  /// There: the fastest candidate that forces algorithm, protocol and channels, if one was measured. For readers that
  /// have no way to say "as NCCL chooses".
  std::optional<Candidate> forced;
  double forced_median_us = 0;
  bool operator==(const NcclChoice&) const = default;
};

/// A tune, as provenance. Never part of a key.
struct Run {
  std::string id;  ///< UUID
  std::string host;
  std::string command;
  std::int64_t started = 0;                          ///< seconds since the epoch
  std::int64_t finished = 0;                         ///< 0 while running
  int sm_clock_start_mhz = 0, sm_clock_end_mhz = 0;  ///< 0: not known, as on the CPU device
  int power_start_watts = 0, power_end_watts = 0;    ///< 0: not known
  bool clocks_dropped = false;                       ///< at some time by more than 5% below the highest clock before

  /// By more than a fifth between start and end. A GPU that measures draws more than one that is about to: a cap was
  /// lowered meanwhile, or something else ran at the start.
  bool power_dropped() const noexcept;
  /// "clocks", "power", "clocks and power", or nothing: what makes this run's measurements doubtful.
  std::string dropped() const;
  bool operator==(const Run&) const = default;
};

}  // namespace arbiter
