// The part of the doctor that needs a driver and GPUs.
#pragma once

#include <vector>

#include "arbiter/runtime/doctor.hpp"

namespace arbiter {

/// driver, cuda_devices, cuda_device_<n>, peer_access, topology. May throw what a broken driver makes CUDA throw.
std::vector<Capability> probe_cuda();

/// symmetric_memory_vmm and symmetric_memory_cuda_ipc, tried by one thread per visible GPU.
std::vector<Capability> probe_symmetric_providers();

/// Never creates a multicast object: reports what the device and the variables say.
Capability probe_multicast(const EnvironmentVariables& variables);

}  // namespace arbiter
