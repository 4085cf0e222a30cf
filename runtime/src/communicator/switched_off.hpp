// What stands in the place of a candidate where Arbiter is switched off and NCCL cannot take the call.
#pragma once

#include <memory>

#include "arbiter/runtime/candidate.hpp"

namespace arbiter {

/// Its calls are refused (Unsupported) before anything is launched.
std::unique_ptr<RunnableCandidate> make_switched_off(const ProblemFamily&);

}  // namespace arbiter
