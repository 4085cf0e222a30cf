// The CUDA driver functions that the runtime API does not offer, resolved at run time: no driver library is linked,
// so the program starts on a machine without one.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <string>
#include <string_view>

namespace arbiter {

/// Function pointers into libcuda. Every device holds its own copy; nothing global is kept.
struct CudaDriver {
  // Errors.
  decltype(&::cuGetErrorName) get_error_name = nullptr;
  decltype(&::cuGetErrorString) get_error_string = nullptr;
  decltype(&::cuDeviceGetUuid) device_get_uuid = nullptr;
  decltype(&::cuDeviceGetAttribute) device_get_attribute = nullptr;
  // Kernels.
  decltype(&::cuLibraryLoadData) library_load_data = nullptr;
  decltype(&::cuLibraryUnload) library_unload = nullptr;
  decltype(&::cuLibraryGetKernel) library_get_kernel = nullptr;
  decltype(&::cuKernelGetFunction) kernel_get_function = nullptr;
  decltype(&::cuKernelGetParamInfo) kernel_get_param_info = nullptr;  ///< null before CUDA 12.4
  decltype(&::cuFuncLoad) func_load = nullptr;                        ///< null before CUDA 12.4
  decltype(&::cuFuncGetAttribute) func_get_attribute = nullptr;
  decltype(&::cuFuncSetAttribute) func_set_attribute = nullptr;
  decltype(&::cuLaunchKernelEx) launch_kernel_ex = nullptr;
  decltype(&::cuStreamIsCapturing) stream_is_capturing = nullptr;
  decltype(&::cuOccupancyMaxActiveBlocksPerMultiprocessor) occupancy_blocks = nullptr;
  decltype(&::cuOccupancyMaxActiveClusters) occupancy_clusters = nullptr;
  // Memory.
  decltype(&::cuMemsetD32Async) memset_d32_async = nullptr;
  decltype(&::cuMemGetAddressRange) mem_address_range = nullptr;
  decltype(&::cuPointerGetAttribute) pointer_get_attribute = nullptr;
  decltype(&::cuMemCreate) mem_create = nullptr;
  decltype(&::cuMemRelease) mem_release = nullptr;
  decltype(&::cuMemAddressReserve) mem_address_reserve = nullptr;
  decltype(&::cuMemAddressFree) mem_address_free = nullptr;
  decltype(&::cuMemMap) mem_map = nullptr;
  decltype(&::cuMemUnmap) mem_unmap = nullptr;
  decltype(&::cuMemSetAccess) mem_set_access = nullptr;
  decltype(&::cuMemGetAllocationGranularity) mem_granularity = nullptr;
  decltype(&::cuMemExportToShareableHandle) mem_export = nullptr;
  decltype(&::cuMemImportFromShareableHandle) mem_import = nullptr;
  // Multicast objects; null before CUDA 12.1. cuda_multicast.cpp alone calls them.
  decltype(&::cuMulticastCreate) multicast_create = nullptr;
  decltype(&::cuMulticastAddDevice) multicast_add_device = nullptr;
  decltype(&::cuMulticastBindMem) multicast_bind = nullptr;
  decltype(&::cuMulticastUnbind) multicast_unbind = nullptr;
  decltype(&::cuMulticastGetGranularity) multicast_granularity = nullptr;

  /// Resolve everything. Throws Unavailable when there is no driver or it lacks a function that is needed.
  static CudaDriver load();
};

/// "<call> failed: cudaErrorMemoryAllocation (out of memory). <what to do>"
std::string cuda_message(std::string_view call, cudaError_t error);
std::string cuda_message(const CudaDriver&, std::string_view call, CUresult error);

/// Why there is no usable CUDA device, in a sentence; empty if there is one.
std::string cuda_missing();

/// Throw DeviceError naming `call` unless it succeeded. The thread's last error is cleared, so that a host program
/// that checks it later does not find ours.
void cuda_check(cudaError_t error, std::string_view call);
void cuda_check(const CudaDriver& driver, CUresult error, std::string_view call);

}  // namespace arbiter
