// A thread that notices when nothing gets done any more.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace arbiter::tuning {

class Watchdog {
 public:
  using Clock = std::chrono::steady_clock;

  /// Does nothing if `limit` is 0 or there is nobody to tell. `now` empty: the usual clock.
  Watchdog(std::chrono::milliseconds limit, std::function<void(const std::string&)> tell,
           std::function<Clock::time_point()> now);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// Something was finished, and `next` is being done. `tell` is called, once, with the last of these.
  void progress(std::string next);

 private:
  void watch();
  Clock::time_point now() const { return now_ ? now_() : Clock::now(); }

  std::chrono::milliseconds limit_;
  std::function<void(const std::string&)> tell_;
  std::function<Clock::time_point()> now_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string doing_ = "getting ready";
  Clock::time_point since_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace arbiter::tuning
