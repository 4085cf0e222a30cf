// The names that options take, for completion: from the catalogue and the vocabulary, never from a list of their own.
#pragma once

#include <string>
#include <vector>

namespace arbiter::cli {

std::vector<std::string> dtype_names();
std::vector<std::string> mode_names();
std::vector<std::string> device_names();
std::vector<std::string> pattern_names();    ///< those that people ask for most
std::vector<std::string> backend_names();    ///< of kernels: those that have an algorithm in the catalogue
std::vector<std::string> algorithm_names();  ///< with their backend: "trtllm/oneshot_push"
std::vector<std::string> target_names();     ///< that kernels are compiled for: "sm_90a", ..., "cpu"

}  // namespace arbiter::cli
