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
  /// Does nothing if `limit` is 0 or there is nobody to tell.
  Watchdog(std::chrono::milliseconds limit, std::function<void(const std::string&)> tell);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// Something was finished, and `next` is being done. `tell` is called, once, with the last of these.
  void progress(std::string next);

 private:
  void watch();

  std::chrono::milliseconds limit_;
  std::function<void(const std::string&)> tell_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string doing_ = "getting ready";
  std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace arbiter::tuning
