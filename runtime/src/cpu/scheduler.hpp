// Runs kernels of the CPU device: one fiber per CUDA thread, all on the calling OS thread, in an order that a seed
// chooses. It can run the launches of several ranks together.
#pragma once

#include <boost/context/detail/fcontext.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cpu/executor_abi.hpp"
#include "cpu/memory.hpp"
#include "cpu/random.hpp"
#include "cpu/stack_pool.hpp"

namespace arbiter {

/// One rank's launch. Pointers stay valid until run() returns.
struct FiberLaunch {
  int rank = 0;
  void (*entry)(const void* arguments) = nullptr;
  arbiter_thread** (*current_slot)() = nullptr;
  const void* arguments = nullptr;
  unsigned blocks = 1;
  unsigned threads = 1;
  unsigned cluster = 1;
  unsigned shared_bytes = 0;
  unsigned resident_blocks = 1;  ///< at most this many blocks run together; the others follow as clusters finish
  /// May begin when every block of the launch before it in the sequence has triggered or exited. Its own
  /// grid_dependency_wait returns when that launch has ended.
  bool programmatic = false;
};

/// One piece of a rank's work: a launch, or something that the host does between launches.
struct FiberTask {
  FiberLaunch launch;
  const std::function<void()>* host = nullptr;  ///< not null: call this instead; it must not throw
};

/// What one rank does, in this order.
using FiberSequence = std::span<const FiberTask>;

class MemoryModel;

class FiberScheduler {
 public:
  FiberScheduler() = default;
  FiberScheduler(const FiberScheduler&) = delete;
  FiberScheduler& operator=(const FiberScheduler&) = delete;

  /// Runs the sequences together, to completion. Throws DeviceError when threads wait for each other in a way that can
  /// never end (divergent barriers); all kernels are abandoned then. `model` null: memory is what it is.
  void run(std::span<const FiberSequence> sequences, std::uint64_t seed, MemoryModel* model = nullptr);

  /// Fiber switches since construction.
  std::uint64_t switches() const noexcept { return switches_; }

  /// From here on, kernels' deadlines go by this, in nanoseconds, and no longer by the machine's steady clock.
  void use_clock(std::function<std::uint64_t()> clock) { clock_ = std::move(clock); }

 private:
  using Context = boost::context::detail::fcontext_t;
  using Transfer = boost::context::detail::transfer_t;

  static constexpr unsigned warp_threads = 32;

  enum class State : std::uint8_t { runnable, polling, block_barrier, cluster_barrier, shuffle, grid_wait, exited };
  static constexpr std::size_t states = 7;

  struct Fiber;
  struct Barrier {
    Fiber* waiting = nullptr;
    unsigned arrived = 0;
  };
  struct Warp {
    Barrier exchange;
    unsigned live = 0;
    unsigned first_fiber = 0;
    unsigned lanes = 0;
  };
  struct Cluster;
  struct Block {
    Barrier barrier;
    bool triggered = false;
    unsigned live = 0;
    unsigned first_fiber = 0;
    unsigned first_warp = 0;
    Cluster* cluster = nullptr;
  };
  struct Cluster {
    Barrier barrier;
    unsigned live = 0;
    unsigned blocked = 0;
    unsigned first_block = 0;  // index of its first resident block
    unsigned blocks = 0;
    unsigned grid = 0;
    std::vector<void*> shared;  // of every block
  };
  struct Fiber {
    arbiter_thread thread;  // first: services get its address
    Context context = nullptr;
    arbiter_thread** slot = nullptr;
    Block* block = nullptr;
    Warp* warp = nullptr;
    Fiber* next_waiting = nullptr;
    FiberStack stack;
    void* fake_stack = nullptr;  // for the sanitizer
    unsigned value = 0;          // shuffle: given, then received
    unsigned mask = 0;
    State state = State::runnable;
  };
  /// Room for clusters, blocks, warps, fibers and shared memory: what a launch needs, or where it begins.
  struct Extent {
    std::size_t clusters = 0;
    std::size_t blocks = 0;
    std::size_t warps = 0;
    std::size_t fibers = 0;
    std::size_t shared_bytes = 0;
  };
  /// One launch. Every sequence has room for two, so that one may begin before its predecessor has ended.
  struct Grid {
    FiberLaunch launch;
    Extent room;  // where its blocks live
    unsigned sequence = 0;
    unsigned ordinal = 0;     // of the sequence's launches
    unsigned next_block = 0;  // that has not started
    unsigned triggered = 0;   // blocks that have triggered or exited
    std::size_t live = 0;     // threads of its resident blocks
    bool running = false;
    bool early = false;        // its predecessor still runs
    Fiber* waiting = nullptr;  // for the predecessor
    arbiter_thread** slot = nullptr;
  };
  struct Running {
    FiberSequence tasks;
    std::size_t next_task = 0;
    unsigned launches = 0;  // that have begun
  };

