#include "tune/watchdog.hpp"

#include <utility>

namespace arbiter::tuning {

Watchdog::Watchdog(std::chrono::milliseconds limit, std::function<void(const std::string&)> tell)
    : limit_(limit), tell_(std::move(tell)) {
  if (limit_.count() > 0 && tell_) thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Watchdog::progress(std::string next) {
  const std::lock_guard lock(mutex_);
  doing_ = std::move(next);
  since_ = std::chrono::steady_clock::now();
}

void Watchdog::watch() {
  std::unique_lock lock(mutex_);
  while (!ended_) {
    const auto until = since_ + limit_;
    if (std::chrono::steady_clock::now() < until) {
      changed_.wait_until(lock, until);
      continue;
    }
    const std::string doing = doing_;
    lock.unlock();
    tell_(doing);  // without the lock: it may never return
    return;
  }
}

}  // namespace arbiter::tuning
