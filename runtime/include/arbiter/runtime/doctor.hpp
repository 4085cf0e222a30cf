// What this machine can do, and what stops it from doing more.
#pragma once

#include <string>
#include <vector>

#include "arbiter/variables.hpp"

namespace arbiter {

struct Capability {
  std::string name;  ///< "driver", "cuda_device_0", "symmetric_memory_vmm", ...
  bool ok = false;
  std::string value;   ///< what was found; may be empty
  std::string reason;  ///< why not, and what to do; empty if ok
  bool operator==(const Capability&) const = default;
};

/// Every capability that the runtime knows, always in the same order: driver, cuda_devices, cuda_device_<n> of each,
/// peer_access, topology, nvrtc, nccl, nccl_tuner_plugin, symmetric_memory_vmm, symmetric_memory_cuda_ipc, multicast,
/// host_compiler, cache_directory, database. Symmetric memory is tried for real, with one thread per visible GPU.
/// Multicast only where ARBITER_MULTICAST=on allows it: no multicast object is created otherwise. Never throws; takes
/// up to a few seconds with GPUs.
std::vector<Capability> probe_capabilities(const EnvironmentVariables&);

}  // namespace arbiter