  // Laying out a run.
  static Extent extent(const FiberLaunch&) noexcept;
  void prepare(std::span<const FiberSequence> sequences);
  void begin_next(unsigned sequence) noexcept;
  void begin(unsigned sequence, const FiberLaunch&, bool early) noexcept;
  void lay_out(unsigned grid) noexcept;
  void admit(Cluster&) noexcept;

  // The order of launches.
  Grid& other(const Grid& grid) noexcept { return grids_[static_cast<std::size_t>(&grid - grids_.data()) ^ 1U]; }
  void trigger(Block&) noexcept;
  void begin_early(const Grid&) noexcept;
  void end(Grid&) noexcept;

  // The order of fibers.
  Fiber* pick() noexcept;
  void idle() noexcept;
  void remove_current() noexcept;
  void wake_pollers() noexcept;
  void wake_woken() noexcept;

  // Barriers and shuffles.
  void wait_in(Barrier&, State);
  void wake(Barrier&) noexcept;
  void complete_block(Block&) noexcept;
  void complete_cluster(Cluster&) noexcept;
  void complete_shuffle(Warp&) noexcept;
  std::string describe_stuck() const;

  // Switching.
  void switch_to(Fiber& next);
  void switch_for_good(Fiber& next);
  void leave_to_main();
  Transfer jump(Fiber& next, void** fake_stack);
  Fiber* finish_current() noexcept;
  void trampoline_loop();
  static void trampoline(Transfer);

  unsigned index(const Fiber& fiber) const noexcept { return static_cast<unsigned>(&fiber - fibers_.data()); }

  static std::uint64_t steady_ns() noexcept;
  static FiberScheduler& of(arbiter_thread* thread) noexcept { return *static_cast<FiberScheduler*>(thread->executor); }
  static void service_yield(arbiter_thread*);
  static void service_block_barrier(arbiter_thread*);
  static void service_cluster_barrier(arbiter_thread*);
  static unsigned service_shuffle_xor(arbiter_thread*, unsigned value, unsigned mask);
  static unsigned long long service_now(arbiter_thread*);
  static void service_store(arbiter_thread*, void* destination, const unsigned* words, unsigned count, int release);
  static void service_load(arbiter_thread*, const void* source, unsigned* words, unsigned count, int order);
  static void service_store_multicast(arbiter_thread*, void* destination, const unsigned* words, unsigned count);
  static unsigned service_multicast_members(arbiter_thread*, const void* address, const void** members);
  static void service_fence(arbiter_thread*);
  static void service_grid_wait(arbiter_thread*);
  static void service_grid_trigger(arbiter_thread*);

  FiberStackPool stacks_;
  std::vector<Running> running_;
  std::vector<Grid> grids_;  // two per sequence
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  std::vector<Block> blocks_;
  std::vector<Cluster> clusters_;
  std::vector<std::byte> shared_;

  std::vector<Fiber*> runnable_;  // [0, cursor_) have run in this round
  std::size_t cursor_ = 0;
  Fiber* current_ = nullptr;
  std::size_t live_ = 0;                  // fibers of resident blocks that have not exited
  std::size_t polling_ = 0;               // of these, asleep until what they poll may have changed
  bool progress_ = false;                 // something else than polling happened in this round
  std::uint64_t idle_since_ns_ = 0;       // 0: not idle
  std::function<std::uint64_t()> clock_;  // empty: steady_ns()
  std::uint64_t virtual_ns_ = 0;          // the clock under a memory model, so that deadlines are deterministic too
  std::uint64_t virtual_idle_ns_ = 0;
  OrderRandom random_;
  MemoryModel* model_ = nullptr;
  MulticastLookup multicast_;

  Context main_ = nullptr;
  Context discarded_ = nullptr;
  Context* save_to_ = nullptr;
  const Cluster* stuck_ = nullptr;
  std::uint64_t switches_ = 0;
  const void* main_bottom_ = nullptr;  // for the sanitizer
  std::size_t main_bytes_ = 0;
};

}  // namespace arbiter
