// The random numbers behind the CPU device's scheduling order: small, fast and the same on every machine.
#pragma once

#include <cstdint>

namespace arbiter {

/// SplitMix64 (Steele, Lea, Flood 2014): also a good mixer of a seed and a counter.
class SmallRandom {
 public:
  explicit SmallRandom(std::uint64_t seed = 0) noexcept : state_(seed) {}
  std::uint64_t next() noexcept {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }

 private:
  std::uint64_t state_;
};

/// A linear congruential generator (multiplier of Knuth's MMIX) for the one draw that every fiber switch needs.
class OrderRandom {
 public:
  explicit OrderRandom(std::uint64_t seed = 0) noexcept : state_(SmallRandom(seed).next()) {}
  /// Uniform in [0, bound); bound > 0. From the high half, which is the good one.
  std::uint32_t below(std::uint32_t bound) noexcept {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<std::uint32_t>(((state_ >> 32) * bound) >> 32);
  }

 private:
  std::uint64_t state_;
};

}  // namespace arbiter
