// What a tune would do, without doing it: for `arbiter tune --dry-run`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "arbiter/communicator.hpp"
#include "arbiter/generator/variant.hpp"
#include "ranks/session.hpp"

namespace arbiter::cli {

/// One family on one number of ranks.
struct PlannedFamily {
  ProblemFamily family;
  int world = 0;
  std::vector<std::int64_t> tokens;  ///< sizes measured for sure; where the winner changes, more between them
  std::size_t kernels = 0;           ///< variants of the catalogue that may be compiled
  std::size_t compiled = 0;          ///< about as many are, for each rank
  std::size_t trials = 0;            ///< candidates that are screened, about
  double seconds = 0;
};

struct TunePlan {
  std::string device;  ///< "2 NVIDIA H200", "the CPU device"
  std::vector<PlannedFamily> families;
  std::size_t kernels = 0;
  std::size_t trials = 0;
  double seconds = 0;  ///< an estimate, for an empty kernel cache: see uncertainty
};

/// Tunes on record took from 1 / uncertainty to uncertainty times their estimate. With kernels in the cache: less.
inline constexpr double uncertainty = 2;

/// Touches no device. In the order of `worlds`, then of `families`.
TunePlan plan_families(DeviceKind device, const TargetLimits& limits, const std::vector<int>& worlds,
                       const std::vector<ProblemFamily>& families, const std::vector<std::int64_t>& tokens,
                       NumericsPolicy numerics = NumericsPolicy::any);

/// Asks a GPU what it is, and touches no database. `tokens`: the sizes that were asked for; empty: the tuner's own
/// grid. `exhaustive`: with what the catalogue prunes.
TunePlan plan_tune(const SessionOptions& session, const std::vector<ProblemFamily>& families,
                   const std::vector<std::int64_t>& tokens, bool exhaustive);

}  // namespace arbiter::cli
