// Symmetric memory of the CPU device, for ranks that are threads or processes of one host.
#pragma once

#include <cstddef>
#include <memory>

#include "arbiter/runtime/symmetric_memory.hpp"

namespace arbiter {

/// Collective. See allocate_symmetric and probe_symmetric_memory.
std::unique_ptr<SymmetricMemory> allocate_shared_memory(Device&, Bootstrap&, std::size_t bytes, bool multicast);
ProviderProbe probe_shared_memory(Device&, Bootstrap&);
/// Collective. See share_memory.
std::unique_ptr<SymmetricMemory> share_own_memory(Bootstrap&, void* data, std::size_t bytes);

}  // namespace arbiter
