// What the database layer asks of the filesystem: kinds, locks, and files that appear complete or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace arbiter::db {

/// `kind` is statfs::f_type. Shared memory between processes, which WAL needs, does not work across hosts.
bool is_network_filesystem(std::uint64_t kind) noexcept;
/// statfs::f_type of a directory; 0 if unknown.
using FilesystemKind = std::function<std::uint64_t(const std::filesystem::path& directory)>;
std::uint64_t filesystem_kind(const std::filesystem::path& directory) noexcept;
/// Of the directory that holds, or will hold, `file`. Unknown counts as local.
bool on_network_filesystem(const std::filesystem::path& file, const FilesystemKind& = filesystem_kind);

/// The same file by any of its names: absolute, links resolved. The file itself need not exist; its directory must
/// (DatabaseError).
std::filesystem::path resolve(const std::filesystem::path&);

std::filesystem::path beside(const std::filesystem::path&, std::string_view suffix);
/// 0 if it does not exist.
std::uint64_t bytes_of(const std::filesystem::path&) noexcept;

/// Who may write: an flock on "<database>.lock", which holds the writer's process id and host while it is held.
/// The operating system releases it when the process ends, however it ends.
class WriterLock {
 public:
  /// Throws DatabaseError saying who holds it.
  explicit WriterLock(const std::filesystem::path& database);
  WriterLock(const WriterLock&) = delete;
  WriterLock& operator=(const WriterLock&) = delete;
  ~WriterLock();

 private:
  std::filesystem::path path_;
  int process_;
  int descriptor_ = -1;
};

/// A file that becomes `target` when published and vanishes otherwise. Created empty, in the target's directory.
class PendingFile {
 public:
  explicit PendingFile(std::filesystem::path target);
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;
  ~PendingFile();
  const std::filesystem::path& path() const noexcept { return path_; }
  /// fsync, rename, fsync of the directory.
  void publish();

 private:
  std::filesystem::path target_;
  std::filesystem::path path_;
  bool published_ = false;
};

/// A private directory, removed with everything in it.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  TemporaryDirectory(TemporaryDirectory&& other) noexcept : path_(std::move(other.path_)) { other.path_.clear(); }
  TemporaryDirectory& operator=(TemporaryDirectory&&) = delete;
  ~TemporaryDirectory();
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace arbiter::db
