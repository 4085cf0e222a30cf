#include "cache/file_lock.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>

namespace arbiter {

FileLock::FileLock(std::filesystem::path file, std::chrono::milliseconds limit) : file_(std::move(file)) {
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
  descriptor_ = open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) return State::impossible;
  State state = State::timed_out;
  if (flock(descriptor_, LOCK_EX | LOCK_NB) == 0) {
    // The last holder may have removed the file between open and flock: then this lock is on nothing.
    struct stat held {
    }, named{};
    const bool same = fstat(descriptor_, &held) == 0 && stat(file_.c_str(), &named) == 0 &&
                      held.st_ino == named.st_ino && held.st_dev == named.st_dev;
    if (same) return State::held;
  } else if (errno != EWOULDBLOCK && errno != EINTR) {
    state = State::impossible;
  }
  close(descriptor_);
  descriptor_ = -1;
  return state;
}

FileLock::~FileLock() {
  if (descriptor_ < 0) return;
  unlink(file_.c_str());  // while still held, so that nobody else's lock is removed
  close(descriptor_);
}

}  // namespace arbiter
