// Environments and decisions as JSON text, in the shapes that `arbiter ... --json` prints. Stable: extended, not
// changed.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "arbiter/db/database.hpp"

namespace arbiter {

/// An object with one member per field of Environment, in that order, and "key" in front
/// (nvlink_domains only where it was recorded). Every number is exact.
/// Lines after the first are indented by `indent` further spaces, so that the object can be placed inside another.
std::string environment_json(const Environment&, unsigned indent = 0);

/// What a database's measurements say about a decision. 0: not known.
struct DecisionMeasurements {
  std::int64_t tokens = 0;  ///< where the decision's time was taken: the largest measured size of its interval
  std::int64_t bytes = 0;
  double nccl_us = 0;  ///< the fastest of NCCL's candidates at that size
};

/// What `arbiter show --json` prints, with a newline at the end:
/// {"schema": 1, "environment": {...}, "decisions": [{...}], "nccl_choices": [{...}]}. A decision without a runner-up
/// has "runner_up": null; of an NCCL choice, null is what is left to NCCL. With `measurements`, every decision has
/// "measured_tokens", "measured_bytes", "nccl_us" and "times_nccl" (nccl_us / median_us), null where it is not known.
std::string decisions_json(const DecisionSet&,
                           const std::function<DecisionMeasurements(const Decision&)>& measurements = {});

}  // namespace arbiter
