// The compiled kernels that decisions need, made without the GPUs that will run them.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "arbiter/db/kernels.hpp"
#include "arbiter/generator/cache.hpp"

namespace arbiter {

struct DecisionKernels {
  std::vector<StoredKernel> kernels;  ///< ordered by key
  /// Decisions whose kernels cannot be made here, and why: the catalogue or the source has changed. The runtime would
  /// not use such a decision either.
  std::vector<std::string> skipped;
};

/// For every rank of every decision: compiled through `cache`, for the compute capability of its environment. Needs no
/// GPU. Throws Unavailable without NVRTC (for environments of the CPU device: without a host compiler), CompileError.
DecisionKernels compile_decision_kernels(std::span<const DecisionSet>, KernelCache& cache);

}  // namespace arbiter
