// Small kernels for tests of the CUDA device.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "arbiter/device.hpp"
#include "arbiter/generator/compile.hpp"

namespace arbiter::test {

/// Skips the test when this machine has fewer GPUs.
#define ARBITER_NEEDS_GPUS(needed)               \
  if (::arbiter::cuda_device_count() < (needed)) \
  GTEST_SKIP() << "needs " << (needed) << " CUDA device(s), found " << ::arbiter::cuda_device_count()

/// What fill and copy kernels take.
struct FillArguments {
  unsigned* out = nullptr;
  unsigned value = 0;
  unsigned count = 0;
};

inline constexpr const char* fill_source = R"(
struct Arguments { unsigned* out; unsigned value; unsigned count; };
extern "C" __global__ void arbiter_kernel(const __grid_constant__ Arguments a) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  extern __shared__ unsigned shared[];
  if (threadIdx.x == 0) shared[0] = a.value;
  __syncthreads();
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < a.count; i += gridDim.x * blockDim.x)
    a.out[i] = shared[0] + i;
}
)";

/// out[block] = blocks in the cluster * 100 + this block's rank in it.
inline constexpr const char* cluster_source = R"(
struct Arguments { unsigned* out; unsigned value; unsigned count; };
extern "C" __global__ void arbiter_kernel(const __grid_constant__ Arguments a) {
  unsigned rank, size;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  if (threadIdx.x == 0) a.out[blockIdx.x] = size * 100 + rank;
}
)";

inline constexpr const char* empty_source = R"(
struct Arguments { unsigned* out; unsigned value; unsigned count; };
extern "C" __global__ void arbiter_kernel(const __grid_constant__ Arguments a) {}
)";

inline std::unique_ptr<Kernel> load_source(Device& device, const std::string& text) {
  const Source source{text, "arbiter_kernel", "test"};
  return device.load(make_nvrtc_compiler(device.properties().compile_target)->compile(source), 0);
}

}  // namespace arbiter::test
