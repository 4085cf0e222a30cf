#include "ranks/signals.hpp"

#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "text/print.hpp"

namespace arbiter::cli {

SignalWatch::SignalWatch() {
  sigemptyset(&watched_);
  for (const int signal : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&watched_, signal);
  pthread_sigmask(SIG_BLOCK, &watched_, &previous_);
}

SignalWatch::~SignalWatch() { pthread_sigmask(SIG_SETMASK, &previous_, nullptr); }

int SignalWatch::wait(int milliseconds) const {
  const timespec timeout{milliseconds / 1000, (milliseconds % 1000) * 1'000'000L};
  const int signal = sigtimedwait(&watched_, nullptr, &timeout);
  return signal > 0 ? signal : 0;
}

void end_interrupted(int signal, const std::string& message) {
  print_error("\ninterrupted%s%s\n", message.empty() ? "" : "; ", message.c_str());
  std::fflush(nullptr);
  std::_Exit(128 + signal);  // rank threads may be inside a kernel: nothing can be joined
}

}  // namespace arbiter::cli
