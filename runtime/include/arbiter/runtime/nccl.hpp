// NCCL, opened with dlopen: the one already in the process if there is one.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "arbiter/runtime/bootstrap.hpp"
#include "arbiter/runtime/device.hpp"
#include "arbiter/vocabulary.hpp"

namespace arbiter {

/// "2.28.3"; empty without NCCL. Never throws.
std::string nccl_version() noexcept;

/// One NCCL communicator. Calls are stream-ordered and legal during capture.
class NcclCommunicator {
 public:
  virtual ~NcclCommunicator() = default;
  virtual void all_reduce(const void* input, void* output, std::size_t count, Dtype, StreamHandle) = 0;
  /// A pair of buffers registered as symmetric windows (ncclMemAlloc + ncclCommWindowRegister). Collective.
  /// Throws Unsupported when NCCL is older than 2.27.
  class SymmetricBuffers {
   public:
    virtual ~SymmetricBuffers() = default;
    virtual void* input() const noexcept = 0;
    virtual void* output() const noexcept = 0;
  };
  virtual std::unique_ptr<SymmetricBuffers> register_symmetric(std::size_t bytes) = 0;
  /// Give up: pending collectives return with an error. Used after a peer died.
  virtual void abort() noexcept = 0;
};

/// Collective over `bootstrap`; the unique id travels through it. Throws Unavailable without NCCL.
std::unique_ptr<NcclCommunicator> make_nccl_communicator(Device&, Bootstrap&);

}  // namespace arbiter
