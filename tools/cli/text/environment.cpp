#include "text/environment.hpp"

#include <cstdio>
#include <string_view>

#include "arbiter/vocabulary.hpp"
#include "options/names.hpp"
#include "text/print.hpp"

namespace arbiter::cli {

std::string describe(const Environment& environment) {
  // Two environments may differ in nothing else that is said here: ARBITER_MAX_SMS bounds the multiprocessors.
  std::string text =
      environment.gpu_name + " (" + environment.device + ", " + std::to_string(environment.sm_count) + " SMs)";
  if (environment.device == "cuda") {
    text += ", driver " + environment.driver_version + ", CUDA " + environment.cuda_runtime + ", NCCL " +
            (environment.nccl_version.empty() ? "none" : environment.nccl_version);
  }
  text += ", " + environment.topology;
  // On the CPU device links and memory are the same thing.
  return environment.symmetric_memory == environment.topology ? text : text + ", " + environment.symmetric_memory;
}

std::string short_key(const Environment& environment) { return environment.key().substr(0, 12); }

bool EnvironmentFilter::admits(const Environment& environment) const {
  return (device.empty() || environment.device == device) && environment.key().starts_with(key);
}

void declare_environment_filter(Options& options) {
  options.value("device", "NAME", "only environments of this device: cuda, cpu")
      .choices(device_names())
      .value("environment", "KEY", "only environments whose key starts with this");
}

EnvironmentFilter read_environment_filter(const Options& options) {
  EnvironmentFilter filter{options.text("device"), options.text("environment")};
  constexpr std::string_view devices[] = {"cuda", "cpu"};
  if (!filter.device.empty() && filter.device != "cuda" && filter.device != "cpu") {
    throw UsageError(unknown_name_message("device", filter.device, devices));
  }
  return filter;
}

void mention_others(const std::vector<const Environment*>& environments) {
  if (environments.size() < 2) return;
  print_error("arbiter: this is one of %zu environments; choose with --environment:\n", environments.size());
  for (const Environment* environment : environments) {
    print_error("  %s  %s\n", short_key(*environment).c_str(), describe(*environment).c_str());
  }
}

}  // namespace arbiter::cli
