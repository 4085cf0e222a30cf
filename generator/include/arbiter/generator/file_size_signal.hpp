// A file that may not grow is an error of the write and not the end of the program that the library is part of.
#pragma once

#include <signal.h>

namespace arbiter {

/// While it lives, a write beyond RLIMIT_FSIZE by the calling thread fails with EFBIG and nothing else: SIGXFSZ, whose
/// default is to end the process, is blocked, and one that came of it is taken back. The program's handler, the masks
/// of its other threads and a signal that was pending before are left alone. It may be nested; it keeps errno.
class FileSizeSignalBlocked {
 public:
  FileSizeSignalBlocked() noexcept;
  FileSizeSignalBlocked(const FileSizeSignalBlocked&) = delete;
  FileSizeSignalBlocked& operator=(const FileSizeSignalBlocked&) = delete;
  ~FileSizeSignalBlocked();

 private:
  sigset_t before_{};
  bool was_pending_ = false, blocked_ = false;
};

}  // namespace arbiter
