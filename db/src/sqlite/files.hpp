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

/// SQLite replays what lies beside a database (-wal, -journal) into it: throws DatabaseError if that belongs to
/// somebody who is neither the database's owner nor root, or is a link. `name` is what messages call the database.
void require_own_companions(const std::filesystem::path& database, const std::string& name);

/// One file under two names has two locks, two -wal files and soon no content: throws DatabaseError for a file with
/// several hard links and for one that is a mount point of its own.
void require_one_name(const std::filesystem::path& database, const std::string& name);

/// What to say where flock() fails with this error.
std::string lock_advice(int error);

/// Who may write: an flock on "<database>.lock", which holds the writer's process id and host while it is held.
/// The operating system releases it when the process ends, however it ends. A link or a file with other content in that
/// place is left alone and refused.
class WriterLock {
 public:
  /// Throws DatabaseError saying who holds it.
  explicit WriterLock(const std::filesystem::path& database);
  WriterLock(const WriterLock&) = delete;
  WriterLock& operator=(const WriterLock&) = delete;
  ~WriterLock();

  /// Lock the database itself too, once it exists: its name may change while it is open. Not on network filesystems,
  /// where such a lock and SQLite's own exclude each other. Throws as the constructor does.
  void lock_the_file();

 private:
  std::filesystem::path database_;
  std::filesystem::path path_;
  int file_ = -1;
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

}  // namespace arbiter::db
