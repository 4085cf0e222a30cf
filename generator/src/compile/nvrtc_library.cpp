#include "compile/nvrtc_library.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "arbiter/error.hpp"

namespace arbiter {
namespace {

namespace fs = std::filesystem;

constexpr std::array<const char*, 2> file_names{"libnvrtc.so.13", "libnvrtc.so.12"};
// Folders of the wheels below a site-packages folder: CUDA 13, then CUDA 12.
constexpr std::array<const char*, 2> wheel_folders{"nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"};

std::vector<fs::path> subfolders(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->is_directory(error)) found.push_back(it->path());
  std::sort(found.begin(), found.end());
  return found;
}

std::vector<fs::path> split_path_list(const char* list) {
  std::vector<fs::path> folders;
  std::string_view rest = list == nullptr ? "" : list;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(':'), rest.size());
    if (end > 0) folders.emplace_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return folders;
}

// site-packages of a Python environment.
void add_environment(std::vector<fs::path>& sites, const fs::path& root) {
  for (const fs::path& python : subfolders(root / "lib"))
    if (python.filename().string().starts_with("python3")) {
      sites.push_back(python / "site-packages");
      sites.push_back(python / "dist-packages");
    }
}

std::vector<fs::path> library_folders() {
  std::vector<fs::path> folders;
#ifdef ARBITER_CUDA_LIBRARY_DIR
  folders.emplace_back(ARBITER_CUDA_LIBRARY_DIR);
#endif
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"})
    if (const char* root = std::getenv(variable); root != nullptr && *root != '\0')
      for (const char* lib : {"lib64", "lib"}) folders.push_back(fs::path(root) / lib);
  folders.emplace_back("/usr/local/cuda/lib64");

  std::vector<fs::path> sites = split_path_list(std::getenv("PYTHONPATH"));
  std::error_code error;
  const fs::path executable = fs::read_symlink("/proc/self/exe", error);
  if (!error) {  // next to the program: inside a wheel, or in the bin folder of an environment
    sites.push_back(executable.parent_path());
    sites.push_back(executable.parent_path().parent_path());
    add_environment(sites, executable.parent_path().parent_path());
  }
  if (const char* root = std::getenv("VIRTUAL_ENV"); root != nullptr && *root != '\0') add_environment(sites, root);
  for (const fs::path& root : subfolders("/opt")) add_environment(sites, root / ".venv");
  for (const fs::path& site : sites)
    for (const char* wheel : wheel_folders) folders.push_back(site / wheel);
  return folders;
}

template <typename Function>
void load(void* handle, const char* name, Function& function, const std::string& path) {
  function = reinterpret_cast<Function>(dlsym(handle, name));
  if (function == nullptr)
    throw Unavailable("'" + path + "' has no function " + name + "; NVRTC 12.0 or newer is needed");
}

NvrtcLibrary load_functions(void* handle, std::string path) {
  NvrtcLibrary library;
  library.path = std::move(path);
  load(handle, "nvrtcVersion", library.version, library.path);
  load(handle, "nvrtcGetErrorString", library.error_string, library.path);
  load(handle, "nvrtcGetNumSupportedArchs", library.number_of_architectures, library.path);
  load(handle, "nvrtcGetSupportedArchs", library.architectures, library.path);
  load(handle, "nvrtcCreateProgram", library.create, library.path);
  load(handle, "nvrtcDestroyProgram", library.destroy, library.path);
  load(handle, "nvrtcCompileProgram", library.compile, library.path);
  load(handle, "nvrtcGetCUBINSize", library.cubin_size, library.path);
  load(handle, "nvrtcGetCUBIN", library.cubin, library.path);
  load(handle, "nvrtcGetPTXSize", library.ptx_size, library.path);
  load(handle, "nvrtcGetPTX", library.ptx, library.path);
  load(handle, "nvrtcGetProgramLogSize", library.log_size, library.path);
  load(handle, "nvrtcGetProgramLog", library.log, library.path);
  if (library.version(&library.major, &library.minor) != NVRTC_SUCCESS)
    throw Unavailable("'" + library.path + "' does not tell its version");
  return library;
}

}  // namespace

std::vector<int> NvrtcLibrary::supported() const {
  int count = 0;
  if (number_of_architectures(&count) != NVRTC_SUCCESS || count <= 0) return {};
  std::vector<int> values(static_cast<std::size_t>(count));
  if (architectures(values.data()) != NVRTC_SUCCESS) return {};
  std::sort(values.begin(), values.end());
  return values;
}

std::vector<std::string> nvrtc_candidates() {
  std::vector<std::string> candidates(file_names.begin(), file_names.end());
  for (const fs::path& folder : library_folders())
    for (const char* name : file_names) {
      std::string path = (folder / name).string();
      std::error_code error;
      if (!fs::exists(path, error)) continue;
      if (std::find(candidates.begin(), candidates.end(), path) == candidates.end())
        candidates.push_back(std::move(path));
    }
  return candidates;
}

NvrtcLibrary open_nvrtc(const std::vector<std::string>& candidates) {
  // The process may hold one already (PyTorch does): a second copy would only cost memory.
  for (const char* name : file_names)
    if (std::find(candidates.begin(), candidates.end(), name) != candidates.end())
      if (void* handle = dlopen(name, RTLD_NOW | RTLD_NOLOAD)) return load_functions(handle, name);
  std::string tried;
  for (const std::string& candidate : candidates) {
    void* handle = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle != nullptr) return load_functions(handle, candidate);
    const char* reason = dlerror();
    tried.append("\n  ").append(reason == nullptr ? candidate : std::string(reason));
  }
  throw Unavailable(
      "NVRTC (libnvrtc.so.13 or .12) was not found; install the CUDA toolkit or the nvidia-cuda-nvrtc wheel, "
      "or set CUDA_HOME. Tried:" +
      tried);
}

NvrtcLibrary open_nvrtc() {
  std::vector<std::string> candidates = nvrtc_candidates();
  try {
    return open_nvrtc(candidates);
  } catch (const Unavailable& error) {
    std::string folders;
    for (const fs::path& folder : library_folders()) folders.append("\n  ").append(folder.string());
    throw Unavailable(std::string(error.what()) + "\nand these folders have no such file:" + folders);
  }
}

}  // namespace arbiter
