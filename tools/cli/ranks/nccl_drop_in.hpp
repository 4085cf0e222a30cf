// What libarbiter-nccl.so would do on this machine.
#pragma once

#include <vector>

#include "arbiter/runtime/doctor.hpp"

namespace arbiter::cli {

/// Capability "nccl_drop_in". `others` were probed before: opening the library comes last, because it is an NCCL for
/// whoever looks for one in this process afterwards. Never throws.
Capability probe_nccl_drop_in(const std::vector<Capability>& others);

}  // namespace arbiter::cli
