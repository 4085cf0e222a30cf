// How often what was called. Counting is one addition in the thread that calls; reading is safe from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "arbiter/communicator.hpp"

namespace arbiter {

class CallCounter {
 public:
  explicit CallCounter(CallCount what) : what_(std::move(what)) {}
  /// From the communicator's own thread only.
  void count() noexcept { calls_.store(calls_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed); }

 private:
  friend class CallCounters;
  CallCount what_;
  std::atomic<std::uint64_t> calls_{0};
};

/// One counter for each family, candidate and rule. Counters never move, and go on when a family is prepared again.
class CallCounters {
 public:
  CallCounter& of(const ProblemFamily&, const std::string& candidate, Rule);
  /// In the order in which they were made.
  std::vector<CallCount> list() const;

 private:
  mutable std::mutex mutex_;
  std::deque<CallCounter> counters_;
};

}  // namespace arbiter
