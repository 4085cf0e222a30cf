#include "cuda/graph.hpp"

#include "arbiter/error.hpp"
#include "cuda/device.hpp"

namespace arbiter {

CudaGraph::CudaGraph(int ordinal, cudaGraph_t graph, cudaStream_t stream) : ordinal_(ordinal) {
  cudaError_t error = cudaGraphInstantiate(&executable_, graph, 0);
  const char* call = "cudaGraphInstantiate";
  if (error == cudaSuccess) {
    // The first replay must not pay for the upload.
    error = cudaGraphUpload(executable_, stream);
    call = "cudaGraphUpload";
  }
  cudaGraphDestroy(graph);
  if (error != cudaSuccess) {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
    cuda_check(error, call);
  }
}

CudaGraph::~CudaGraph() {
  const CudaDeviceScope scope(ordinal_);
  cudaGraphExecDestroy(executable_);
}

void CudaGraph::launch(StreamHandle stream) {
  cuda_check(cudaGraphLaunch(executable_, static_cast<cudaStream_t>(stream)), "cudaGraphLaunch");
}

CudaEvent::CudaEvent(int ordinal) : ordinal_(ordinal) { cuda_check(cudaEventCreate(&event_), "cudaEventCreate"); }

CudaEvent::~CudaEvent() {
  const CudaDeviceScope scope(ordinal_);
  cudaEventDestroy(event_);
}

void CudaEvent::record(StreamHandle stream) {
  cuda_check(cudaEventRecord(event_, static_cast<cudaStream_t>(stream)), "cudaEventRecord");
}

double CudaEvent::microseconds_since(const Event& earlier) {
  const auto& first = dynamic_cast<const CudaEvent&>(earlier);
  cuda_check(cudaEventSynchronize(event_), "cudaEventSynchronize");
  float milliseconds = 0;
  cuda_check(cudaEventElapsedTime(&milliseconds, first.event_, event_), "cudaEventElapsedTime");
  return static_cast<double>(milliseconds) * 1000.0;
}

[[gnu::hot]] bool CudaDevice::capturing(StreamHandle stream) {
  // Every call asks. The driver answers in a quarter of the runtime's time, for streams that somebody created: those
  // know their context. What it refuses, the runtime explains.
  const bool created = stream != nullptr && stream != cudaStreamLegacy && stream != cudaStreamPerThread;
  if (created) {
    CUstreamCaptureStatus captures = CU_STREAM_CAPTURE_STATUS_NONE;
    if (driver_.stream_is_capturing(static_cast<CUstream>(stream), &captures) == CUDA_SUCCESS)
      return captures == CU_STREAM_CAPTURE_STATUS_ACTIVE;
  }
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status);
  // Asking about the legacy default stream while another stream captures is answered with this error.
  if (error == cudaErrorStreamCaptureImplicit) {
    cudaGetLastError();
    return false;
  }
  cuda_check(error, "cudaStreamIsCapturing");
  return status == cudaStreamCaptureStatusActive;
}

void CudaDevice::begin_capture(StreamHandle stream) {
  if (stream == nullptr) {
    throw InvalidArgument("the default stream cannot be captured; create a stream for it");
  }
  activate();
  // Other ranks are threads of the same process and may allocate while this one captures.
  cuda_check(cudaStreamBeginCapture(static_cast<cudaStream_t>(stream), cudaStreamCaptureModeThreadLocal),
             "cudaStreamBeginCapture");
}

std::unique_ptr<Graph> CudaDevice::end_capture(StreamHandle stream) {
  activate();
  cudaGraph_t graph = nullptr;
  const cudaError_t error = cudaStreamEndCapture(static_cast<cudaStream_t>(stream), &graph);
  if (error != cudaSuccess && graph != nullptr) cudaGraphDestroy(graph);
  cuda_check(error, "cudaStreamEndCapture");
  if (graph == nullptr) throw DeviceError("cudaStreamEndCapture returned no graph: the capture was invalidated");
  return std::make_unique<CudaGraph>(properties_.ordinal, graph, static_cast<cudaStream_t>(stream));
}

std::unique_ptr<Event> CudaDevice::create_event() {
  activate();
  return std::make_unique<CudaEvent>(properties_.ordinal);
}

}  // namespace arbiter
