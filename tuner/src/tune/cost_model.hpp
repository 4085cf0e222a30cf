// What a candidate will take on a size that it was not measured on: latency + bytes / bandwidth, fitted on this machine
// to what the tune has measured so far. It only says what is not worth timing; times are never taken from it.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <vector>

namespace arbiter::tuning {

/// A message of one rank, and how long the call took.
struct CostPoint {
  double bytes = 0;
  double us = 0;
};

struct CostLine {
  double latency_us = 0;
  double us_per_byte = 0;  ///< 1 / bandwidth
  double at(double bytes) const noexcept { return latency_us + us_per_byte * bytes; }
};

/// The line of least relative error with neither a negative latency nor a negative slope. At least one point; a single
/// one gives a constant.
CostLine fit_cost(std::span<const CostPoint>);

/// One candidate's time at the size that is being observed.
struct CostObservation {
  std::size_t candidate = 0;
  std::size_t group = 0;  ///< its algorithm
  double us = 0;
};

/// A prediction beside the measurement.
struct CostMiss {
  std::size_t candidate = 0;
  double ratio = 1;  ///< measured / predicted
};

/// Pure: the same observations, size by size, give the same predictions on every rank, and in a resumed run.
class CostModel {
 public:
  /// Everything measured at one size. What could be predicted before is compared with the prediction; returns the one
  /// that was furthest off. Times that are not finite and a candidate's second time at a size are no test of it.
  std::optional<CostMiss> observe(double bytes, std::span<const CostObservation>);

  /// From the candidate's own times at the nearest sizes; from a single one of them along the line of its algorithm;
  /// and for a candidate that was never measured, the fastest of its algorithm. Empty where that is not known, or more
  /// than 8 times away.
  std::optional<double> predict(std::size_t candidate, std::size_t group, double bytes) const;

  /// Is the candidate expected to be so much slower than `best_us` that timing it is a waste? The margin grows with how
  /// wrong nine in ten predictions have been.
  bool hopeless(std::size_t candidate, std::size_t group, double bytes, double best_us) const;
  double margin() const;

  std::size_t checked() const noexcept { return misses_.size(); }

 private:
  std::map<std::size_t, std::map<double, double>> own_;    ///< by candidate and bytes: microseconds
  std::map<std::size_t, std::map<double, double>> group_;  ///< by algorithm and bytes: the fastest
  std::vector<double> misses_;                             ///< |log(measured / predicted)|, ascending
};

}  // namespace arbiter::tuning
