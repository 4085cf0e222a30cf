#include "cache/file_lock.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>

namespace arbiter {

FileLock::FileLock(const std::filesystem::path& file, std::chrono::milliseconds limit)
    : FileLock(FileDescriptor(
                   open(file.has_parent_path() ? file.parent_path().c_str() : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)),
               file.filename(), limit) {}

FileLock::FileLock(FileDescriptor folder, std::string name, std::chrono::milliseconds limit)
    : folder_(std::move(folder)), name_(std::move(name)) {
  if (!folder_) return;
  const auto deadline = std::chrono::steady_clock::now() + limit;
  std::chrono::microseconds pause(500);
  for (;;) {
    state_ = try_once();
    if (state_ != State::timed_out || std::chrono::steady_clock::now() >= deadline) return;
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::microseconds(20000));
  }
}

FileLock::State FileLock::try_once() {
  FileDescriptor file(
      openat(folder_.get(), name_.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600));
  if (!file) return State::impossible;
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0)
    return errno != EWOULDBLOCK && errno != EINTR ? State::impossible : State::timed_out;
  // The last holder may have removed the file between open and flock: then this lock is on nothing.
  struct stat held {
  }, named{};
  const bool same = fstat(file.get(), &held) == 0 &&
                    fstatat(folder_.get(), name_.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0 &&
                    held.st_ino == named.st_ino && held.st_dev == named.st_dev;
  if (!same) return State::timed_out;
  file_ = std::move(file);
  return State::held;
}

FileLock::~FileLock() {
  if (file_) unlinkat(folder_.get(), name_.c_str(), 0);  // while still held, so that nobody else's lock is removed
}

}  // namespace arbiter
