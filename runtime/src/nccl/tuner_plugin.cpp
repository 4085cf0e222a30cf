#include "nccl/tuner_plugin.hpp"

#include <dlfcn.h>
#include <link.h>

#include <cstdlib>

namespace arbiter {
namespace {

std::string_view file_name(std::string_view path) noexcept { return path.substr(path.rfind('/') + 1); }

/// For dl_iterate_phdr: stops at the library and leaves its path, which the loader keeps, in *found.
int find_library(dl_phdr_info* info, std::size_t /*size*/, void* found) noexcept {
  if (info->dlpi_name == nullptr || file_name(info->dlpi_name) != nccl_tuner_file) return 0;
  *static_cast<const char**>(found) = info->dlpi_name;
  return 1;
}

}  // namespace

bool is_own_nccl_tuner(std::string_view plugin) noexcept {
  // NCCL takes a path, a file name, or what stands between "libnccl-tuner-" and ".so"; ours has no such name.
  return file_name(plugin) == nccl_tuner_file;
}

std::optional<NcclTuner> NcclTuner::find() noexcept {
  const char* path = nullptr;
  dl_iterate_phdr(find_library, &path);
  if (path == nullptr) return std::nullopt;
  // The library stays loaded once it is (it is linked so), so this handle needs no owner.
  void* handle = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
  if (handle == nullptr) return std::nullopt;
  NcclTuner tuner;
  tuner.force_ = reinterpret_cast<NcclForceFunction>(dlsym(handle, nccl_force_symbol));
  tuner.announced_ = reinterpret_cast<NcclAnnouncedFunction>(dlsym(handle, nccl_announced_symbol));
  dlclose(handle);
  if (tuner.force_ == nullptr || tuner.announced_ == nullptr) return std::nullopt;
  return tuner;
}

NcclTuner::Request::Request(const NcclTuner& tuner, const NcclConfiguration& wanted) noexcept : end_(tuner.force_) {
  force_.algorithm = static_cast<int>(wanted.algorithm);
  force_.protocol = static_cast<int>(wanted.protocol);
  force_.channels = wanted.channels;
  tuner.force_(&force_);
}

std::string nccl_tuner_problem(const std::optional<NcclTuner>& tuner, unsigned long long announced_before) {
  if (tuner && tuner->announced() > announced_before) return {};
  const char* variable = std::getenv("NCCL_TUNER_PLUGIN");
  const std::string plugin = variable == nullptr ? "" : variable;
  const std::string remedy = std::string("set NCCL_TUNER_PLUGIN to the path of ") + nccl_tuner_file +
                             " before the process creates its first NCCL communicator";
  if (plugin.empty()) return "NCCL_TUNER_PLUGIN is not set; " + remedy;
  if (!is_own_nccl_tuner(plugin)) return "NCCL_TUNER_PLUGIN names another plugin ('" + plugin + "'); " + remedy;
  return "NCCL did not open '" + plugin +
         "' as its tuner plugin (the file is missing or of another version, or the process created an NCCL "
         "communicator "
         "before the variable was set); NCCL_DEBUG=INFO with NCCL_DEBUG_SUBSYS=TUNING says more";
}

}  // namespace arbiter
