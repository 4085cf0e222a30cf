// What a loaded library offers.
#pragma once

#include <string>
#include <vector>

namespace arbiter::nccl_interpose {

/// Names of the functions "nccl..." and "pnccl..." that this library defines, sorted. `handle` is dlopen()'s. Empty if
/// its symbol table cannot be read.
std::vector<std::string> exported_names(void* handle);

}  // namespace arbiter::nccl_interpose
