// Random numbers that are the same on every rank, compiler and machine.
#pragma once

#include <cstdint>

namespace arbiter {

/// SplitMix64 (Steele, Lea, Flood 2014): one word of state, every seed is good. Also a mixer of a seed and a
/// counter.
class SplitMix {
 public:
  explicit SplitMix(std::uint64_t seed = 0) noexcept : state_(seed) {}
  std::uint64_t next() noexcept {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }

 private:
  std::uint64_t state_;
};

}  // namespace arbiter
