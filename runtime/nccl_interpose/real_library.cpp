#include "real_library.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

#include "arbiter/error.hpp"
#include "arbiter/generator/joined.hpp"
#include "exported_names.hpp"
#include "settings.hpp"

namespace arbiter::nccl_interpose {
namespace {

struct Opened {
  void* handle = nullptr;
  std::string path;
  RealLibrary library;
};

/// A path with a slash is compared by file, not by SONAME, so this never returns a library that is merely named alike.
bool try_open(const LibraryCandidate& candidate, Opened& opened, std::string& tried) {
  void* handle = dlopen(candidate.path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  std::string reason;
  if (handle == nullptr) {
    const char* error = dlerror();
    reason = error == nullptr ? "dlopen failed" : error;
  } else if (dlsym(handle, nccl_interpose_mark) != nullptr) {
    reason = "this is Arbiter's libarbiter-nccl.so, not NCCL";
  } else if (dlsym(handle, "ncclAllReduce") == nullptr) {
    reason = "it has no ncclAllReduce";
  } else {
    opened.handle = handle;
    opened.path = candidate.path;
    opened.library.found_by = candidate.found_by;
    return true;
  }
  tried += fmt::format("\n  {} ({}): {}", candidate.path, candidate.found_by, reason);
  return false;
}

/// This library's function of that name, and no other library's.
void* own_function(const char* name) {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_function), &info) == 0) return nullptr;
  static void* const handle = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  return handle == nullptr ? nullptr : dlsym(handle, name);
}

[[noreturn]] void give_up(const std::string& what) {
  std::fputs(fmt::format("arbiter: {}\n", what).c_str(), stderr);
  std::abort();
}

/// Throws Unavailable, saying what was tried.
Opened find_real() {
  Opened opened;
  std::string tried;
  const char* wanted = std::getenv("ARBITER_NCCL_LIBRARY");
  if (wanted != nullptr && *wanted != '\0') {
    if (try_open({wanted, "ARBITER_NCCL_LIBRARY"}, opened, tried)) return opened;
    throw Unavailable(
        "ARBITER_NCCL_LIBRARY does not name an NCCL library; expected the path of a libnccl.so.2. Tried:" + tried);
  }
  for (const LibraryCandidate& candidate : library_candidates()) {
    if (try_open(candidate, opened, tried)) return opened;
  }
  throw Unavailable(
      "libarbiter-nccl.so found no NCCL to pass calls on to; set ARBITER_NCCL_LIBRARY to the path of libnccl.so.2. "
      "Tried:" +
      (tried.empty() ? std::string(" nothing, because there is no such file") : tried));
}

template <typename Function>
void load(const Opened& opened, const char* name, Function& slot) {
  slot = reinterpret_cast<Function>(dlsym(opened.handle, name));
  if (slot != nullptr) return;
  throw Unavailable(fmt::format("'{}' has no {}; NCCL 2.18 or newer is needed", opened.path, name));
}

/// Throws Unavailable.
const Opened& try_opened() {
  // Never destroyed: other threads may call NCCL while the process ends.
  static const Opened* const instance = [] {
    auto* result = new Opened(find_real());
    RealLibrary& library = result->library;
    library.nccl = load_nccl(result->handle, result->path);
    load(*result, "ncclGroupStart", library.group_start);
    load(*result, "ncclGroupEnd", library.group_end);
    load(*result, "ncclSend", library.send);
    load(*result, "ncclRecv", library.receive);
    log().info(fmt::format("NCCL {} is behind this library: {} ({})", library.nccl->version(), library.nccl->path,
                           library.found_by));
    library.unknown_names = exported_names(result->handle);
    std::erase_if(library.unknown_names, [](const std::string& name) { return own_function(name.c_str()) != nullptr; });
    if (!library.unknown_names.empty()) {
      log().warn(fmt::format(
          "'{}' has functions that this library does not know: {}. Programs that are linked to NCCL find them there; "
          "those that open this library by path do not",
          result->path, joined(library.unknown_names, ", ")));
    }
    return result;
  }();
  return *instance;
}

const Opened& opened() {
  try {
    return try_opened();
  } catch (const std::exception& error) {
    give_up(error.what());
  }
}

int missing_function() { return nccl_invalid_usage; }

}  // namespace

const RealLibrary& real_library() { return opened().library; }
const RealLibrary& try_real_library() { return try_opened().library; }

void* resolve(const char* name) noexcept {
  if (void* function = dlsym(opened().handle, name)) return function;
  log().error(fmt::format("'{}' has no function {}; calls of it return ncclInvalidUsage", opened().path, name));
  return reinterpret_cast<void*>(&missing_function);
}

}  // namespace arbiter::nccl_interpose

// Every copy of this library has it, so that a renamed or second copy is not taken for NCCL.
extern "C" __attribute__((visibility("default"))) const int arbiter_nccl_interpose_mark = 1;
