// Reading the fault record that kernels write when they give up waiting.
#pragma once

#include <string>

#include "arbiter/variables.hpp"
#include "candidate/abi.hpp"

namespace arbiter {

/// Cheap enough for every call: one load of host-visible memory.
inline bool is_poisoned(const arbiter_abi::FaultRecord& fault) noexcept {
  return __atomic_load_n(&fault.state, __ATOMIC_ACQUIRE) != 0;
}

/// "rank 0 waited 60.0 s for rank 2 (block 3, thread 5, phase 1: data pushed by a peer, epoch 17)". The variables say
/// how long its deadlines were.
std::string describe(const arbiter_abi::FaultRecord&, const EnvironmentVariables&);

/// Poisoned, with the description and what to do.
[[noreturn]] void throw_poisoned(const arbiter_abi::FaultRecord&, const EnvironmentVariables&);

}  // namespace arbiter
