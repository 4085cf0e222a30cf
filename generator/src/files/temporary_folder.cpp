#include "arbiter/generator/temporary_folder.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <system_error>

#include "arbiter/error.hpp"
#include "arbiter/generator/folder.hpp"
#include "arbiter/generator/trust.hpp"
#include "text/quote.hpp"

namespace arbiter {
namespace {

namespace fs = std::filesystem;

// Not "arbiter-": versions before this one held no lock on theirs.
constexpr std::string_view prefix = "arbiter.tmp-";
constexpr std::string_view unique = "XXXXXX";

bool is_ours_by_name(std::string_view name) {
  return name.size() == prefix.size() + unique.size() && name.starts_with(prefix) &&
         std::all_of(name.begin() + prefix.size(), name.end(), [](unsigned char c) { return std::isalnum(c) != 0; });
}

/// By descriptor, so that a folder that is put in its place in the meantime is left alone.
void remove_contents(const FileDescriptor& folder) {
  for (const std::string& name : names_in(folder)) {
    std::error_code ignored;
    fs::remove_all(fmt::format("/proc/self/fd/{}/{}", folder.get(), name), ignored);
  }
}

bool is_private(const FileDescriptor& folder) {
  struct stat info {};
  return fstat(folder.get(), &info) == 0 && S_ISDIR(info.st_mode) && info.st_uid == geteuid() &&
         (info.st_mode & 077) == 0;
}

bool has_its_name(const FileDescriptor& folder) {
  struct stat info {};
  return fstat(folder.get(), &info) == 0 && info.st_nlink != 0;
}

void sweep(const fs::path& place) {
  const FileDescriptor parent(open(place.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (const std::string& name : names_in(parent)) {
    if (!is_ours_by_name(name)) continue;
    const FileDescriptor folder = open_folder(parent, name);
    if (!folder || !is_private(folder) || flock(folder.get(), LOCK_EX | LOCK_NB) != 0) continue;
    remove_contents(folder);
    unlinkat(parent.get(), name.c_str(), AT_REMOVEDIR);
  }
}

}  // namespace

fs::path TemporaryFolder::place() {
  std::error_code error;
  fs::path given = fs::temp_directory_path(error);
  if (error) given = "/tmp";
  std::string reason;
  for (const fs::path& place : {given, fs::path("/tmp"), fs::path("/var/tmp")}) {
    struct stat info {};
    if (stat(place.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
      if (reason.empty()) reason = "it is no folder";
      continue;
    }
    const std::string why = distrust(info, true);
    if (why.empty()) return place;
    if (reason.empty()) reason = why;
  }
  throw Unavailable("there is no folder for temporary files: " + quote(given.string()) + ": " + reason +
                    "; set TMPDIR to a folder of yours");
}

TemporaryFolder::TemporaryFolder() {
  const fs::path base = place();
  sweep(base);
  for (int attempt = 0; attempt < 100; ++attempt) {
    std::string pattern = (base / (std::string(prefix) + std::string(unique))).string();
    if (mkdtemp(pattern.data()) == nullptr) break;
    FileDescriptor folder(open(pattern.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!folder || !is_private(folder)) continue;
    // Another process that sweeps may have found it before it was locked. A filesystem without such locks has none to
    // sweep with either.
    if (flock(folder.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) continue;
    if (!has_its_name(folder)) continue;
    path_ = pattern;
    descriptor_ = folder.release();
    return;
  }
  throw Unavailable("could not create a temporary folder in " + quote(base.string()) + ": " + std::strerror(errno) +
                    "; set TMPDIR to a folder that can be written");
}

TemporaryFolder::~TemporaryFolder() {
  const FileDescriptor folder(descriptor_);
  remove_contents(folder);
  rmdir(path_.c_str());
}

}  // namespace arbiter
