// NCCL, opened with dlopen: the one already in the process if there is one.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "arbiter/bootstrap.hpp"
#include "arbiter/db/nccl_configuration.hpp"
#include "arbiter/device.hpp"
#include "arbiter/vocabulary.hpp"

namespace arbiter {

/// "2.28.3"; empty without NCCL. Never throws.
std::string nccl_version() noexcept;

/// One NCCL communicator. Calls are stream-ordered and legal during capture.
class NcclCommunicator {
 public:
  virtual ~NcclCommunicator() = default;
  /// As NCCL chooses, whatever a tuner plugin of ours serves to other communicators of the process.
  virtual void all_reduce(const void* input, void* output, std::size_t count, Dtype, StreamHandle) = 0;
  /// The same with a forced configuration, equal on all ranks. Returns whether NCCL offered it: if not, the call was
  /// made as NCCL chooses. "Offered" is all that can be known: NCCL takes the pair of algorithm and protocol that its
  /// plugin makes cheapest, may use fewer channels than asked for, and does not tell. Throws Unsupported, before the
  /// call, where forcing_problem() is not empty.
  virtual bool all_reduce_forced(const NcclConfiguration&, const void* input, void* output, std::size_t count, Dtype,
                                 StreamHandle) = 0;
  /// Why this rank cannot force configurations (no tuner plugin of ours in NCCL); empty if it can.
  virtual const std::string& forcing_problem() const noexcept = 0;
  /// Collective, outside capture. Does NCCL offer this configuration for this dtype here? Asked with one allreduce of
  /// one element, in `scratch` (16 bytes of device memory); remembered. It also makes NCCL connect for the algorithm,
  /// so that a later capture need not.
  virtual bool offers(const NcclConfiguration&, Dtype, void* scratch) = 0;
  /// Throws Poisoned when NCCL reported an error of its own in the background (a lost network connection, a peer that
  /// aborted). NCCL has no deadline: a peer that is merely silent is not noticed here.
  virtual void check() const = 0;
  /// A pair of buffers that NCCL has allocated (ncclMemAlloc) and knows.
  class RegisteredBuffers {
   public:
    virtual ~RegisteredBuffers() = default;
    virtual void* input() const noexcept = 0;
    virtual void* output() const noexcept = 0;
  };
  /// As symmetric windows (ncclCommWindowRegister), which its symmetric kernels need. Collective.
  /// Throws Unsupported when NCCL is older than 2.27.
  virtual std::unique_ptr<RegisteredBuffers> register_symmetric(std::size_t bytes) = 0;
  /// For its classic kernels (ncclCommRegister): in a call from one to the other, a rank's output is then written by
  /// its neighbour without a copy in between. Collective. Throws Unsupported when NCCL is older than 2.19.
  virtual std::unique_ptr<RegisteredBuffers> register_buffers(std::size_t bytes) = 0;
  /// Give up: pending collectives return with an error. Used after a peer died.
  virtual void abort() noexcept = 0;
};

/// Collective over `bootstrap`; the unique id travels through it. Throws Unavailable without NCCL.
std::unique_ptr<NcclCommunicator> make_nccl_communicator(Device&, Bootstrap&);

}  // namespace arbiter
