// Stores on their way to a peer: queued, and delivered later in any order that the GPU memory model allows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "arbiter/runtime/cpu_link.hpp"
#include "cpu_memory.hpp"
#include "cpu_random.hpp"
#include "cpu_scheduler.hpp"

namespace arbiter {

// What is ordered: stores of one thread to one place; everything a thread stored, or observed at a barrier of its
// block or cluster, before a release store or behind a fence of that thread; everything before the end of a kernel.
// What is not: all the rest. A fence orders only what the fencing thread itself stores later.
// Stores to the own rank's memory are delayed too, but the other threads of the rank see them behind a barrier, and a
// thread that reads back what it stored itself must have passed a fence or a barrier in between.
class LinkStores final : public SymmetricStores {
 public:
  /// Stores of rank r to memory of device "cpu:<r>" are local. Stores to memory of no device are not delayed.
  LinkStores(std::uint64_t seed, std::vector<int> ranks, std::vector<OwnedRange> ranges);

  void store(Writer, void* destination, const unsigned* words, unsigned count, bool release) override;
  void fence(Writer) override;
  void barrier(unsigned first, unsigned last) override;
  void kernel_ended(unsigned sequence) override;
  bool step(bool idle) override;
  void flush() override;

  const CpuLinkStatistics& statistics() const noexcept { return statistics_; }

 private:
  using Time = std::uint64_t;  // stores are numbered; 0 is before all of them

  /// Whose stores a thread has observed, up to when: those of fibers [first, last) with numbers <= until.
  struct Observation {
    unsigned first = 0;
    unsigned last = 0;
    Time until = 0;
  };
  using Observations = std::vector<Observation>;

  struct Thread {
    Observations observed;      // by barriers; its own stores are always included
    Observations fenced;        // what `observed` was at its last fence
    Time fence_time = 0;        // its own stores up to here are fenced
    std::vector<Time> pending;  // its stores on the way, one entry per piece
    std::size_t local = 0;      // of these, to memory of its own rank
  };
  /// One rank's kernels.
  struct Sequence {
    Time kernel_end = 0;          // of the last kernel that ended
    std::size_t pending = 0;      // pieces on the way
    std::size_t old_pending = 0;  // of these, from kernels that have ended
  };
  struct Piece {
    unsigned* destination = nullptr;
    unsigned words[4] = {};
    unsigned count = 0;
    Writer writer;
    Time time = 0;
    Time own_until = 0;       // own stores that must have arrived
    Time sequence_until = 0;  // stores of the same sequence (earlier kernels) that must have arrived
    Observations before;      // stores of others that must have arrived
    bool local = false;       // to memory of the writer's rank
    bool lazy = false;        // arrives only when something needs it, or when nothing else is left
    bool chosen = false;      // for delivery
  };

  enum class Place : std::uint8_t { local, remote, elsewhere };
  Place place(const Writer&, const void* destination) const noexcept;
  Thread& thread(unsigned fiber);
  void deliver(std::size_t index);
  void deliver_chosen();
  void deliver_local(unsigned first_fiber, unsigned last_fiber);
  void choose_before(const Piece&);
  bool may_wait(const Piece&) const;
  void write(const Piece&);
  void arrive(const Piece&);
  static bool must_precede(const Piece& earlier, const Piece& later) noexcept;

  OrderRandom random_;
  std::vector<int> ranks_;
  std::vector<OwnedRange> ranges_;
  std::vector<Piece> pending_;
  std::vector<std::size_t> chosen_;                      // of pending_, for delivery together
  std::unordered_map<const unsigned*, unsigned> words_;  // pending stores of each word
  Time oldest_ = 1;                                      // no pending store is older
  std::vector<Thread> threads_;
  std::vector<Sequence> sequences_;
  Time now_ = 0;
  Time newest_delivered_ = 0;
  std::uint32_t delivery_interval_;  // steps between deliveries, on average
  std::uint32_t lazy_interval_;      // one piece in so many is lazy
  std::size_t lazy_pending_ = 0;
  int slow_sequence_;  // its stores arrive only when nothing else can happen; -1: none
  CpuLinkStatistics statistics_;
};

}  // namespace arbiter
