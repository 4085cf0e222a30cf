// Where compiled kernels are kept.
#pragma once

#include <filesystem>

namespace arbiter {

/// ARBITER_CACHE_DIR, $XDG_CACHE_HOME/arbiter or ~/.cache/arbiter; empty where none of these can be told.
std::filesystem::path cache_folder();

}  // namespace arbiter
