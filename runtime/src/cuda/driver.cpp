#include "cuda/driver.hpp"

#include "arbiter/error.hpp"

namespace arbiter {
namespace {

// Signatures are those of CUDA 12.0; functions that are newer name their own version.
constexpr unsigned base_version = 12000;

void* resolve(const char* symbol, unsigned version) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const cudaError_t error = cudaGetDriverEntryPointByVersion(symbol, &function, version, cudaEnableDefault, &found);
#else
  static_cast<void>(version);
  const cudaError_t error = cudaGetDriverEntryPoint(symbol, &function, cudaEnableDefault, &found);
#endif
  if (error != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  return found == cudaDriverEntryPointSuccess ? function : nullptr;
}

template <typename Function>
void optional(Function& slot, const char* symbol, unsigned version) {
  slot = reinterpret_cast<Function>(resolve(symbol, version));
}

template <typename Function>
void required(Function& slot, const char* symbol) {
  optional(slot, symbol, base_version);
  if (slot == nullptr) {
    throw Unavailable(std::string("the NVIDIA driver has no ") + symbol +
                      ": it is older than CUDA 12.0; install a newer driver");
  }
}

// What usually helps. Empty for errors that explain themselves.
std::string_view advice(int code) {
  switch (code) {
    case cudaErrorMemoryAllocation:
      return "Free device memory (other processes show in nvidia-smi) or use a smaller problem.";
    case cudaErrorInsufficientDriver:
      return "The NVIDIA driver is older than the CUDA version Arbiter was built with; install a newer driver.";
    case cudaErrorNoDevice:
      return "Check that nvidia-smi lists a GPU and that CUDA_VISIBLE_DEVICES does not hide it.";
    case cudaErrorInvalidDevice:
      return "The device ordinal counts only the GPUs in CUDA_VISIBLE_DEVICES.";
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorHardwareStackError:
      return "A kernel faulted and the CUDA context is lost: restart the process; compute-sanitizer shows where.";
    case cudaErrorLaunchOutOfResources:
    case cudaErrorInvalidConfiguration:
      return "The launch shape does not fit the device: fewer threads, less shared memory or smaller clusters.";
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
      return "The kernel was compiled for another GPU or by a newer NVRTC than the driver knows.";
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
    case cudaErrorStreamCaptureUnjoined:
      return "Something in the capture cannot be captured: prepare everything before the first capture.";
    case cudaErrorECCUncorrectable:
      return "The GPU has a memory error: nvidia-smi -q -d ECC tells more; it needs a reset.";
    case cudaErrorInitializationError:
      return "CUDA cannot be used in a process that was forked after CUDA was initialised; start the workers with "
             "exec.";
    case cudaErrorSystemNotReady:
      return "The system is not ready: on NVSwitch machines check that nvidia-fabricmanager is running.";
    case cudaErrorDevicesUnavailable:
      return "The GPU is in exclusive mode and in use by another process.";
    default:
      return {};
  }
}

std::string compose(std::string_view call, std::string_view name, std::string_view text, std::string_view help) {
  std::string message(call);
  message.append(" failed: ").append(name).append(" (").append(text).append(")");
  if (!help.empty()) message.append(". ").append(help);
  return message;
}

}  // namespace

CudaDriver CudaDriver::load() {
  if (std::string missing = cuda_missing(); !missing.empty()) throw Unavailable(missing);
  CudaDriver driver;
  required(driver.get_error_name, "cuGetErrorName");
  required(driver.get_error_string, "cuGetErrorString");
  required(driver.device_get_uuid, "cuDeviceGetUuid");
  required(driver.device_get_attribute, "cuDeviceGetAttribute");
  required(driver.library_load_data, "cuLibraryLoadData");
  required(driver.library_unload, "cuLibraryUnload");
  required(driver.library_get_kernel, "cuLibraryGetKernel");
  required(driver.kernel_get_function, "cuKernelGetFunction");
  optional(driver.kernel_get_param_info, "cuKernelGetParamInfo", 12040);
  optional(driver.func_load, "cuFuncLoad", 12040);
  required(driver.func_get_attribute, "cuFuncGetAttribute");
  required(driver.func_set_attribute, "cuFuncSetAttribute");
  required(driver.launch_kernel_ex, "cuLaunchKernelEx");
  required(driver.stream_is_capturing, "cuStreamIsCapturing");
  required(driver.occupancy_blocks, "cuOccupancyMaxActiveBlocksPerMultiprocessor");
  required(driver.occupancy_clusters, "cuOccupancyMaxActiveClusters");
  required(driver.memset_d32_async, "cuMemsetD32Async");
  required(driver.mem_address_range, "cuMemGetAddressRange");
  required(driver.pointer_get_attribute, "cuPointerGetAttribute");
  required(driver.mem_create, "cuMemCreate");
  required(driver.mem_release, "cuMemRelease");
  required(driver.mem_address_reserve, "cuMemAddressReserve");
  required(driver.mem_address_free, "cuMemAddressFree");
  required(driver.mem_map, "cuMemMap");
  required(driver.mem_unmap, "cuMemUnmap");
  required(driver.mem_set_access, "cuMemSetAccess");
  required(driver.mem_granularity, "cuMemGetAllocationGranularity");
  required(driver.mem_export, "cuMemExportToShareableHandle");
  required(driver.mem_import, "cuMemImportFromShareableHandle");
  optional(driver.multicast_create, "cuMulticastCreate", 12010);
  optional(driver.multicast_add_device, "cuMulticastAddDevice", 12010);
  optional(driver.multicast_bind, "cuMulticastBindMem", 12010);
  optional(driver.multicast_unbind, "cuMulticastUnbind", 12010);
  optional(driver.multicast_granularity, "cuMulticastGetGranularity", 12010);
  return driver;
}

std::string cuda_message(std::string_view call, cudaError_t error) {
  return compose(call, cudaGetErrorName(error), cudaGetErrorString(error), advice(error));
}

std::string cuda_message(const CudaDriver& driver, std::string_view call, CUresult error) {
  const char* name = nullptr;
  const char* text = nullptr;
  if (driver.get_error_name == nullptr || driver.get_error_name(error, &name) != CUDA_SUCCESS || name == nullptr) {
    name = "unknown CUDA error";
  }
  if (driver.get_error_string == nullptr || driver.get_error_string(error, &text) != CUDA_SUCCESS || text == nullptr) {
    text = "no description";
  }
  // The two enumerations have used the same numbers since CUDA 10.1.
  return compose(call, name, text, advice(static_cast<int>(error)));
}

std::string cuda_missing() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return {};
  cudaGetLastError();
  if (error == cudaSuccess || error == cudaErrorNoDevice) {
    return "there is no CUDA device: " + std::string(advice(cudaErrorNoDevice));
  }
  int version = 0;
  if (error == cudaErrorInsufficientDriver && cudaDriverGetVersion(&version) == cudaSuccess && version == 0) {
    return "there is no NVIDIA driver (libcuda.so.1 cannot be opened): install it, or use --device cpu";
  }
  return cuda_message("cudaGetDeviceCount", error);
}

void cuda_check(cudaError_t error, std::string_view call) {
  if (error == cudaSuccess) [[likely]]
    return;
  cudaGetLastError();
  throw DeviceError(cuda_message(call, error));
}

void cuda_check(const CudaDriver& driver, CUresult error, std::string_view call) {
  if (error == CUDA_SUCCESS) [[likely]]
    return;
  throw DeviceError(cuda_message(driver, call, error));
}

}  // namespace arbiter
