// Seeds that are the same wherever they are computed.
#pragma once

#include <cstdint>

#include "arbiter/db/records.hpp"

namespace arbiter::tuning {

/// FNV-1a over the problem's name: std::hash may differ between builds, and every rank must draw the same.
inline std::uint64_t seed_of(const Problem& problem, std::uint64_t seed) {
  std::uint64_t hash = 0xcbf29ce484222325ULL ^ seed;
  for (const char c : problem.name()) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return hash;
}

}  // namespace arbiter::tuning
