// Tensors that peers can address: kernels read and write them where they lie instead of through the workspace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "arbiter/bootstrap.hpp"
#include "arbiter/device.hpp"
#include "arbiter/runtime/symmetric_memory.hpp"

namespace arbiter {

/// Collective. This rank's memory as each rank addresses it.
std::vector<void*> seen_by_peers(const SymmetricMemory&, Bootstrap&);

class SharedBuffers {
 public:
  /// `provider` empty: nothing can be shared, and the calls below say so.
  /// `multicast`: what allocate() returns lies in multicast memory.
  SharedBuffers(Device&, Bootstrap&, std::optional<SymmetricProvider> provider, bool multicast);

  /// Collective. Zero-filled memory of `bytes` on every rank; released by release() or with this object.
  void* allocate(std::size_t bytes);
  /// Collective. Share memory of the caller, which stays the owner. Throws Unavailable on every rank, with the first
  /// reason, when the memory of any rank cannot be shared.
  void add(void* data, std::size_t bytes);
  /// Collective. Every rank passes what it got from allocate() or gave to add(), in the same order. Throws
  /// InvalidArgument on every rank, and changes nothing, when a rank passes something else.
  void release(const void* data);

  struct Buffer {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    std::uint64_t number = 0;  ///< counts from 1, in the order of creation: equal on all ranks
    bool allocated = false;
    std::unique_ptr<SymmetricMemory> memory;
    std::vector<void*> seen_by;
  };
  /// The buffer that holds all of [data, data + bytes); null if there is none. No allocation, no lock.
  const Buffer* find(const void* data, std::uint64_t bytes) const noexcept;
  bool empty() const noexcept { return buffers_.empty(); }

 private:
  void insert(std::unique_ptr<SymmetricMemory>, bool allocated);
  void require_provider() const;

  Device& device_;
  Bootstrap& bootstrap_;
  std::optional<SymmetricProvider> provider_;
  bool multicast_ = false;
  std::uint64_t created_ = 0;
  std::vector<Buffer> buffers_;  // by address
};

}  // namespace arbiter
