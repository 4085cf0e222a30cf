// Vector clocks of the link model: whose stores are known, up to when.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace arbiter {

/// Clocks are made, never changed, and forgotten all together. Clock 0 knows nothing.
class LinkClocks {
 public:
  using Id = std::uint32_t;
  using Time = std::uint32_t;

  /// What a message carries: a clock, and stores of the thread `writer` up to `time`.
  struct Carried {
    Id clock = 0;
    std::uint32_t writer = 0;
    Time time = 0;
  };

  void reset(unsigned threads) {
    width_ = threads;
    times_.assign(threads, 0);
    joined_.assign(1, 0);
    operation_ = 0;
  }
  Time at(Id clock, unsigned thread) const noexcept { return times_[std::size_t{clock} * width_ + thread]; }

  /// A new clock, to be filled with join() and raise() until the next one begins.
  Id begin(Id from) {
    const auto id = static_cast<Id>(joined_.size());
    times_.resize(times_.size() + width_);
    std::copy_n(times_.begin() + static_cast<std::ptrdiff_t>(std::size_t{from} * width_), width_,
                times_.end() - static_cast<std::ptrdiff_t>(width_));
    joined_.push_back(0);
    joined_[from] = ++operation_;
    return id;
  }
  void join(Id into, Id other) noexcept {
    if (joined_[other] == operation_) return;
    joined_[other] = operation_;
    Time* const to = times_.data() + std::size_t{into} * width_;
    const Time* const from = times_.data() + std::size_t{other} * width_;
    for (std::size_t i = 0; i < width_; ++i) to[i] = std::max(to[i], from[i]);
  }
  bool covers(Id clock, const Carried& carried) const noexcept {
    if (at(clock, carried.writer) < carried.time) return false;
    if (clock == carried.clock) return true;
    const Time* const mine = times_.data() + std::size_t{clock} * width_;
    const Time* const other = times_.data() + std::size_t{carried.clock} * width_;
    bool all = true;
    for (std::size_t i = 0; i < width_; ++i) all &= mine[i] >= other[i];
    return all;
  }
  void raise(Id clock, unsigned thread, Time time) noexcept {
    Time& known = times_[std::size_t{clock} * width_ + thread];
    known = std::max(known, time);
  }
  void join(Id into, const Carried& carried) noexcept {
    join(into, carried.clock);
    raise(into, carried.writer, carried.time);
  }

 private:
  std::size_t width_ = 0;
  std::vector<Time> times_;            // of all clocks
  std::vector<std::uint64_t> joined_;  // by clock: the last operation that has joined it
  std::uint64_t operation_ = 0;
};

}  // namespace arbiter
