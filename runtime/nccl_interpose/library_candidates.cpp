// Where the real NCCL may be: what the program says, has, or was linked to, before anything that merely lies around.
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/stat.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <string_view>

#include "arbiter/generator/search_path.hpp"
#include "real_library.hpp"

namespace arbiter::nccl_interpose {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view file_name = "libnccl.so.2";

struct FileIdentity {
  dev_t device = 0;
  ino_t inode = 0;
  bool operator==(const FileIdentity&) const = default;
};

bool identify(const std::string& path, FileIdentity& identity) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return false;
  identity = {status.st_dev, status.st_ino};
  return true;
}

std::string own_path() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&library_candidates), &info) == 0 || info.dli_fname == nullptr) return {};
  return info.dli_fname;
}

class Collector {
 public:
  Collector() { identify(own_path(), own_); }

  void add(const std::string& path, std::string_view found_by) {
    FileIdentity identity;
    if (path.find('/') == std::string::npos || !identify(path, identity) || identity == own_) return;
    for (const FileIdentity& known : known_) {
      if (known == identity) return;
    }
    known_.push_back(identity);
    candidates_.push_back({path, std::string(found_by)});
  }
  void add_folders(std::string_view list, const std::string& origin, std::string_view found_by) {
    for (std::string folder : split_search_path(list)) {
      for (const std::string_view token : {std::string_view("${ORIGIN}"), std::string_view("$ORIGIN")}) {
        for (std::size_t at = folder.find(token); at != std::string::npos; at = folder.find(token)) {
          folder.replace(at, token.size(), origin);
        }
      }
      add(folder + "/" + std::string(file_name), found_by);
    }
  }
  std::vector<LibraryCandidate> take() { return std::move(candidates_); }

 private:
  FileIdentity own_;
  std::vector<FileIdentity> known_;
  std::vector<LibraryCandidate> candidates_;
};

/// One library of the process, as far as it matters here.
struct Loaded {
  std::string path;
  bool needs_nccl = false;
  std::string rpath;
  std::string runpath;
};

Loaded read_loaded(const dl_phdr_info& info) {
  Loaded loaded;
  loaded.path = info.dlpi_name == nullptr ? "" : info.dlpi_name;
  const ElfW(Dyn)* dynamic = nullptr;
  for (int i = 0; i < info.dlpi_phnum; ++i) {
    if (info.dlpi_phdr[i].p_type == PT_DYNAMIC) {
      dynamic = reinterpret_cast<const ElfW(Dyn)*>(info.dlpi_addr + info.dlpi_phdr[i].p_vaddr);
    }
  }
  if (dynamic == nullptr) return loaded;
  const char* strings = nullptr;
  for (const ElfW(Dyn)* entry = dynamic; entry->d_tag != DT_NULL; ++entry) {
    if (entry->d_tag != DT_STRTAB) continue;
    // glibc has relocated the address in place, except where the section is read-only (the kernel's vDSO).
    ElfW(Addr) address = entry->d_un.d_ptr;
    if (address < info.dlpi_addr) address += info.dlpi_addr;
    strings = reinterpret_cast<const char*>(address);
  }
  if (strings == nullptr) return loaded;
  for (const ElfW(Dyn)* entry = dynamic; entry->d_tag != DT_NULL; ++entry) {
    if (entry->d_tag == DT_NEEDED && std::string_view(strings + entry->d_un.d_val).starts_with("libnccl.so")) {
      loaded.needs_nccl = true;
    }
    if (entry->d_tag == DT_RPATH) loaded.rpath = strings + entry->d_un.d_val;
    if (entry->d_tag == DT_RUNPATH) loaded.runpath = strings + entry->d_un.d_val;
  }
  return loaded;
}

std::vector<Loaded> loaded_libraries() {
  std::vector<Loaded> all;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        try {
          static_cast<std::vector<Loaded>*>(data)->push_back(read_loaded(*info));
        } catch (...) {
          return 1;
        }
        return 0;
      },
      &all);
  return all;
}

std::string folder_of(const std::string& path) {
  std::error_code error;
  const fs::path whole = path.empty() ? fs::read_symlink("/proc/self/exe", error) : fs::path(path);
  return whole.parent_path().string();
}

}  // namespace

std::vector<LibraryCandidate> library_candidates() {
  Collector collector;
  const std::string own = own_path();
  const std::vector<Loaded> loaded = loaded_libraries();
  for (const Loaded& library : loaded) {
    if (fs::path(library.path).filename().string().starts_with("libnccl.so")) {
      collector.add(library.path, "the program has loaded it");
    }
  }
  // The loader's own order: RPATH, LD_LIBRARY_PATH, RUNPATH; of what is linked to NCCL first, and of all others for
  // those that open it (JAX).
  const auto add_search_paths = [&](bool needs_nccl, std::string Loaded::*list) {
    for (const Loaded& library : loaded) {
      if (library.needs_nccl != needs_nccl || library.path == own) continue;
      collector.add_folders(library.*list, folder_of(library.path),
                            "search path of " + (library.path.empty() ? "the program" : library.path));
    }
  };
  bool linked = false;
  for (const Loaded& library : loaded) linked = linked || (library.needs_nccl && library.path != own);
  add_search_paths(true, &Loaded::rpath);
  if (!linked) add_search_paths(false, &Loaded::rpath);
  if (const char* list = std::getenv("LD_LIBRARY_PATH")) collector.add_folders(list, "", "LD_LIBRARY_PATH");
  add_search_paths(true, &Loaded::runpath);
  add_search_paths(false, &Loaded::rpath);
  add_search_paths(false, &Loaded::runpath);
  for (const std::string& path : nccl_candidates()) collector.add(path, "Python environment or CUDA toolkit");
  for (const std::string_view folders :
       {"/usr/local/lib:/usr/local/lib64:/usr/local/cuda/lib64:/usr/local/cuda/lib",
        "/usr/lib/x86_64-linux-gnu:/lib/x86_64-linux-gnu:/usr/lib/aarch64-linux-gnu:/lib/aarch64-linux-gnu",
        "/usr/lib64:/lib64:/usr/lib:/lib"}) {
    collector.add_folders(folders, "", "system folder");
  }
  return collector.take();
}

}  // namespace arbiter::nccl_interpose
