// One NCCL communicator of the program, and the Arbiter communicator behind it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "arbiter/communicator.hpp"
#include "comm_exchange.hpp"
#include "stream_order.hpp"
#include "verifier.hpp"

namespace arbiter::nccl_interpose {

/// An allreduce that may be taken: a sum of a dtype that kernels exist for, count > 0.
struct TakenCall {
  const void* input = nullptr;
  void* output = nullptr;
  std::size_t count = 0;
  Dtype dtype = Dtype::bf16;
  cudaStream_t stream = nullptr;
};

/// Thread-safe, except that abort() may run beside everything else.
class FollowedComm {
 public:
  explicit FollowedComm(NcclComm comm);

  /// Does Arbiter serve this communicator?
  bool ready() const noexcept { return phase_.load(std::memory_order_acquire) == Phase::ready; }
  /// Is it still open whether it does?
  bool fresh() const noexcept { return phase_.load(std::memory_order_acquire) == Phase::fresh; }

  /// Collective over the communicator's ranks, unless `stream` is being captured (then nothing happens): make it ready,
  /// or give it to NCCL for good. Never throws.
  void set_up(cudaStream_t stream) noexcept;

  /// Returns an NCCL result. Only when ready().
  int run(const TakenCall&) noexcept;

  /// A peer gave up: ncclRemoteError. Else ncclSuccess.
  int async_error() const noexcept;

  /// The program is about to destroy the communicator: wait for the work and free everything.
  void destroy() noexcept;
  /// The program is about to abort it: end the waits. What kernels may still use is kept until the process ends.
  void abort() noexcept;

 private:
  enum class Phase : std::uint8_t { fresh, ready, forwarded, closed };

  void set_up_or_throw();

  std::shared_ptr<HostComm> host_ = std::make_shared<HostComm>();
  std::atomic<Phase> phase_{Phase::fresh};
  std::mutex mutex_;
  std::shared_ptr<Device> device_;
  std::unique_ptr<StreamOrder> order_;
  std::unique_ptr<Communicator> communicator_;
  std::unique_ptr<Verifier> verifier_;  // null unless asked for
  std::int64_t calls_ = 0;
};

}  // namespace arbiter::nccl_interpose
