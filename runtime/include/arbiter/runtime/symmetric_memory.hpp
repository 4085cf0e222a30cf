// Memory that every rank allocates collectively and every rank's kernels can write.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/bootstrap.hpp"
#include "arbiter/device.hpp"

namespace arbiter {

class SymmetricMemory {
 public:
  virtual ~SymmetricMemory() = default;
  virtual SymmetricProvider provider() const noexcept = 0;
  virtual std::size_t bytes() const noexcept = 0;
  virtual void* local() const noexcept = 0;
  /// Rank r's memory as this rank's kernels address it; peer(own rank) == local().
  virtual void* peer(int rank) const noexcept = 0;
  /// The memory of all ranks at once, for the multicast instructions of kernels; null unless it was asked for.
  virtual void* multicast() const noexcept { return nullptr; }
};

/// One provider's answer on this group of ranks: proven by a write and a read across every pair of peers.
struct ProviderProbe {
  SymmetricProvider provider{};
  bool usable = false;  ///< on every rank
  std::string reason;   ///< why not; empty if usable
};

/// Collective. Tries every provider of the device kind functionally and votes.
std::vector<ProviderProbe> probe_symmetric_memory(Device&, Bootstrap&);

/// Collective. Zero-filled. `multicast`: with a multicast address (providers vmm and shared_memory). Only ask for it
/// where it is allowed: on CUDA this creates a multicast object. Throws Unavailable on every rank when any rank fails;
/// nothing is leaked.
std::unique_ptr<SymmetricMemory> allocate_symmetric(Device&, Bootstrap&, SymmetricProvider, std::size_t bytes,
                                                    bool multicast = false);

/// Collective. Make memory that the caller has allocated on this device, `bytes` on every rank, addressable by all
/// ranks; it stays the caller's and must outlive the result. Throws Unavailable on every rank when the memory of any
/// rank cannot be shared. On CUDA it must come from cudaMalloc: memory of pools and of expandable segments cannot be
/// shared. On the CPU device all ranks must be threads of one process.
std::unique_ptr<SymmetricMemory> share_memory(Device&, Bootstrap&, void* data, std::size_t bytes);

}  // namespace arbiter
