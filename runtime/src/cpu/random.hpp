// The random numbers behind the CPU device's scheduling order: fast and the same on every machine.
#pragma once

#include <cstdint>

#include "arbiter/generator/split_mix.hpp"

namespace arbiter {

/// A linear congruential generator (multiplier of Knuth's MMIX) for the one draw that every fiber switch needs.
class OrderRandom {
 public:
  explicit OrderRandom(std::uint64_t seed = 0) noexcept : state_(SplitMix(seed).next()) {}
  /// Uniform in [0, bound); bound > 0. From the high half, which is the good one.
  std::uint32_t below(std::uint32_t bound) noexcept {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<std::uint32_t>(((state_ >> 32) * bound) >> 32);
  }

 private:
  std::uint64_t state_;
};

}  // namespace arbiter
