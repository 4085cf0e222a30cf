#include "arbiter/generator/folder.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <random>

#include "arbiter/generator/whole_files.hpp"

namespace arbiter {
namespace {

namespace fs = std::filesystem;

constexpr int folder_flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;

std::string hexadecimal_name() {
  std::random_device random;
  std::array<char, 17> name{};
  std::snprintf(name.data(), name.size(), "%08x%08x", static_cast<unsigned>(random()), static_cast<unsigned>(random()));
  return name.data();
}

// The umask may have taken even the user's own rights away.
bool make_ours(int parent, const char* name) {
  if (mkdirat(parent, name, 0700) != 0) return errno == EEXIST;
  const FileDescriptor made(openat(parent, name, folder_flags | O_NOFOLLOW));
  return !made || fchmod(made.get(), 0700) == 0;
}

FolderResult checked(FileDescriptor folder, bool sticky_is_safe) {
  struct stat info {};
  if (!folder || fstat(folder.get(), &info) != 0) return {};
  if (std::string why = distrust(info, sticky_is_safe); !why.empty()) return {FileDescriptor(), std::move(why)};
  return {std::move(folder), ""};
}

}  // namespace

std::string distrust(const struct stat& info, bool sticky_is_safe) {
  if (info.st_uid != geteuid() && info.st_uid != 0)
    return fmt::format("it belongs to user {}, expected the user {} or root", info.st_uid, geteuid());
  const bool sticky = sticky_is_safe && S_ISDIR(info.st_mode) && (info.st_mode & S_ISVTX) != 0;
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0 && !sticky)
    return "others may write to it; `chmod go-w` it if what it holds is yours";
  return "";
}

FileDescriptor open_folder(const FileDescriptor& parent, const std::string& name) {
  return FileDescriptor(openat(parent.get(), name.c_str(), folder_flags | O_NOFOLLOW));
}

FolderResult open_trusted_folder(const fs::path& given) {
  const fs::path path = given.has_filename() ? given : given.parent_path();  // "folder/" would follow a link
  struct stat link {};
  if (lstat(path.c_str(), &link) != 0) return {};
  if (S_ISLNK(link.st_mode) && link.st_uid != geteuid() && link.st_uid != 0)
    return {FileDescriptor(), fmt::format("it is a link of user {}", link.st_uid)};
  return checked(FileDescriptor(open(path.c_str(), S_ISLNK(link.st_mode) ? folder_flags : folder_flags | O_NOFOLLOW)),
                 true);
}

FolderResult open_trusted_folder(const FileDescriptor& parent, const std::string& name) {
  FileDescriptor folder = open_folder(parent, name);
  struct stat info {};
  if (!folder && fstatat(parent.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(info.st_mode))
    return {FileDescriptor(), "'" + name + "' in it is a link, expected a folder"};
  FolderResult result = checked(std::move(folder), false);
  if (!result.untrusted.empty()) result.untrusted = "'" + name + "' in it: " + result.untrusted;
  return result;
}

bool make_private_folder(const FileDescriptor& parent, const std::string& name) {
  return make_ours(parent.get(), name.c_str());
}

bool make_private_folders(const fs::path& path) {
  fs::path part;
  for (const fs::path& component : path) {
    part /= component;
    struct stat info {};
    if (stat(part.c_str(), &info) != 0) {
      if (!make_ours(AT_FDCWD, part.c_str())) return false;
    } else if (!S_ISDIR(info.st_mode)) {
      errno = ENOTDIR;
      return false;
    }
  }
  return true;
}

std::string make_unique_folder(const FileDescriptor& parent) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    std::string name = hexadecimal_name();
    if (mkdirat(parent.get(), name.c_str(), 0700) == 0) {
      const FileDescriptor made = open_folder(parent, name);
      if (made) fchmod(made.get(), 0700);
      return name;
    }
    if (errno != EEXIST) break;
  }
  return "";
}

bool is_hexadecimal(std::string_view name, std::size_t digits) noexcept {
  return name.size() == digits &&
         std::all_of(name.begin(), name.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

std::vector<std::string> names_in(const FileDescriptor& folder) {
  std::vector<std::string> names;
  if (!folder) return names;
  const int again = openat(folder.get(), ".", folder_flags);  // fdopendir keeps and moves the descriptor it is given
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(again < 0 ? nullptr : fdopendir(again), closedir);
  if (!stream) {
    if (again >= 0) close(again);
    return names;
  }
  while (const dirent* entry = readdir(stream.get())) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  return names;
}

std::optional<std::string> read_trusted_file(const FileDescriptor& folder, const std::string& name) {
  constexpr off_t max_bytes = off_t{1} << 30;
  const FileDescriptor file(openat(folder.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat info {};
  if (!file || fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode) || info.st_size > max_bytes ||
      !distrust(info).empty())
    return std::nullopt;
  std::string bytes(static_cast<std::size_t>(info.st_size), '\0');
  if (!read_all(file.get(), bytes)) return std::nullopt;
  return bytes;
}

bool write_new_file(const FileDescriptor& folder, const std::string& name, std::string_view bytes) {
  const FileDescriptor file(
      openat(folder.get(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  return file && fchmod(file.get(), 0600) == 0 && write_all(file.get(), bytes) && fsync(file.get()) == 0;
}

void remove_known(const FileDescriptor& parent, const std::string& name, std::initializer_list<const char*> contents) {
  if (unlinkat(parent.get(), name.c_str(), 0) == 0) return;  // a file, or a link itself
  const FileDescriptor folder = open_folder(parent, name);
  if (!folder) return;
  for (const char* file : contents)
    if (unlinkat(folder.get(), file, 0) != 0) unlinkat(folder.get(), file, AT_REMOVEDIR);
  unlinkat(parent.get(), name.c_str(), AT_REMOVEDIR);
}

}  // namespace arbiter
