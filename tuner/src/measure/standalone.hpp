// The epilogue of a fused pattern as a kernel of its own: what fused results are compared with.
#pragma once

#include <memory>

#include "arbiter/runtime/candidate.hpp"

namespace arbiter::tuning {

/// Collective. A candidate that applies the epilogue of `family` to this rank's input and exchanges nothing.
/// Throws Unsupported, on every rank, if the catalogue has none for this device.
std::unique_ptr<RunnableCandidate> load_standalone(Group&, const ProblemFamily& family);

}  // namespace arbiter::tuning
