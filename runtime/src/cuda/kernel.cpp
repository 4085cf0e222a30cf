#include "cuda/kernel.hpp"

#include <array>

#include "arbiter/error.hpp"
#include "cuda/device.hpp"

namespace arbiter {
namespace {

// A cubin is loaded as it is; for PTX the driver compiles, and says in the log why it could not.
CUlibrary load_library(const CudaDriver& driver, const CompiledKernel& compiled) {
  std::array<char, 4096> log{};
  std::array<CUjit_option, 2> options{CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  std::array<void*, 2> values{log.data(), reinterpret_cast<void*>(log.size())};
  CUlibrary library = nullptr;
  const CUresult result = driver.library_load_data(&library, compiled.image.c_str(), options.data(), values.data(),
                                                   static_cast<unsigned>(options.size()), nullptr, nullptr, 0);
  if (result == CUDA_SUCCESS) return library;
  std::string message =
      cuda_message(driver, "cuLibraryLoadData (" + compiled.target + ", " + compiled.entry + ")", result);
  log.back() = '\0';
  if (log.front() != '\0') message.append("\n").append(log.data());
  throw DeviceError(message);
}

}  // namespace

CudaKernel::CudaKernel(const CudaDriver& driver, const DeviceProperties& device, const CompiledKernel& compiled)
    : driver_(driver), ordinal_(device.ordinal), resources_(compiled.resources), name_(compiled.entry) {
  if (compiled.image.empty() || compiled.entry.empty()) {
    throw InvalidArgument("cannot load a kernel without an image or without an entry name");
  }
  if (compiled.target == "cpu") throw InvalidArgument("kernel " + name_ + " was compiled for the CPU device");
  library_ = load_library(driver_, compiled);
  try {
    CUkernel kernel = nullptr;
    cuda_check(driver_, driver_.library_get_kernel(&kernel, library_, name_.c_str()),
               "cuLibraryGetKernel(" + name_ + ")");
    cuda_check(driver_, driver_.kernel_get_function(&function_, kernel), "cuKernelGetFunction(" + name_ + ")");
    if (driver_.func_load != nullptr) cuda_check(driver_, driver_.func_load(function_), "cuFuncLoad(" + name_ + ")");

    const auto attribute = [&](CUfunction_attribute which) {
      int value = 0;
      cuda_check(driver_, driver_.func_get_attribute(&value, which, function_), "cuFuncGetAttribute(" + name_ + ")");
      return value;
    };
    resources_.registers = attribute(CU_FUNC_ATTRIBUTE_NUM_REGS);
    resources_.shared_bytes = attribute(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
    const auto fixed = static_cast<std::size_t>(resources_.shared_bytes);
    max_dynamic_shared_ = device.shared_bytes_per_block > fixed ? device.shared_bytes_per_block - fixed : 0;

    // Everything beyond 48 KB has to be asked for once. It only raises a limit, so it is done here and not per launch.
    cuda_check(driver_,
               driver_.func_set_attribute(function_, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                          static_cast<int>(max_dynamic_shared_)),
               "cuFuncSetAttribute(maximum dynamic shared memory)");
    if (device.max_cluster > 8) {
      cuda_check(driver_, driver_.func_set_attribute(function_, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1),
                 "cuFuncSetAttribute(non-portable cluster size)");
    }
    if (driver_.kernel_get_param_info != nullptr) {
      std::size_t offset = 0;
      std::size_t bytes = 0;
      if (driver_.kernel_get_param_info(kernel, 0, &offset, &bytes) == CUDA_SUCCESS) {
        std::size_t second_offset = 0;
        std::size_t second_bytes = 0;
        if (driver_.kernel_get_param_info(kernel, 1, &second_offset, &second_bytes) == CUDA_SUCCESS) {
          throw InvalidArgument("kernel " + name_ + " takes more than one parameter; expected one struct by value");
        }
        parameter_bytes_ = bytes;
      }
    }
  } catch (...) {
    driver_.library_unload(library_);
    throw;
  }
}

CudaKernel::~CudaKernel() {
  const CudaDeviceScope scope(ordinal_);
  driver_.library_unload(library_);
}

}  // namespace arbiter
