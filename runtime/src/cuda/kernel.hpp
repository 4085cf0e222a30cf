// A kernel loaded on a CUDA device, and how it is launched.
#pragma once

#include <array>

#include "arbiter/device.hpp"
#include "arbiter/generator/compile.hpp"
#include "cuda/driver.hpp"

namespace arbiter {

class CudaKernel final : public Kernel {
 public:
  /// Loads the image and forces it onto the device now, so that nothing is loaded at the first launch: lazy loading
  /// may wait for running kernels, which deadlocks when these wait for a peer that has not launched yet.
  CudaKernel(const CudaDriver& driver, const DeviceProperties& device, const CompiledKernel& compiled);
  ~CudaKernel() override;
  CudaKernel(const CudaKernel&) = delete;
  CudaKernel& operator=(const CudaKernel&) = delete;

  const KernelResources& resources() const noexcept override { return resources_; }
  CUfunction function() const noexcept { return function_; }
  /// Bytes of the parameter struct, 0 if the driver cannot tell.
  std::size_t parameter_bytes() const noexcept { return parameter_bytes_; }
  std::size_t max_dynamic_shared() const noexcept { return max_dynamic_shared_; }
  const std::string& name() const noexcept { return name_; }

 private:
  CudaDriver driver_;  // a copy: a kernel may outlive its device object
  int ordinal_;
  CUlibrary library_ = nullptr;
  CUfunction function_ = nullptr;
  std::size_t parameter_bytes_ = 0;
  std::size_t max_dynamic_shared_ = 0;
  KernelResources resources_;
  std::string name_;
};

/// A CUlaunchConfig and the attributes it points to. Lives on the stack of one launch; costs a few stores.
struct CudaLaunchConfig {
  CudaLaunchConfig(const Launch& launch, StreamHandle stream) noexcept {
    config.gridDimX = launch.blocks;
    config.gridDimY = 1;
    config.gridDimZ = 1;
    config.blockDimX = launch.threads;
    config.blockDimY = 1;
    config.blockDimZ = 1;
    config.sharedMemBytes = launch.shared_bytes;
    config.hStream = static_cast<CUstream>(stream);
    config.attrs = attributes;
    config.numAttrs = 0;
    if (launch.cluster > 1) {
      CUlaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
      attribute.value.clusterDim.x = launch.cluster;
      attribute.value.clusterDim.y = 1;
      attribute.value.clusterDim.z = 1;
    }
    if (launch.programmatic) {
      CUlaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
      attribute.value.programmaticStreamSerializationAllowed = 1;
    }
  }
  CudaLaunchConfig(const CudaLaunchConfig&) = delete;
  CudaLaunchConfig& operator=(const CudaLaunchConfig&) = delete;

  CUlaunchConfig config;
  CUlaunchAttribute attributes[2];
};

}  // namespace arbiter
