// Signals as something to wait for, instead of something that interrupts.
#pragma once

#include <csignal>
#include <string>

namespace arbiter::cli {

/// Blocks SIGINT, SIGTERM and SIGCHLD for this thread and those it starts, and delivers them through wait().
class SignalWatch {
 public:
  SignalWatch();
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  /// The next signal, or 0 after `milliseconds`.
  int wait(int milliseconds) const;
  /// The mask that was in force before: what a child process must start with.
  const sigset_t& previous() const noexcept { return previous_; }

 private:
  sigset_t watched_{};
  sigset_t previous_{};
};

/// Says `message` and ends this process as an interrupted one (exit status 130 for SIGINT, 143 for SIGTERM).
[[noreturn]] void end_interrupted(int signal, const std::string& message);

}  // namespace arbiter::cli
