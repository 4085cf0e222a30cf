// A small generator whose sequence is the same on every rank, compiler and platform (std distributions are not).
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "arbiter/generator/split_mix.hpp"

namespace arbiter::tuning {

/// Streams can be split by hashing the seed.
class Random {
 public:
  explicit Random(std::uint64_t seed) noexcept : bits_(seed) {}

  std::uint64_t next() noexcept { return bits_.next(); }

  /// Uniform in [0, bound); 0 for bound 0. The bias of the multiplication is below 2^-32 for the bounds used here.
  std::size_t below(std::size_t bound) noexcept {
    return static_cast<std::size_t>(((next() >> 32) * static_cast<std::uint64_t>(bound)) >> 32);
  }

  /// Uniform in [0, 1).
  double unit() noexcept { return static_cast<double>(next() >> 11) * 0x1p-53; }

  template <typename T>
  void shuffle(std::vector<T>& items) noexcept {
    for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

 private:
  SplitMix bits_;
};

}  // namespace arbiter::tuning
