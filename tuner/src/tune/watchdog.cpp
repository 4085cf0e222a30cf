#include "tune/watchdog.hpp"

#include <algorithm>
#include <utility>

namespace arbiter::tuning {

namespace {

// A clock that somebody gave wakes nobody: it is looked at again and again.
constexpr std::chrono::nanoseconds pause = std::chrono::milliseconds(1);

}  // namespace

Watchdog::Watchdog(std::chrono::milliseconds limit, std::function<void(const std::string&)> tell,
                   std::function<Clock::time_point()> now)
    : limit_(limit), tell_(std::move(tell)), now_(std::move(now)) {
  if (limit_.count() <= 0 || !tell_) return;
  since_ = this->now();
  thread_ = std::thread([this] { watch(); });
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
  if (thread_.joinable()) since_ = now();
}

void Watchdog::watch() {
  std::unique_lock lock(mutex_);
  while (!ended_) {
    const std::chrono::nanoseconds left = since_ + limit_ - now();
    if (left.count() > 0) {
      changed_.wait_for(lock, now_ ? std::min(left, pause) : left);
      continue;
    }
    const std::string doing = doing_;
    lock.unlock();
    tell_(doing);  // without the lock: it may never return
    return;
  }
}

}  // namespace arbiter::tuning
