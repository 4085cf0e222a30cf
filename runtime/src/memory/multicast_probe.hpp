// Whether kernels may use multicast memory here.
#pragma once

#include <string>

#include "arbiter/bootstrap.hpp"
#include "arbiter/device.hpp"
#include "arbiter/generator/cache.hpp"
#include "arbiter/runtime/symmetric_memory.hpp"

namespace arbiter {

/// Collective. Allocates multicast memory, lets a kernel of every rank store to all and every rank read what arrived,
/// and lets every rank load a sum over all. Returns why that does not work, the same on every rank; empty if it does.
/// On CUDA this creates a multicast object: call it only where ARBITER_MULTICAST=on allows it.
std::string probe_multicast(Device&, Bootstrap&, SymmetricProvider, KernelCache&);

}  // namespace arbiter
