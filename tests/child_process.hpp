// A step that ends, or changes, the process that takes it: in a child.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <functional>

namespace arbiter::test {

/// Runs `action` in a child. Returns what it returned or left with, 101 if it threw, -1 if it was killed.
inline int exit_status_of(const std::function<int()>& action) {
  const pid_t child = ::fork();
  if (child == 0) {
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
