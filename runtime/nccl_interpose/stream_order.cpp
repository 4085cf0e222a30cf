#include "stream_order.hpp"

#include "cuda/driver.hpp"

namespace arbiter::nccl_interpose {
namespace {

struct DriverFunctions {
  CUresult (*get_current)(CUcontext*) = nullptr;
  CUresult (*set_current)(CUcontext) = nullptr;
  CUresult (*get_device)(CUdevice*) = nullptr;
  CUresult (*stream_id)(CUstream, unsigned long long*) = nullptr;  // null before CUDA 12
  CUresult (*capture_info)(CUstream, CUstreamCaptureStatus*, cuuint64_t*, CUgraph*, const CUgraphNode**,
                           std::size_t*) = nullptr;
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
  cudaGetLastError();  // the program must not find it
}

/// The driver's own, because the runtime's take several times as long, and every call asks.
const DriverFunctions& functions() {
  static const DriverFunctions instance = [] {
    DriverFunctions result;
    find("cuCtxGetCurrent", result.get_current);
    find("cuCtxSetCurrent", result.set_current);
    find("cuCtxGetDevice", result.get_device);
    find("cuStreamGetId", result.stream_id);
    find("cuStreamGetCaptureInfo", result.capture_info);
    return result;
  }();
  return instance;
}

enum class Captured : std::uint8_t { no, yes, unknown };

/// `id` is 0 unless the stream is being captured. A capture that was invalidated is one, too.
Captured capture_of(cudaStream_t stream, cuuint64_t& id) noexcept {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  id = 0;
  const auto ask = functions().capture_info;
  // A default stream cannot be asked while a stream that waits for it is captured.
  if (ask == nullptr || ask(stream, &status, &id, nullptr, nullptr, nullptr) != CUDA_SUCCESS) {
    id = 0;
    return Captured::unknown;
  }
  if (status == CU_STREAM_CAPTURE_STATUS_NONE) {
    id = 0;
    return Captured::no;
  }
  if (id == 0) id = ~cuuint64_t{0};
  return Captured::yes;
}

class CudaStreamCalls final : public StreamCalls {
 public:
  explicit CudaStreamCalls(int ordinal) : ordinal_(ordinal) {
    for (cudaEvent_t& event : events_) {
      cuda_check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    }
  }
  ~CudaStreamCalls() override {
    for (cudaEvent_t event : events_) {
      if (event != nullptr) cudaEventDestroy(event);
    }
    cudaGetLastError();
  }
  CudaStreamCalls(const CudaStreamCalls&) = delete;
  CudaStreamCalls& operator=(const CudaStreamCalls&) = delete;

  /// Streams in a capture go by their handles: asking for the id of one invalidates the capture, and none of them is
  /// destroyed before it ends.
  StreamState state(cudaStream_t stream) noexcept override {
    StreamState state;
    cuuint64_t capture = 0;
    const Captured captured = capture_of(stream, capture);
    const auto ask = functions().stream_id;
    if (captured != Captured::no || ask == nullptr || ask(stream, &state.stream) != CUDA_SUCCESS) {
      state.stream = static_cast<unsigned long long>(reinterpret_cast<std::uintptr_t>(stream));
    }
    state.capture = capture;
    return state;
  }
  void record(Timeline timeline, cudaStream_t stream) override {
    cuda_check(cudaEventRecord(event(timeline), stream), "cudaEventRecord");
  }
  void wait(cudaStream_t stream, Timeline timeline) override {
    const CurrentDevice current(ordinal_);
    cuda_check(cudaStreamWaitEvent(stream, event(timeline), 0), "cudaStreamWaitEvent");
  }
  void wait_for_event() noexcept override {
    cudaEventSynchronize(event(Timeline::eager));
    cudaGetLastError();
  }
  void wait_for_device() noexcept override {
    cudaDeviceSynchronize();
    cudaGetLastError();
  }

 private:
  cudaEvent_t event(Timeline timeline) const noexcept { return events_[static_cast<std::size_t>(timeline)]; }
  int ordinal_;
  cudaEvent_t events_[2] = {nullptr, nullptr};
};

}  // namespace

CurrentDevice::CurrentDevice(int ordinal) noexcept {
  if (ordinal < 0) return;
  const DriverFunctions& driver = functions();
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

std::unique_ptr<StreamCalls> make_cuda_stream_calls(int ordinal) { return std::make_unique<CudaStreamCalls>(ordinal); }

StreamOrder::Place& StreamOrder::place(const StreamState& state) {
  if (state.capture == 0) return eager_;
  if (state.capture != capture_) captured_ = {};
  capture_ = state.capture;
  return captured_;
}

bool StreamOrder::enter(cudaStream_t stream) {
  now_ = calls_->state(stream);
  const Place& before = place(now_);
  const bool captured = now_.capture != 0;
  const bool elsewhere = before.last != Last::none && before.stream != now_.stream;
  if (before.last == Last::ours) {
    if (elsewhere) calls_->wait(stream, captured ? Timeline::captured : Timeline::eager);
  } else if (elsewhere || (passed_again_ && !behind_pass(before, stream))) {
    follow_nccl_(stream);
  }
  passed_.reset();
  passed_again_ = false;
  return captured;
}

/// Is `stream`, whose state is now_, the one on which NCCL was given something without a look at it? Streams in a
/// capture go by their handles; of others, a handle may have come back since NCCL's last call that was looked at.
bool StreamOrder::behind_pass(const Place& before, cudaStream_t stream) const noexcept {
  return passed_ == stream && (now_.capture != 0 || before.last == Last::nccl);
}

void StreamOrder::leave(cudaStream_t stream) {
  const bool captured = now_.capture != 0;
  // At once, although the next call is mostly made on the same stream: later, this one may have been destroyed.
  calls_->record(captured ? Timeline::captured : Timeline::eager, stream);
  place(now_) = {Last::ours, now_.stream};
  (captured ? ever_captured_ : ever_eager_) = true;
}

void StreamOrder::pass(cudaStream_t stream) {
  const StreamState state = calls_->state(stream);
  Place& before = place(state);
  if (before.last == Last::ours && before.stream != state.stream) {
    calls_->wait(stream, state.capture != 0 ? Timeline::captured : Timeline::eager);
  }
  before = {Last::nccl, state.stream};
  passed_ = stream;
}

void StreamOrder::finish() noexcept {
  if (ever_eager_) calls_->wait_for_event();
  if (ever_captured_) calls_->wait_for_device();  // when replays run is not known here
}

bool is_capturing(cudaStream_t stream) noexcept {
  cuuint64_t id = 0;
  return capture_of(stream, id) == Captured::yes;
}

}  // namespace arbiter::nccl_interpose
