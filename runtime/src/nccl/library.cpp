#include "nccl/library.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "arbiter/error.hpp"
#include "arbiter/generator/search_path.hpp"

namespace arbiter {
namespace {

namespace fs = std::filesystem;

constexpr const char* file_name = "libnccl.so.2";
constexpr const char* wheel_folder = "nvidia/nccl/lib";

// The site-packages folders of the Python environment at `root`.
void add_environment(std::vector<fs::path>& sites, const fs::path& root) {
  std::error_code error;
  std::vector<fs::path> found;
  for (fs::directory_iterator it(root / "lib", error), end; !error && it != end; it.increment(error)) {
    if (!it->path().filename().string().starts_with("python3")) continue;
    found.push_back(it->path() / "site-packages");
    found.push_back(it->path() / "dist-packages");
  }
  std::sort(found.begin(), found.end());
  sites.insert(sites.end(), found.begin(), found.end());
}

std::vector<std::string> folders_in(const char* variable) {
  const char* list = std::getenv(variable);
  return split_search_path(list == nullptr ? "" : list);
}

std::vector<fs::path> environments() {
  std::vector<fs::path> roots;
  for (const char* variable : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    if (const char* root = std::getenv(variable); root != nullptr && *root != '\0') roots.emplace_back(root);
  }
  std::error_code error;
  for (const std::string& folder : folders_in("PATH")) {
    if (fs::exists(fs::path(folder) / "python3", error)) roots.push_back(fs::path(folder).parent_path());
  }
  for (fs::directory_iterator it("/opt", error), end; !error && it != end; it.increment(error)) {
    roots.push_back(it->path() / ".venv");
  }
  return roots;
}

/// Looks for NCCL's own functions. Where libarbiter-nccl.so is loaded, it is NCCL for whoever asks the loader, and
/// would serve Arbiter with Arbiter: its entries "pnccl..." lead straight to the NCCL behind it.
template <typename Function>
void load(void* library, const char* symbol, Function& slot) {
  const bool ours = dlsym(library, nccl_interpose_mark) != nullptr;
  slot = reinterpret_cast<Function>(dlsym(library, ours ? (std::string("p") + symbol).c_str() : symbol));
}

template <typename Function>
void require(void* library, const char* symbol, Function& slot, const std::string& path) {
  load(library, symbol, slot);
  if (slot == nullptr) {
    throw Unavailable("'" + path + "' has no function " + symbol + "; NCCL 2.14 or newer is needed");
  }
}

}  // namespace

int nccl_type(Dtype dtype) noexcept {
  switch (dtype) {
    case Dtype::bf16:
      return nccl_bfloat16;
    case Dtype::fp16:
      return nccl_float16;
    case Dtype::fp32:
      return nccl_float32;
  }
  return nccl_float32;
}

std::shared_ptr<const NcclLibrary> load_nccl(void* handle, const std::string& path) {
  auto library = std::make_shared<NcclLibrary>();
  library->path = path;
  require(handle, "ncclGetVersion", library->get_version, path);
  require(handle, "ncclGetErrorString", library->get_error_string, path);
  load(handle, "ncclGetLastError", library->get_last_error);
  require(handle, "ncclGetUniqueId", library->get_unique_id, path);
  require(handle, "ncclCommInitRankConfig", library->comm_init_rank_config, path);
  require(handle, "ncclCommGetAsyncError", library->comm_get_async_error, path);
  require(handle, "ncclCommFinalize", library->comm_finalize, path);
  require(handle, "ncclCommDestroy", library->comm_destroy, path);
  require(handle, "ncclCommAbort", library->comm_abort, path);
  require(handle, "ncclCommCount", library->comm_count, path);
  require(handle, "ncclCommUserRank", library->comm_user_rank, path);
  require(handle, "ncclCommCuDevice", library->comm_cu_device, path);
  require(handle, "ncclAllReduce", library->all_reduce, path);
  require(handle, "ncclAllGather", library->all_gather, path);
  require(handle, "ncclBroadcast", library->broadcast, path);
  load(handle, "ncclMemAlloc", library->mem_alloc);
  load(handle, "ncclMemFree", library->mem_free);
  load(handle, "ncclCommRegister", library->comm_register);
  load(handle, "ncclCommDeregister", library->comm_deregister);
  load(handle, "ncclCommWindowRegister", library->window_register);
  load(handle, "ncclCommWindowDeregister", library->window_deregister);
  if (library->get_version(&library->version_code) != nccl_success) {
    throw Unavailable("'" + path + "' does not tell its version");
  }
  // libarbiter-nccl.so has entries for all of them, whatever is behind it.
  if (library->version_code < 21900) {
    library->mem_alloc = nullptr, library->mem_free = nullptr;
    library->comm_register = nullptr, library->comm_deregister = nullptr;
  }
  if (library->version_code < 22700) library->window_register = nullptr, library->window_deregister = nullptr;
  return library;
}

std::string NcclLibrary::version() const {
  return fmt::format("{}.{}.{}", version_code / 10000, version_code / 100 % 100, version_code % 100);
}

std::string NcclLibrary::message(std::string_view call, int result, NcclComm comm) const {
  std::string text(call);
  text.append(" failed: ").append(get_error_string(result));
  if (get_last_error != nullptr) {
    if (const char* detail = get_last_error(comm); detail != nullptr && *detail != '\0') {
      text.append(" (").append(detail).append(")");
    }
  }
  return text;
}

std::vector<std::string> nccl_candidates() {
  std::vector<fs::path> sites;
  for (const std::string& folder : folders_in("PYTHONPATH")) sites.emplace_back(folder);
  std::error_code error;
  if (const fs::path program = fs::read_symlink("/proc/self/exe", error); !error) {
    const fs::path prefix = program.parent_path().parent_path();
    sites.push_back(prefix / "cuda-wheels");  // where tools/setup.sh unpacks wheels
    add_environment(sites, prefix);
  }
  for (const fs::path& root : environments()) add_environment(sites, root);

  std::vector<std::string> candidates{file_name};
  for (const fs::path& site : sites) {
    std::string path = (site / wheel_folder / file_name).string();
    if (!fs::exists(path, error)) continue;
    if (std::find(candidates.begin(), candidates.end(), path) == candidates.end())
      candidates.push_back(std::move(path));
  }
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
    const char* root = std::getenv(variable);
    if (root == nullptr || *root == '\0') continue;
    for (const char* folder : {"lib64", "lib"}) {
      if (const fs::path path = fs::path(root) / folder / file_name; fs::exists(path, error)) {
        candidates.push_back(path.string());
      }
    }
  }
  return candidates;
}

std::shared_ptr<const NcclLibrary> open_nccl(const std::vector<std::string>& candidates) {
  // The process may hold one already (PyTorch does). Two copies in one process would fight over the GPUs.
  if (std::find(candidates.begin(), candidates.end(), file_name) != candidates.end()) {
    if (void* handle = dlopen(file_name, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE)) {
      return load_nccl(handle, file_name);
    }
  }
  std::string tried;
  for (const std::string& candidate : candidates) {
    if (void* handle = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)) {
      return load_nccl(handle, candidate);
    }
    const char* reason = dlerror();
    tried.append("\n  ").append(reason == nullptr ? candidate.c_str() : reason);
  }
  throw Unavailable(
      "NCCL (libnccl.so.2) was not found; install libnccl2 or the nvidia-nccl-cu13 wheel, or add its "
      "folder to LD_LIBRARY_PATH. Tried:" +
      tried);
}

}  // namespace arbiter
