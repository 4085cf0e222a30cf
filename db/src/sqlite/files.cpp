#include "sqlite/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <random>
#include <system_error>

#include "arbiter/error.hpp"
#include "arbiter/generator/file_size_signal.hpp"

namespace fs = std::filesystem;

namespace arbiter::db {
namespace {

std::string system_message(int error) { return std::generic_category().message(error); }

[[noreturn]] void fail(const fs::path& path, const std::string& doing, int error, const std::string& advice = "") {
  throw DatabaseError(
      "'" + path.string() + "': cannot " + doing + ": " + system_message(error) + "." +
      (advice.empty() ? " Check that the directory exists, that you may write there, and that the disk is not full."
                      : advice));
}

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "an unknown host";
  return name.data();
}

std::string read_holder(int descriptor) {
  std::array<char, 512> text{};
  const ssize_t count = ::pread(descriptor, text.data(), text.size() - 1, 0);
  std::string holder(text.data(), count > 0 ? static_cast<std::size_t>(count) : 0);
  holder.erase(std::find(holder.begin(), holder.end(), '\n'), holder.end());
  // The lock is taken before its holder is written down.
  return holder.empty() ? "another process (its number is not known yet)" : holder;
}

/// Empty or with the line of a holder: anything else with that name is somebody's file.
bool is_lock_file(int descriptor) {
  struct stat info {};
  std::array<char, 8> text{};
  static constexpr std::string_view mark = "process ";
  return ::fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode) && info.st_nlink <= 1 &&
         (info.st_size == 0 || (info.st_size <= 512 &&
                                ::pread(descriptor, text.data(), text.size(), 0) == static_cast<ssize_t>(mark.size()) &&
                                std::string_view(text.data(), mark.size()) == mark));
}

bool same_file(int descriptor, const fs::path& path) {
  struct stat opened {};
  struct stat named {};
  return ::fstat(descriptor, &opened) == 0 && ::lstat(path.c_str(), &named) == 0 && opened.st_dev == named.st_dev &&
         opened.st_ino == named.st_ino;
}

void sync_directory(const fs::path& directory) {
  const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail(directory, "open the directory to make the file's name durable", errno);
  const int result = ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  // Some network filesystems have no such operation; there the rename is as durable as it gets.
  if (result != 0 && error != EINVAL && error != ENOTSUP) fail(directory, "make the file's name durable", error);
}

}  // namespace

bool is_network_filesystem(std::uint64_t kind) noexcept {
  // statfs(2) and the kernel's magic.h; FUSE is counted in, because sshfs and most cluster filesystems come through it.
  static constexpr std::array<std::uint64_t, 17> kinds = {
      0x6969,      // NFS
      0x517B,      // SMB
      0xFF534D42,  // CIFS
      0xFE534D42,  // SMB2
      0x01021997,  // 9P
      0x5346414F,  // AFS
      0x6B414653,  // kernel AFS
      0x73757245,  // Coda
      0x00C36400,  // Ceph
      0x0BD00BD0,  // Lustre
      0x47504653,  // GPFS
      0x19830326,  // BeeGFS
      0x01161970,  // GFS2
      0x7461636F,  // OCFS2
      0xAAD7AAEA,  // PanFS
      0x20030528,  // OrangeFS
      0x65735546,  // FUSE
  };
  return std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
}

std::uint64_t filesystem_kind(const fs::path& directory) noexcept {
  struct statfs information {};
  if (::statfs(directory.c_str(), &information) != 0) return 0;
  // f_type is signed on some architectures: the magic numbers have 32 bits.
  return static_cast<std::uint32_t>(information.f_type);
}

bool on_network_filesystem(const fs::path& file, const FilesystemKind& kind) {
  return is_network_filesystem(kind(file.parent_path().empty() ? fs::path(".") : file.parent_path()));
}

fs::path resolve(const fs::path& path) {
  if (path.native().find('\0') != std::string::npos || path.filename().empty()) {
    throw DatabaseError("'" + path.string() + "' is not the name of a file. Give a path that ends in a file name.");
  }
  std::error_code error;
  fs::path whole = fs::canonical(path, error);
  if (!error) return whole;
  const fs::path parent = path.parent_path().empty() ? fs::path(".") : path.parent_path();
  fs::path directory = fs::canonical(parent, error);
  if (error) {
    throw DatabaseError("'" + path.string() + "': its directory '" + parent.string() +
                        "' cannot be used: " + error.message() + ". Create the directory or choose another place.");
  }
  return directory / path.filename();
}

fs::path beside(const fs::path& path, std::string_view suffix) {
  fs::path other = path;
  other += suffix;
  return other;
}

std::uint64_t bytes_of(const fs::path& path) noexcept {
  std::error_code error;
  const auto bytes = fs::file_size(path, error);
  return error ? 0 : bytes;
}

