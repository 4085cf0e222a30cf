#include "arbiter/generator/file_size_signal.hpp"

#include <pthread.h>

#include <cerrno>
#include <ctime>

namespace arbiter {
namespace {

sigset_t file_size_signal() noexcept {
  sigset_t signal;
  sigemptyset(&signal);
  sigaddset(&signal, SIGXFSZ);
  return signal;
}

}  // namespace

FileSizeSignalBlocked::FileSizeSignalBlocked() noexcept {
  const sigset_t signal = file_size_signal();
  sigset_t pending;
  sigemptyset(&pending);
  sigpending(&pending);
  was_pending_ = sigismember(&pending, SIGXFSZ) == 1;
  blocked_ = pthread_sigmask(SIG_BLOCK, &signal, &before_) == 0;
}

FileSizeSignalBlocked::~FileSizeSignalBlocked() {
  if (!blocked_) return;
  const int error = errno;
  const sigset_t signal = file_size_signal();
  const timespec at_once{};
  if (!was_pending_) {
    while (sigtimedwait(&signal, nullptr, &at_once) < 0 && errno == EINTR) {
    }
  }
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  errno = error;
}

}  // namespace arbiter
