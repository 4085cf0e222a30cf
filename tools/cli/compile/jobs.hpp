// Compiling many variants: NVRTC does not scale with threads, so the work is shared by processes.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "arbiter/generator/cache.hpp"
#include "arbiter/generator/compile.hpp"
#include "arbiter/generator/variant.hpp"

namespace arbiter::cli {

struct CompileTask {
  std::string target;  ///< "sm_90a", ..., "cpu"
  Variant variant;
  int rank = 0;
};

struct CompileOutcome {
  CompileTask task;
  bool cached = false;
  double milliseconds = 0;  ///< rendering and compiling, or reading from the cache
  std::size_t image_bytes = 0;
  KernelResources resources;
  std::string error;  ///< empty when it compiled
};

/// Outcomes in the order of `tasks`. `done` is called after each, in this process.
/// Throws Unavailable when there is no compiler at all, and an Error when a process of the `jobs` died.
std::vector<CompileOutcome> compile_all(const std::vector<CompileTask>& tasks, const CacheOptions& cache, int jobs,
                                        const std::function<void(const CompileOutcome&, std::size_t)>& done);

}  // namespace arbiter::cli
