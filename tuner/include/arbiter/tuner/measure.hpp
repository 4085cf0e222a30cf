// How long does a call take? Timed the way it will be used, on all ranks at once.
//
// A sample is one replay of a graph of K calls (mode `graph`) or one burst of K launches (mode `eager`), between two
// events on every rank, divided by K; the slowest rank counts. Replays of a block follow each other in the stream
// without a gap, so the host is not timed. The first one is discarded: it warms up, and it is the barrier, because no
// rank finishes an allreduce before all have arrived. That aligns ranks to within one call, which a host-side barrier
// between processes does not.
//
// Calls rotate over several sets of tensors: about 256 MB in all, but at least 2 and at most 8 sets. Messages of a few
// megabytes stay in the L2 cache, as they do in use, where the previous kernel has just written them; large ones do
// not.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "arbiter/runtime/candidate.hpp"
#include "arbiter/tuner/verify.hpp"

namespace arbiter {

struct MeasureSettings {
  double replay_us = 1000;  ///< K is chosen so that a replay takes about this long,
  int min_calls = 2;        ///< within these bounds
  int max_calls = 200;
  int calibration_calls = 5;  ///< launched one by one to estimate a call's time
  int replays = 5;            ///< samples of one block
  std::size_t rotated_bytes = 256U << 20;
  int max_sets = 8;

  /// The defaults above for cuda; a few calls and small bounds for cpu, where a call takes milliseconds.
  static MeasureSettings for_device(DeviceKind) noexcept;
};

/// K for a call that takes about `expected_us`.
int calls_for(double expected_us, const MeasureSettings&) noexcept;

/// The measurements of one problem. All functions are collective: every rank makes the same calls.
/// A subject that fails or passes a deadline is marked and left out; the group recovers and the others go on.
/// Throws DeviceError on every rank if a device is lost; the subject that lost it has its failure set.
class Timing {
 public:
  /// Allocates and fills the tensors. Throws Unavailable when there is not enough memory. With a verifier of the same
  /// family, which must outlive this, what is timed is what is verified: the graph itself is replayed (the burst
  /// issued) with new inputs and poisoned outputs before and after its samples, and a subject that is then wrong loses
  /// its samples. Null only for subjects that compute nothing.
  Timing(Group&, const ProblemFamily&, std::int64_t tokens, const MeasureSettings&, Verifier*);
  ~Timing();
  Timing(const Timing&) = delete;
  Timing& operator=(const Timing&) = delete;

  struct Entry {
    Subject subject;
    int calls = 0;           ///< K
    double estimate_us = 0;  ///< from the calibration: includes launch overhead
    std::vector<double> samples_us;
    std::string failure;                     ///< why it is left out; empty while it takes part
    TrialStatus status = TrialStatus::done;  ///< `wrong` or `failed` when it is left out
    bool verified = false;                   ///< since its graph was captured
    bool ok() const noexcept { return failure.empty(); }
  };

  /// Estimates the subject's time; returns its index. The subject must already be verified and the workspace large
  /// enough. Marked as failed, with a reason, if the estimate exceeds `give_up_us`, when that is positive.
  std::size_t add(Subject, double give_up_us = 0);

  enum class Recheck { no, yes };
  /// Verifies what will be timed, unless that was done since its graph was captured, then adds `rounds` blocks of
  /// samples to every entry in `which`, interleaved: each round visits all of them in an order that is drawn from
  /// `seed` (equal on all ranks). Captures graphs where there is none. Verifies again, unless `no`: a subject that is
  /// wrong by then has no samples. Without that, samples only say who is worth measuring again.
  void sample(std::span<const std::size_t> which, int rounds, std::uint64_t seed, Recheck = Recheck::yes);

  const Entry& entry(std::size_t index) const { return entries_.at(index); }
  /// The samples, which the entry then no longer has.
  std::vector<double> take_samples(std::size_t index);
  /// Drops the graph. Required of all entries before the workspace may grow: a captured call keeps its addresses.
  void release(std::size_t index);
  /// Of sample(), what verifying took.
  double verify_seconds() const noexcept { return verify_seconds_; }

 private:
  struct Impl;
  void capture(std::size_t index);
  void verify(std::size_t index, std::uint64_t seed, const char* when);
  void restore_inputs(std::span<const std::size_t> which);
  void leave_out(std::size_t index, TrialStatus, std::string reason);
  std::vector<Entry> entries_;
  std::unique_ptr<Impl> impl_;
  double verify_seconds_ = 0;
};

}  // namespace arbiter
