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
  std::atomic<bool> closed{false};  ///< destroyed or aborted by the program: must not be touched any more
};

/// Collective over all ranks of the communicator, on a stream of its own. Once the communicator is closed, barrier()
/// returns at once and everything else throws Poisoned.
std::unique_ptr<Bootstrap> make_comm_bootstrap(std::shared_ptr<HostComm>, std::shared_ptr<Device>);

/// Allreduces of the program's own communicator, as the program would have called them.
std::shared_ptr<NcclCommunicator> make_host_nccl(std::shared_ptr<HostComm>);

/// What NCCL returned. Thrown by make_host_nccl()'s all_reduce for everything but success and "in progress".
class NcclFailure : public Error {
 public:
  NcclFailure(const std::string& call, int result);
  int result() const noexcept { return result_; }

 private:
  int result_;
};

/// ncclSuccess or ncclInProgress, as the last allreduce of make_host_nccl() in this thread returned; resets it.
int take_host_result() noexcept;

}  // namespace arbiter::nccl_interpose
