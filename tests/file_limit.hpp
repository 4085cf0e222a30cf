// A child process in which files may not grow beyond a limit, as ulimit -f and batch systems set it.
#pragma once

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>

namespace arbiter::test {

/// Run `action` in a child in which no file may grow beyond `bytes`. Returns what it returned, or -1 if it was killed.
inline int with_file_limit(std::uint64_t bytes, const std::function<int()>& action) {
  const pid_t child = ::fork();
  if (child == 0) {
    // The signal of such a write keeps its default, which is to end the process: a host program does not change that.
    ::signal(SIGXFSZ, SIG_DFL);
    const rlimit limit{.rlim_cur = bytes, .rlim_max = bytes};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(100);
    int result = 101;
    try {
      result = action();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "child: %s\n", error.what());
    }
    ::_exit(result);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace arbiter::test
