// An environment in one line, and which environments of a file are meant.
#pragma once

#include <string>
#include <vector>

#include "arbiter/db/records.hpp"
#include "options/options.hpp"

namespace arbiter::cli {

/// "NVIDIA H200 (cuda), driver 580.95, CUDA 13.0, NCCL 2.28.3, nvlink_switch, vmm"
std::string describe(const Environment& environment);

/// The first characters of its key: enough to tell environments of one file apart, and what --environment takes.
std::string short_key(const Environment& environment);

struct EnvironmentFilter {
  std::string device;  ///< "cuda", "cpu"; empty: any
  std::string key;     ///< how the key starts
  bool admits(const Environment& environment) const;
};

/// Declares --device and --environment.
void declare_environment_filter(Options& options);
EnvironmentFilter read_environment_filter(const Options& options);

/// To standard error: this document holds the first of several environments, and how to choose another.
void mention_others(const std::vector<const Environment*>& environments);

}  // namespace arbiter::cli
