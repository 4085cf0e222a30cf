#include "stream_order.hpp"

#include "cuda/driver.hpp"

namespace arbiter::nccl_interpose {
namespace {

struct ContextFunctions {
  CUresult (*get_current)(CUcontext*) = nullptr;
  CUresult (*set_current)(CUcontext) = nullptr;
  CUresult (*get_device)(CUdevice*) = nullptr;
};

template <typename Function>
void find(const char* name, Function& function) {
  void* pointer = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  if (cudaGetDriverEntryPointByVersion(name, &pointer, 12000, cudaEnableDefault, &found) != cudaSuccess)
    pointer = nullptr;
#else
  if (cudaGetDriverEntryPoint(name, &pointer, cudaEnableDefault, &found) != cudaSuccess) pointer = nullptr;
#endif
  if (found == cudaDriverEntryPointSuccess) function = reinterpret_cast<Function>(pointer);
}

const ContextFunctions& functions() {
  static const ContextFunctions instance = [] {
    ContextFunctions result;
    find("cuCtxGetCurrent", result.get_current);
    find("cuCtxSetCurrent", result.set_current);
    find("cuCtxGetDevice", result.get_device);
    return result;
  }();
  return instance;
}

struct CaptureState {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  unsigned long long id = 0;
};

CaptureState capture_state(cudaStream_t stream) noexcept {
  CaptureState state;
#if CUDART_VERSION >= 13000
  const cudaError_t error =
      cudaStreamGetCaptureInfo(stream, &state.status, &state.id, nullptr, nullptr, nullptr, nullptr);
#else
  const cudaError_t error = cudaStreamGetCaptureInfo(stream, &state.status, &state.id);
#endif
  if (error != cudaSuccess) {
    cudaGetLastError();  // the program must not find it
    state = {};
  }
  return state;
}

class CudaStreamOrder final : public StreamOrder {
 public:
  CudaStreamOrder() {
    cuda_check(cudaEventCreateWithFlags(&eager_, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    cuda_check(cudaEventCreateWithFlags(&captured_, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  }
  ~CudaStreamOrder() override {
    if (eager_ != nullptr) cudaEventDestroy(eager_);
    if (captured_ != nullptr) cudaEventDestroy(captured_);
    cudaGetLastError();
  }
  CudaStreamOrder(const CudaStreamOrder&) = delete;
  CudaStreamOrder& operator=(const CudaStreamOrder&) = delete;

  void enter(cudaStream_t stream) override {
    now_ = capture_state(stream);
    const bool capturing = now_.status == cudaStreamCaptureStatusActive;
    if (capturing && now_.id == capture_id_ && stream != capture_stream_) {
      cuda_check(cudaStreamWaitEvent(stream, captured_, 0), "cudaStreamWaitEvent");
    } else if (!capturing && used_ && stream != stream_) {
      cuda_check(cudaStreamWaitEvent(stream, eager_, 0), "cudaStreamWaitEvent");
    }
  }

  void leave(cudaStream_t stream) override {
    if (now_.status == cudaStreamCaptureStatusActive) {
      cuda_check(cudaEventRecord(captured_, stream), "cudaEventRecord");
      capture_id_ = now_.id;
      capture_stream_ = stream;
      return;
    }
    cuda_check(cudaEventRecord(eager_, stream), "cudaEventRecord");
    stream_ = stream;
    used_ = true;
  }

  void finish() noexcept override {
    if (used_) cudaEventSynchronize(eager_);
    if (capture_id_ != 0) cudaDeviceSynchronize();  // when replays run is not known here
    cudaGetLastError();
  }

 private:
  cudaEvent_t eager_ = nullptr;
  cudaEvent_t captured_ = nullptr;
  cudaStream_t stream_ = nullptr;
  bool used_ = false;
  cudaStream_t capture_stream_ = nullptr;
  unsigned long long capture_id_ = 0;  // 0 is no capture's
  CaptureState now_;
};

class NoStreamOrder final : public StreamOrder {
 public:
  void enter(cudaStream_t) override {}
  void leave(cudaStream_t) override {}
  void finish() noexcept override {}
};

}  // namespace

CurrentDevice::CurrentDevice(int ordinal) noexcept {
  if (ordinal < 0) return;
  const ContextFunctions& driver = functions();
  if (driver.get_current == nullptr || driver.set_current == nullptr || driver.get_device == nullptr) return;
  CUdevice device = -1;
  driver.get_current(&previous_);
  if (previous_ != nullptr && driver.get_device(&device) == CUDA_SUCCESS && device == ordinal) return;
  changed_ = true;
  cudaSetDevice(ordinal);
}

CurrentDevice::~CurrentDevice() {
  if (changed_) functions().set_current(previous_);
}

std::unique_ptr<StreamOrder> make_stream_order(DeviceKind kind) {
  if (kind == DeviceKind::cpu) return std::make_unique<NoStreamOrder>();
  return std::make_unique<CudaStreamOrder>();
}

bool is_capturing(cudaStream_t stream) noexcept { return capture_state(stream).status != cudaStreamCaptureStatusNone; }

}  // namespace arbiter::nccl_interpose