void require_own_companions(const fs::path& database, const std::string& name) {
  struct stat main {};
  if (::stat(database.c_str(), &main) != 0) return;
  for (const char* suffix : {"-wal", "-journal"}) {
    const fs::path path = beside(database, suffix);
    struct stat info {};
    if (::lstat(path.c_str(), &info) != 0) continue;
    if (S_ISREG(info.st_mode) && (info.st_uid == main.st_uid || info.st_uid == 0)) continue;
    throw DatabaseError(name + ": '" + path.string() + "' beside it " +
                        (S_ISREG(info.st_mode) ? fmt::format("belongs to user {}, expected the database's owner {}",
                                                             info.st_uid, main.st_uid)
                                               : "is no regular file") +
                        ", and would be replayed into it. Remove that file if you know where it is from.");
  }
}

void require_one_name(const fs::path& database, const std::string& name) {
  struct statx info {};
  if (::statx(AT_FDCWD, database.c_str(), AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &info) != 0) return;
  const auto refuse = [&](const std::string& why) {
    throw DatabaseError(name + ": " + why +
                        ", and writers under two names do not see each other's locks and would destroy it. Make a "
                        "copy of it and work on that, or put it in a directory of its own.");
  };
  if (info.stx_nlink > 1) refuse(fmt::format("it has {} names (hard links)", info.stx_nlink));
  if ((info.stx_attributes & info.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) != 0) {
    refuse("it is a mount point of its own, so that it has another name elsewhere");
  }
}

std::string lock_advice(int error) {
  if (error != ENOSYS && error != ENOTSUP) return "";
  return " The filesystem has no file locks (some Lustre mounts, without the option flock): tune into a database on a "
         "disk of this node, and bring it there with `arbiter merge`.";
}

WriterLock::WriterLock(const fs::path& database)
    : database_(database), path_(beside(database, ".lock")), process_(::getpid()) {
  for (;;) {
    descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
    if (descriptor_ < 0) fail(path_, "create the lock file of the database", errno);
    if (!is_lock_file(descriptor_)) {
      ::close(descriptor_);
      throw DatabaseError("'" + path_.string() +
                          "' is not a lock file of Arbiter's, but has the name of one. Move it " +
                          "away, or choose another name for the database; nothing was changed.");
    }
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      const std::string holder = read_holder(descriptor_);
      ::close(descriptor_);
      if (error == EINTR) continue;
      if (error != EWOULDBLOCK) fail(path_, "lock the database", error, lock_advice(error));
      throw DatabaseError("'" + database.string() + "' is being written by " + holder +
                          ". One writer at a time: wait for it, end it, or tune into another file and merge later.");
    }
    // A holder removes the file when it is done: only a lock on the file that has the name counts.
    if (same_file(descriptor_, path_)) break;
    ::close(descriptor_);
  }
  const std::string text = fmt::format("process {} on {}\n", process_, host_name());
  // Only for the message that a second writer gets: not worth failing for.
  const FileSizeSignalBlocked blocked;
  if (::pwrite(descriptor_, text.data(), text.size(), 0) < 0) return;
}

void WriterLock::lock_the_file() {
  if (on_network_filesystem(database_)) return;
  // Held as long as SQLite has the file open: closing it earlier would drop SQLite's own locks.
  file_ = ::open(database_.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (file_ < 0) fail(database_, "open the database to lock it", errno);
  while (::flock(file_, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) fail(database_, "lock the database", errno, lock_advice(errno));
    throw DatabaseError("'" + database_.string() +
                        "' is being written by another process, which opened it under another name. One writer at a "
                        "time: wait for it, end it, or tune into another file and merge later.");
  }
}

WriterLock::~WriterLock() {
  // A forked child shares the lock but must not give away its name.
  if (::getpid() == process_ && same_file(descriptor_, path_)) ::unlink(path_.c_str());
  ::close(descriptor_);
  if (file_ >= 0) ::close(file_);
}

PendingFile::PendingFile(fs::path target) : target_(std::move(target)) {
  std::random_device random;
  for (int attempt = 0; path_.empty(); ++attempt) {
    const fs::path candidate = beside(target_, fmt::format(".{}.part", random()));
    // Not mkstemp: it makes private files, and this one is for everybody whom the umask allows.
    const int descriptor = ::open(candidate.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor >= 0) {
      ::close(descriptor);
      path_ = candidate;
    } else if (errno != EEXIST || attempt == 100) {
      fail(target_, "create a temporary file beside it", errno);
    }
  }
}

PendingFile::~PendingFile() {
  if (published_) return;
  // What SQLite keeps beside a file while it writes to it stays there when it could not finish.
  for (const char* suffix : {"", "-journal"}) ::unlink(beside(path_, suffix).c_str());
}

void PendingFile::publish() {
  const int descriptor = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail(path_, "open the file to make it durable", errno);
  const int result = ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  if (result != 0) fail(path_, "make the file durable", error);
  if (::rename(path_.c_str(), target_.c_str()) != 0) fail(target_, "move the finished file into place", errno);
  published_ = true;
  sync_directory(target_.parent_path());
}

}  // namespace arbiter::db
