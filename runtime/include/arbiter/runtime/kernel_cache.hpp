// The kernel cache that the environment variables ask for.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "arbiter/generator/cache.hpp"
#include "arbiter/variables.hpp"

namespace arbiter {

/// Where no folder is named and none can be found (no HOME, and a user without an entry in passwd), kernels are
/// compiled in every process; one rank `says_so`, through `warn` (empty: standard error).
std::shared_ptr<KernelCache> make_kernel_cache(const EnvironmentVariables&, bool says_so,
                                               std::function<void(const std::string&)> warn = {});

}  // namespace arbiter
