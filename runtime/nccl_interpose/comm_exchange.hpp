// How the ranks of a program's NCCL communicator talk while Arbiter sets itself up behind it: with NCCL itself.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>

#include "arbiter/bootstrap.hpp"
#include "arbiter/device.hpp"
#include "arbiter/runtime/nccl.hpp"
#include "real_library.hpp"

namespace arbiter::nccl_interpose {

/// The NCCL communicator, for everything that outlives a call. Its abort ends what others wait for in it.
struct HostComm {
  NcclComm comm = nullptr;
  int rank = 0;
  int size = 0;
  std::atomic<bool> closed{false};       ///< destroyed or aborted by the program: must not be touched any more
  std::atomic<bool> nonblocking{false};  ///< a call has come back with work in progress

  /// Waits until a communicator that does not block has nothing in progress. Throws NcclFailure, and Poisoned once it
  /// is closed.
  void settle() const;
};

/// Collective over all ranks of the communicator, on a stream of its own. Once the communicator is closed, barrier()
/// returns at once and everything else throws Poisoned.
std::unique_ptr<Bootstrap> make_comm_bootstrap(std::shared_ptr<HostComm>, std::shared_ptr<Device>);

/// The program's own communicator, as Arbiter's knows NCCL.
std::shared_ptr<NcclCommunicator> make_host_nccl(std::shared_ptr<HostComm>);

/// Makes a stream wait for everything that NCCL was given before, on whatever streams: with a byte that this rank sends
/// to itself, because NCCL runs what one communicator is given in order. No other rank takes part.
class FollowNccl {
 public:
  FollowNccl(std::shared_ptr<HostComm>, Device&);
  /// Legal during capture. Throws NcclFailure.
  void enqueue(cudaStream_t) const;

 private:
  std::shared_ptr<HostComm> host_;
  DeviceMemory memory_;
};

/// What NCCL returned, other than success and "in progress".
class NcclFailure : public Error {
 public:
  NcclFailure(const std::string& call, int result);
  int result() const noexcept { return result_; }

 private:
  int result_;
};

}  // namespace arbiter::nccl_interpose
