// Addresses into places of a small table.
#pragma once

#include <cstdint>

namespace arbiter {

/// Tensors of an engine lie at multiples of large powers of two, any power: the highest bits of the result depend on
/// all bits of the address. Two multiplications by odd numbers, and between them what the first one put on top goes
/// below again: one alone still gathers some distances in a few places.
constexpr std::uint64_t spread_bits(std::uint64_t address) noexcept {
  constexpr std::uint64_t golden = 0x9E3779B97F4A7C15;
  const std::uint64_t mixed = address * golden;
  return (mixed ^ mixed >> 32) * golden;
}

}  // namespace arbiter
