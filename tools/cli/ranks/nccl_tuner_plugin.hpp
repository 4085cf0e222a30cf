// The libraries that are installed with this program, and the tuner plugin among them, offered to NCCL.
#pragma once

#include <filesystem>
#include <string>

namespace arbiter::cli {

/// Where `file` of the program at `program` lies: beside it or in ../lib (also ../lib/<multiarch>); empty if nowhere.
std::filesystem::path find_own_library(const std::filesystem::path& program, const std::string& file);
/// The same for the tuner plugin.
std::filesystem::path find_nccl_tuner_plugin(const std::filesystem::path& program);

/// Sets NCCL_TUNER_PLUGIN for this process and those it starts, so that NCCL's algorithms, protocols and channels can
/// be tuned and forced. Does nothing if the user set it (to "none", say). Call before there are threads.
void offer_nccl_tuner_plugin();

}  // namespace arbiter::cli
