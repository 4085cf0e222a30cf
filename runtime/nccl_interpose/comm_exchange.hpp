// The program's NCCL communicator, as Arbiter uses it.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "arbiter/device.hpp"
#include "arbiter/error.hpp"
#include "arbiter/runtime/nccl.hpp"
#include "bootstrap/nccl.hpp"
#include "real_library.hpp"

namespace arbiter::nccl_interpose {

/// The NCCL communicator, for everything that outlives a call. Its abort ends what others wait for in it.
struct HostComm : LentNcclState {
  NcclComm comm = nullptr;
  int rank = 0;
  int size = 0;

  /// Waits until a communicator that does not block has nothing in progress. Throws NcclFailure, and Poisoned once it
  /// is closed.
  void settle() const;
};

/// How its ranks talk while Arbiter sets itself up behind it: with NCCL itself, without a deadline, and from then on
/// directly where all of them are threads of this process. Collective. `allocated` is called before the first exchange.
std::unique_ptr<Bootstrap> make_comm_bootstrap(std::shared_ptr<HostComm>, std::shared_ptr<Device>,
                                               std::function<void()> allocated);

/// The communicator, as Arbiter's knows NCCL.
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
