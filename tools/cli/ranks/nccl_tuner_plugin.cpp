#include "ranks/nccl_tuner_plugin.hpp"

#include <cstdlib>
#include <system_error>

namespace arbiter::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* variable = "NCCL_TUNER_PLUGIN";
constexpr const char* plugin_file = "libarbiter-nccl-tuner.so";
/// NCCL cuts longer names off.
constexpr std::size_t longest_name = 254;

}  // namespace

fs::path find_own_library(const fs::path& program, const std::string& file) {
  std::error_code error;
  const fs::path folder = program.parent_path();
  const fs::path libraries = folder.parent_path() / "lib";
  for (const fs::path& candidate : {folder / file, libraries / file, folder.parent_path() / "lib64" / file}) {
    if (fs::exists(candidate, error)) return candidate;
  }
  for (fs::directory_iterator it(libraries, error), end; !error && it != end; it.increment(error)) {
    if (!it->path().filename().string().ends_with("-linux-gnu")) continue;
    if (fs::path candidate = it->path() / file; fs::exists(candidate, error)) return candidate;
  }
  return {};
}

fs::path find_nccl_tuner_plugin(const fs::path& program) { return find_own_library(program, plugin_file); }

void offer_nccl_tuner_plugin() {
  if (std::getenv(variable) != nullptr) return;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (error) return;
  const std::string plugin = find_nccl_tuner_plugin(program).string();
  if (!plugin.empty() && plugin.size() <= longest_name) ::setenv(variable, plugin.c_str(), 0);
}

}  // namespace arbiter::cli
