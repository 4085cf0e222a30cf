// Memory as the threads of several ranks see it: weaker than what a CPU gives, and as weak as the memory model of a
// GPU allows. The link model of the CPU device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "arbiter/runtime/cpu_link.hpp"
#include "cpu/link_clocks.hpp"
#include "cpu/link_lines.hpp"
#include "cpu/memory.hpp"
#include "cpu/memory_model.hpp"
#include "cpu/random.hpp"

namespace arbiter {

/// One thing that happened, for explaining a failure. Only collected when asked.
struct LinkEvent {
  enum class Kind : std::uint8_t {
    overtaken,     ///< `by` stored, and will never be seen: an unordered store of `other` that arrives later hides it
    overwritten,   ///< a store of `other`'s rank was hidden by `by` before anybody had read it
    stale,         ///< `by` loaded, without polling, while an unordered store of `other` was on its way: too late
    other_launch,  ///< the last load of `by` took what `other`'s rank stored in another launch: too late or too early
    waits          ///< `by` polls for ever, and `other` was the last to store there
  };
  Kind kind{};
  ThreadPlace by;
  ThreadPlace other;
  const void* address = nullptr;  ///< in the owner's first mapping
};

// A store is a message: a value for up to four words of one 16-byte line. It has a place among the messages of its
// line (coherence order), a moment from which everybody sees it (when it lands), and threads that must see it before:
// its own, and those that know of it. Knowledge travels
// - by barriers: what one thread of the block (cluster) did or knows, all know;
// - by messages: a release store, and any store behind a fence of the same thread, carries what its thread did and knew
//   at the release (fence). Who loads it with acquire, or loads it and passes a fence afterwards, knows it too;
// - by the end of a launch, which is a barrier and a fence of all its threads, for those launches behind it that wait.
// Nothing else is ordered. Two stores to one line that do not know of each other take the order in which they land. A
// store of four words may land in pieces.
class LinkMemory final : public MemoryModel {
 public:
  /// `ranges` sorted by address: only memory in them is modelled. `ranks`: of every sequence.
  LinkMemory(std::vector<int> ranks, std::vector<OwnedRange> ranges);
  /// Before every run. `explain`: collect events.
  void restart(std::uint64_t seed, bool explain = false);

  void prepare(unsigned threads) override;
  void thread_begins(unsigned thread, const ThreadPlace&) override;
  void load(unsigned thread, const void* source, unsigned* words, unsigned count, LoadOrder) override;
  void store(unsigned thread, void* destination, const unsigned* words, unsigned count, bool release) override;
  void fence(unsigned thread) override;
  void barrier(unsigned first, unsigned last) override;
  void grid_waited(unsigned thread) override;
  void grid_ends(unsigned sequence, unsigned first, unsigned last) override;
  bool watch(unsigned thread) override;
  void step() override;
  bool idle() override;
  void settle() override;

  const CpuLinkStatistics& statistics() const noexcept { return statistics_; }
  /// What is worth telling about the run, in order of time; empty unless asked for.
  const std::vector<LinkEvent>& events() const noexcept { return events_; }

 private:
  using Step = std::uint64_t;
  using Time = LinkClocks::Time;

  struct Watched {
    std::uint32_t line = 0;
    std::uint32_t version = 0;
  };
  struct Thread {
    ThreadPlace place;
    LinkClocks::Id known = 0;                 // by this thread
    LinkClocks::Id initial = 0;               // known when it began
    LinkClocks::Id carried = 0;               // by its stores: what it knew at its last fence, or when it began
    Time carried_own = 0;                     // and its own stores up to here
    Time begun = 0;                           // its own stores are younger
    bool active = false;                      // its launch runs
    std::vector<LinkClocks::Carried> loaded;  // carried by messages that it loaded without acquire
    std::vector<Watched> watched;             // what it loaded since it polled last
    std::vector<Watched> polled;              // what it loaded before; only for explanations
  };
  struct Landing {
    Step step = 0;
    Time time = 0;
    std::uint32_t line = 0;
    bool operator<(const Landing& other) const noexcept {  // for a heap with the earliest on top
      return step != other.step ? step > other.step : time > other.time;
    }
  };

  bool knows(unsigned thread, const LinkMessage&) const noexcept;
  Step landing_step(unsigned sequence) noexcept;
  void insert(unsigned thread, std::uint32_t line, LinkMessage&);
  void land_first();
  void changed(std::uint32_t line);
  void learn(Thread&, const LinkClocks::Carried&);
  void fold(LinkClocks::Id into, unsigned thread) noexcept;
  void note(const LinkEvent&);
  void explain_load(unsigned thread, std::uint32_t line, const LinkMessage&, bool taken, LoadOrder);
  void explain_last_loads(unsigned thread);
  void explain_standstill();

  OrderRandom random_;
  std::vector<int> ranks_;
  LinkLines lines_;
  LinkClocks clocks_;
  std::vector<Thread> threads_;
  std::vector<LinkClocks::Id> ended_;   // by sequence: what the launches that have ended did and knew
  std::vector<LinkClocks::Id> ending_;  // by sequence: the same of blocks that ended while their launch runs
  std::vector<Landing> landings_;       // a heap
  Step now_ = 0;
  Time time_ = 0;  // stores are numbered; 0 is before all of them
  Time newest_landed_ = 0;
  std::uint32_t delay_ = 0;  // of a store, in steps: up to this
  std::uint32_t lazy_ = 1;   // one store in so many lands only when nothing else can happen
  bool tears_ = false;       // half of the vectors land in pieces
  int slow_sequence_ = -1;   // all its stores are lazy
  bool explain_ = false;
  std::vector<LinkEvent> events_;
  std::vector<std::vector<std::pair<std::uint32_t, LinkEvent>>> last_loads_;  // by thread: line, other_launch
  CpuLinkStatistics statistics_;
};

}  // namespace arbiter
