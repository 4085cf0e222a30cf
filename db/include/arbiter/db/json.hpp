// Environments and decisions as JSON text, in the shapes that `arbiter ... --json` prints. Stable: extended, not
// changed.
#pragma once

#include <string>

#include "arbiter/db/database.hpp"

namespace arbiter {

/// An object with one member per field of Environment, in that order, and "key" in front
/// (nvlink_domains only where it was recorded). Every number is exact.
/// Lines after the first are indented by `indent` further spaces, so that the object can be placed inside another.
std::string environment_json(const Environment&, unsigned indent = 0);

/// What `arbiter show --json` prints, with a newline at the end:
/// {"schema": 1, "environment": {...}, "decisions": [{...}], "nccl_choices": [{...}]}. A decision without a runner-up
/// has "runner_up": null; of an NCCL choice, null is what is left to NCCL.
std::string decisions_json(const DecisionSet&);

}  // namespace arbiter
