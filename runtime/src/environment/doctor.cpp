#include "arbiter/runtime/doctor.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <functional>
#include <utility>

#include "arbiter/db/database.hpp"
#include "arbiter/db/kernels.hpp"
#include "arbiter/error.hpp"
#include "arbiter/generator/compile.hpp"
#include "arbiter/generator/folder.hpp"
#include "environment/doctor_cuda.hpp"
#include "environment/process_identity.hpp"
#include "nccl/library.hpp"
#include "nccl/tuner_plugin.hpp"

namespace arbiter {
namespace {

namespace fs = std::filesystem;

// A probe that throws is a capability that is missing, with the message as its reason.
Capability probe(const std::string& name, const std::function<void(Capability&)>& look) {
  Capability capability{name, false, "", ""};
  try {
    look(capability);
    capability.ok = capability.reason.empty();
  } catch (const std::exception& error) {
    capability.ok = false;
    capability.reason = error.what();
  }
  return capability;
}

void look_for_nvrtc(Capability& nvrtc) {
  nvrtc.value = nvrtc_version();
  // A reason in brackets takes the place of the version when there is none.
  if (nvrtc.value.empty() || nvrtc.value.front() < '0' || nvrtc.value.front() > '9') {
    nvrtc.reason = nvrtc.value.empty() ? "NVRTC was not found; install the CUDA toolkit" : nvrtc.value;
    nvrtc.value.clear();
  }
}

void look_for_nccl(Capability& nccl) {
  const std::shared_ptr<const NcclLibrary> library = open_nccl();
  nccl.value = library->version() + " (" + library->path + ")";
  if (library->window_register == nullptr) nccl.value += ", without symmetric windows (2.27 has them)";
}

/// Where NCCL looks for it. The program offers the one that was installed with it, so that a variable which is still
/// not set means that there is none.
void look_for_nccl_tuner_plugin(Capability& plugin) {
  const char* variable = std::getenv("NCCL_TUNER_PLUGIN");
  plugin.value = variable == nullptr ? "" : variable;
  const std::string name = nccl_tuner_file, consequence = "; until then NCCL is only measured, and used, as it chooses";
  if (plugin.value.empty()) {
    plugin.reason = name +
                    " is neither beside the program nor in lib/ beside its folder: copy it there from where "
                    "Arbiter was built or installed, or set NCCL_TUNER_PLUGIN to its path" +
                    consequence;
    return;
  }
  if (!is_own_nccl_tuner(plugin.value)) {
    plugin.reason = "NCCL_TUNER_PLUGIN names another plugin: unset it, or set it to the path of " + name + consequence;
    return;
  }
  void* const handle = dlopen(plugin.value.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* const why = dlerror();
    plugin.reason = "cannot be opened (" + std::string(why == nullptr ? "unknown" : why) +
                    "): install it again, or set NCCL_TUNER_PLUGIN to its path" + consequence;
    return;
  }
  if (dlsym(handle, nccl_force_symbol) == nullptr || dlsym(handle, nccl_announced_symbol) == nullptr) {
    plugin.reason = "is of another version of Arbiter: install the one that came with this program" + consequence;
  }
  dlclose(handle);
}

void look_for_host_compiler(Capability& compiler) { compiler.value = make_host_compiler()->identity(); }

// Writes and removes a file: permission bits say little on network file systems.
void look_at_cache(Capability& cache, const fs::path& folder) {
  cache.value = folder.string();
  if (folder.empty()) {
    cache.reason = "no cache directory is set; kernels are compiled in every process. Set ARBITER_CACHE_DIR or HOME";
    return;
  }
  const auto why = [] { return std::error_code(errno, std::generic_category()).message(); };
  if (!make_private_folders(folder)) {
    cache.reason = "cannot be created: " + why() + "; set ARBITER_CACHE_DIR to a writable folder";
    return;
  }
  const FolderResult opened = open_trusted_folder(folder);
  if (!opened.untrusted.empty()) {
    cache.reason = "is not used, because others could have put code into it (" + opened.untrusted +
                   "); set ARBITER_CACHE_DIR to a folder of your own";
    return;
  }
  const std::string name = ".doctor-" + random_token(8);
  if (!opened.folder || !write_new_file(opened.folder, name, "arbiter")) {
    cache.reason = "cannot be written to: " + why() + "; set ARBITER_CACHE_DIR to a writable folder";
  }
  unlinkat(opened.folder.get(), name.c_str(), 0);
}

void look_at_database(Capability& database, const std::string& path) {
  if (path.empty()) {
    database.reason = "no database is set; the built-in choice is used. Run 'arbiter tune' and set ARBITER_DB";
    return;
  }
  database.value = path;
  std::size_t decisions = 0;
  const std::vector<DecisionSet> sets = read_decisions(path);
  for (const DecisionSet& set : sets) decisions += set.decisions.size();
  database.value += fmt::format(": {} decisions of {} environment(s)", decisions, sets.size());
  if (const std::string kernels = not_loaded(path, carried_kernels(path)); !kernels.empty()) {
    database.value += "; " + kernels.substr(kernels.find("' carries") + 2);
  }
}

// Several capabilities at once; if looking fails halfway, all of `names` that are missing are reported with the reason.
void append(std::vector<Capability>& all, const std::vector<std::string>& names,
            const std::function<std::vector<Capability>()>& look) {
  try {
    std::vector<Capability> found = look();
    all.insert(all.end(), std::make_move_iterator(found.begin()), std::make_move_iterator(found.end()));
  } catch (const std::exception& error) {
    for (const std::string& name : names) all.push_back({name, false, "", error.what()});
  }
}

}  // namespace

std::vector<Capability> probe_capabilities(const EnvironmentVariables& variables) {
  std::vector<Capability> all;
  append(all, {"driver", "cuda_devices", "peer_access", "topology"}, probe_cuda);
  all.push_back(probe("nvrtc", look_for_nvrtc));
  all.push_back(probe("nccl", look_for_nccl));
  all.push_back(probe("nccl_tuner_plugin", look_for_nccl_tuner_plugin));
  append(all, {"symmetric_memory_vmm", "symmetric_memory_cuda_ipc"}, probe_symmetric_providers);
  append(all, {"multicast"}, [&] { return std::vector<Capability>{probe_multicast(variables)}; });
  all.push_back(probe("host_compiler", look_for_host_compiler));
  all.push_back(probe("cache_directory", [&](Capability& cache) { look_at_cache(cache, variables.cache_dir); }));
  all.push_back(probe("database", [&](Capability& database) { look_at_database(database, variables.db); }));
  return all;
}

}  // namespace arbiter
