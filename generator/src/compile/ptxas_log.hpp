// What ptxas -v says about a kernel.
#pragma once

#include <string_view>

#include "arbiter/generator/compile.hpp"

namespace arbiter {

/// The resources of `entry` in a verbose ptxas log; fields that it does not mention are -1 (shared memory: 0).
KernelResources parse_ptxas_log(std::string_view log, std::string_view entry);

}  // namespace arbiter
