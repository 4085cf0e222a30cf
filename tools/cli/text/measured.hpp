// What the measurements in a database say about its decisions: at which size a time was taken, and NCCL's there.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "arbiter/db/contents.hpp"
#include "arbiter/db/json.hpp"

namespace arbiter::cli {

/// What was measured in one environment. A snapshot holds no measurements: the size is known from the decision itself
/// (since schema 4), and NCCL's time only where NCCL is the winner or the runner-up.
class Measurements {
 public:
  Measurements(const Contents& contents, const std::string& environment);

  DecisionMeasurements of(const Decision& decision) const;
  /// NCCL's fastest time on a problem of this family; 0 if it was not measured there.
  double nccl_us(const Decision& family, std::int64_t tokens) const;
  /// The largest size from `bytes_min` to `bytes_max` at which `candidate` was timed on plain allreduce; 0 if none.
  std::int64_t bytes_of(const NcclChoice& choice) const;
  bool any() const noexcept { return !times_.empty(); }

 private:
  struct Size {
    Problem problem;
    double nccl_us = 0;
    std::vector<std::string> timed;  ///< names of candidates
  };
  std::vector<Size> times_;
};

}  // namespace arbiter::cli
