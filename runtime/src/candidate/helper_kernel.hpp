// Kernels that are no candidates: they prove memory, or compare what candidates wrote.
#pragma once

#include <memory>
#include <string>

#include "arbiter/device.hpp"
#include "arbiter/generator/cache.hpp"

namespace arbiter {

/// The template `name`, compiled for the device and loaded. It finds the keys `cuda` and `host`, the partial
/// `@primitives`, and in the list `ranks` the rank (on the CPU device: all of them, each with an entry of its own).
/// `what` is for people. Throws CompileError, and Unavailable where there is no compiler.
std::unique_ptr<Kernel> load_helper_kernel(Device&, KernelCache&, const std::string& name, const std::string& what,
                                           int rank, int ranks);

}  // namespace arbiter
