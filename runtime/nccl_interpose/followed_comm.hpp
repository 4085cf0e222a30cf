// One NCCL communicator of the program, and the Arbiter communicator behind it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

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

  NcclComm comm() const noexcept { return host_->comm; }
  /// Is it still open who serves this communicator?
  bool fresh() const noexcept { return phase_.load(std::memory_order_acquire) == Phase::fresh; }
  /// Does a kernel of Arbiter's serve messages of this size? Equal on all ranks, and quick.
  bool takes(std::size_t count, Dtype dtype) const noexcept {
    return phase_.load(std::memory_order_acquire) == Phase::ready &&
           families_[static_cast<std::size_t>(dtype)].runs_kernel(static_cast<std::int64_t>(count));
  }

  /// Collective over the communicator's ranks, unless `stream` is being captured (then nothing happens): make it ready,
  /// or give it to NCCL for good. Never throws.
  ///
  /// `allocated` is called once in any case: before the first exchange between the ranks, or when there will be none.
  void set_up(cudaStream_t stream, const std::function<void()>& allocated) noexcept;

  /// Returns an NCCL result. Only what it takes.
  int run(const TakenCall&) noexcept;
  /// NCCL is about to do something with this communicator on `stream`: behind what Arbiter did on other streams.
  void pass(cudaStream_t stream) noexcept;

  /// A peer gave up: ncclRemoteError. Else ncclSuccess.
  int async_error() const noexcept;

  /// The program is about to destroy the communicator: wait for the work and free everything.
  void destroy() noexcept;
  /// The program is about to abort it: end the waits. What kernels may still use is kept until the process ends.
  void abort() noexcept;

 private:
  enum class Phase : std::uint8_t { fresh, ready, forwarded, closed };

  void set_up_or_throw(const std::function<void()>& allocated);
  void set_up_or_forward(const std::function<void()>& allocated) noexcept;
  void prepare();
  void release() noexcept;
  int ordinal() const { return settings_cpu_ ? -1 : device_->properties().ordinal; }

  std::shared_ptr<HostComm> host_ = std::make_shared<HostComm>();
  std::atomic<Phase> phase_{Phase::fresh};
  bool settings_cpu_;
  std::mutex mutex_;
  std::shared_ptr<Device> device_;
  std::unique_ptr<FollowNccl> follow_nccl_;
  std::optional<StreamOrder> order_;  // none on the CPU device, where every call has run when it returns
  std::unique_ptr<Communicator> communicator_;
  std::vector<PreparedFamily> families_;  // by dtype
  std::unique_ptr<Verifier> verifier_;    // null unless asked for
  std::int64_t calls_ = 0;
};

}  // namespace arbiter::nccl_interpose
