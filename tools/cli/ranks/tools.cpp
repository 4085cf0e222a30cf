#include "ranks/tools.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <string>

#include "arbiter/bootstrap.hpp"
#include "arbiter/error.hpp"
#include "arbiter/runtime/kernel_cache.hpp"

namespace arbiter::cli {

namespace {

/// One process of a command says what is the same for all of them.
bool speaks_for_the_command() {
  if (std::getenv("ARBITER_WORKER_RANK") != nullptr) return false;  // its parent did
  try {
    return read_launcher_variables().rank == 0;
  } catch (const Error&) {  // said where the ranks are needed
    return true;
  }
}

}  // namespace

std::shared_ptr<KernelCache> make_cache(const EnvironmentVariables& variables) {
  return make_kernel_cache(variables, speaks_for_the_command());
}

EnvironmentVariables measuring_variables(DeviceKind device) {
  EnvironmentVariables variables = EnvironmentVariables::read();
  if (std::getenv("ARBITER_TIMEOUT_MS") == nullptr) {
    variables.timeout = device == DeviceKind::cpu ? std::chrono::seconds(20) : std::chrono::seconds(2);
  }
  // Nothing but measuring goes on here: no rank is late for a reason of its own.
  if (std::getenv("ARBITER_FIRST_TIMEOUT_MS") == nullptr) variables.first_timeout = variables.timeout;
  return variables;
}

void TerminalProgress::update(const Progress& progress) {
  if (!leader_) return;
  std::string text = fmt::format("{}/{}", progress.done, progress.total);
  if (progress.left_s > 0) text += ", " + format_seconds(progress.left_s) + " left";
  text += "  " + progress.doing;
  if (!progress.best.empty()) text += "  best " + format_microseconds(progress.best_us) + " us";
  if (!progress.candidate.empty()) text += "  " + progress.candidate;
  line_.update(text);
}

}  // namespace arbiter::cli
