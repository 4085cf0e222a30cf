// Which provider serves which device.
#include "arbiter/runtime/symmetric_memory.hpp"

#include "cuda/symmetric.hpp"
#include "memory/shared_memory.hpp"

namespace arbiter {

std::string_view to_string(SymmetricProvider provider) noexcept {
  switch (provider) {
    case SymmetricProvider::vmm:
      return "vmm";
    case SymmetricProvider::cuda_ipc:
      return "cuda_ipc";
    case SymmetricProvider::shared_memory:
      return "shared_memory";
  }
  return "unknown";
}

std::vector<ProviderProbe> probe_symmetric_memory(Device& device, Bootstrap& bootstrap) {
  if (device.kind() == DeviceKind::cuda) return probe_cuda_symmetric(device, bootstrap);
  return {probe_shared_memory(device, bootstrap)};
}

std::unique_ptr<SymmetricMemory> allocate_symmetric(Device& device, Bootstrap& bootstrap, SymmetricProvider provider,
                                                    std::size_t bytes, bool multicast) {
  const bool wants_cuda = provider != SymmetricProvider::shared_memory;
  if (wants_cuda != (device.kind() == DeviceKind::cuda)) {
    throw InvalidArgument("symmetric memory '" + std::string(to_string(provider)) + "' does not exist on the " +
                          std::string(to_string(device.kind())) + " device; use " +
                          (wants_cuda ? "shared_memory" : "vmm or cuda_ipc"));
  }
  return wants_cuda ? allocate_cuda_symmetric(device, bootstrap, provider, bytes, multicast)
                    : allocate_shared_memory(device, bootstrap, bytes, multicast);
}

std::unique_ptr<SymmetricMemory> share_memory(Device& device, Bootstrap& bootstrap, void* data, std::size_t bytes) {
  if (device.kind() == DeviceKind::cuda) return share_cuda_memory(device, bootstrap, data, bytes);
  return share_own_memory(bootstrap, data, bytes);
}

}  // namespace arbiter
