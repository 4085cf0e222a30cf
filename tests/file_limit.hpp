// A child process in which files may not grow beyond a limit, as ulimit -f and batch systems set it.
#pragma once

#include <sys/resource.h>

#include <csignal>
#include <cstdint>
#include <functional>

#include "child_process.hpp"

namespace arbiter::test {

/// Run `action` in a child in which no file may grow beyond `bytes`. Returns what it returned, or -1 if it was killed.
inline int with_file_limit(std::uint64_t bytes, const std::function<int()>& action) {
  return exit_status_of([&] {
    // The signal of such a write keeps its default, which is to end the process: a host program does not change that.
    ::signal(SIGXFSZ, SIG_DFL);
    const rlimit limit{.rlim_cur = bytes, .rlim_max = bytes};
    return ::setrlimit(RLIMIT_FSIZE, &limit) != 0 ? 100 : action();
  });
}

}  // namespace arbiter::test
