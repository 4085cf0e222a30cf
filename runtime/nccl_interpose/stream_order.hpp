// What NCCL does about CUDA for its callers: the device is current during a call, and calls of one communicator run one
// after the other, on whatever streams they are made.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

namespace arbiter::nccl_interpose {

/// Makes the context of a device current in this thread, and the one before current again. A driver context, because
/// the program's CUDA runtime is another copy than the one in this library.
class CurrentDevice {
 public:
  /// `ordinal` negative: does nothing (the CPU device).
  explicit CurrentDevice(int ordinal) noexcept;
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  CUcontext previous_ = nullptr;
  bool changed_ = false;
};

/// Set-up allocates; a capture that another thread has under way must not be ended by that.
class RelaxedCapture {
 public:
  explicit RelaxedCapture(bool cuda) noexcept : cuda_(cuda) {
    if (cuda_) cudaThreadExchangeStreamCaptureMode(&mode_);
  }
  ~RelaxedCapture() {
    if (cuda_) cudaThreadExchangeStreamCaptureMode(&mode_);
  }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  bool cuda_;
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

/// Which stream a handle is now (handles of destroyed streams come back), and what it is being captured into.
struct StreamState {
  unsigned long long stream = 0;
  unsigned long long capture = 0;  ///< 0: not captured
};

/// Eager calls follow each other, and the calls of one capture do. When a graph is replayed is the program's business.
enum class Timeline : std::uint8_t { eager, captured };

/// What StreamOrder asks of CUDA.
class StreamCalls {
 public:
  virtual ~StreamCalls() = default;
  virtual StreamState state(cudaStream_t) noexcept = 0;
  /// One event for each timeline.
  virtual void record(Timeline, cudaStream_t) = 0;
  virtual void wait(cudaStream_t, Timeline) = 0;
  /// On the host: for the event of eager calls, and for the device.
  virtual void wait_for_event() noexcept = 0;
  virtual void wait_for_device() noexcept = 0;
};
/// `ordinal` is the device that is current, where the events will be.
std::unique_ptr<StreamCalls> make_cuda_stream_calls(int ordinal);

/// Orders the calls of one communicator, Arbiter's and those that NCCL does. NCCL keeps its own in order, so nothing
/// is recorded behind them; a stream waits only where the call before was made on another one. Used under the
/// communicator's lock.
class StreamOrder {
 public:
  /// `follow_nccl` makes a stream wait for everything that NCCL was given before.
  StreamOrder(std::unique_ptr<StreamCalls> calls, std::function<void(cudaStream_t)> follow_nccl)
      : calls_(std::move(calls)), follow_nccl_(std::move(follow_nccl)) {}

  /// Before a call of Arbiter's on `stream`. Returns whether the stream is being captured.
  bool enter(cudaStream_t stream);
  /// Behind that call.
  void leave(cudaStream_t stream);
  /// Before a call that NCCL does on `stream`.
  void pass(cudaStream_t stream);
  /// The same for one more call on the handle that NCCL's last one was on, where no call of Arbiter's is left to wait
  /// for: without a question to the driver. False: pass() has to ask.
  bool pass_again(cudaStream_t stream) noexcept {
    if (passed_ != stream || eager_.last == Last::ours || captured_.last == Last::ours) return false;
    passed_again_ = true;
    return true;
  }
  /// Wait on the host for everything of Arbiter's.
  void finish() noexcept;

 private:
  enum class Last : std::uint8_t { none, ours, nccl };
  struct Place {
    Last last = Last::none;
    unsigned long long stream = 0;
  };
  Place& place(const StreamState&);
  bool behind_pass(const Place& before, cudaStream_t stream) const noexcept;

  std::unique_ptr<StreamCalls> calls_;
  std::function<void(cudaStream_t)> follow_nccl_;
  StreamState now_;
  Place eager_;
  Place captured_;
  unsigned long long capture_ = 0;      // which capture captured_ is of
  std::optional<cudaStream_t> passed_;  // the handle that NCCL's last call was on, if Arbiter's was not behind it
  bool passed_again_ = false;           // which may have been in another timeline, or on a new stream of this handle
  bool ever_eager_ = false;
  bool ever_captured_ = false;
};

bool is_capturing(cudaStream_t stream) noexcept;

}  // namespace arbiter::nccl_interpose
