// Calls that were made before, each with the launch that it came to. An engine's layers use the same few buffers step
// after step: nothing has to be found out about such a call again. Between two launches the driver empties the caches,
// so what counts is how much code and data a call touches, not how often it repeats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "arbiter/communicator.hpp"
#include "arbiter/runtime/candidate.hpp"
#include "candidate/abi.hpp"
#include "communicator/counters.hpp"

namespace arbiter {

class FamilyTable;

/// Of one communicator. From its own thread only.
class RecentCalls {
 public:
  struct Made {
    const FamilyTable* table = nullptr;  // null: nothing
    std::int64_t count = 0;
    CallTensors tensors;
    const RunnableCandidate* candidate = nullptr;
    CallCounter* served = nullptr;
    const Kernel* kernel = nullptr;
    Launch shape;
    arbiter_abi::Arguments arguments{};
  };

  /// The very same call; null if it was not made lately. `count`: rows of a row pattern, elements of a flat one. No
  /// allocation, no lock.
  const Made* find(const FamilyTable& table, const CallTensors& tensors, std::int64_t count) const noexcept {
    const Made* const made = &places_[place(tensors)];
    for (std::size_t way = 0; way < ways; ++way) {
      if (made[way].count == count && made[way].table == &table && made[way].tensors == tensors) return &made[way];
    }
    return nullptr;
  }

  /// A call of a candidate that has just been enqueued with these tensors. Does nothing unless it was one launch.
  void remember(const FamilyTable&, const CallTensors&, std::int64_t count, const RunnableCandidate&, CallCounter&);

  /// Before anything changes that a launch depends on: memory that kernels use or share, the tables of prepare().
  void forget() noexcept {
    for (Made& made : places_) made.table = nullptr;
  }

 private:
  /// Enough for the norms of all layers, which have weights of their own, in sets of two places.
  static constexpr unsigned set_bits = 8;
  static constexpr std::size_t ways = 2;
  /// The first of a set.
  static std::size_t place(const CallTensors&) noexcept;

  std::vector<Made> places_{ways << set_bits};
};

}  // namespace arbiter
