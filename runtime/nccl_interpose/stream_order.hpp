// What NCCL does about CUDA for its callers: the device is current during a call, and calls of one communicator run one
// after the other, on whatever streams they are made.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <memory>

#include "arbiter/device.hpp"

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

/// Orders the calls of one communicator. Used under its lock.
class StreamOrder {
 public:
  virtual ~StreamOrder() = default;
  /// Before a call on `stream`: wait there for the call before.
  virtual void enter(cudaStream_t stream) = 0;
  /// Behind a call on `stream`.
  virtual void leave(cudaStream_t stream) = 0;
  /// Wait on the host for the last call.
  virtual void finish() noexcept = 0;
};
/// For the CPU device, where every call has run when it returns: does nothing.
std::unique_ptr<StreamOrder> make_stream_order(DeviceKind);

bool is_capturing(cudaStream_t stream) noexcept;

}  // namespace arbiter::nccl_interpose
