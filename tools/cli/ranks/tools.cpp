#include "ranks/tools.hpp"

#include <cstdlib>
#include <string>

namespace arbiter::cli {

std::shared_ptr<KernelCache> make_cache(const EnvironmentVariables& variables) {
  CacheOptions options;
  options.directory = variables.cache_dir;
  options.compile_on_miss = variables.jit;
  return std::make_shared<KernelCache>(options);
}

EnvironmentVariables measuring_variables(DeviceKind device) {
  EnvironmentVariables variables = EnvironmentVariables::read();
  if (std::getenv("ARBITER_TIMEOUT_MS") == nullptr) {
    variables.timeout = device == DeviceKind::cpu ? std::chrono::seconds(20) : std::chrono::seconds(2);
  }
  return variables;
}

void TerminalProgress::update(const Progress& progress) {
  if (!leader_) return;
  std::string text = std::to_string(progress.done) + "/" + std::to_string(progress.total);
  if (progress.left_s > 0) text += ", " + format_seconds(progress.left_s) + " left";
  text += "  " + progress.doing;
  if (!progress.best.empty()) text += "  best " + format_microseconds(progress.best_us) + " us";
  if (!progress.candidate.empty()) text += "  " + progress.candidate;
  line_.update(text);
}

}  // namespace arbiter::cli
