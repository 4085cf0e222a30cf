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

#include "cpu_executor_abi.hpp"
#include "cpu_random.hpp"
#include "cpu_stack_pool.hpp"

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
};

/// One piece of a rank's work: a launch, or something that the host does between launches.
struct FiberTask {
  FiberLaunch launch;
  const std::function<void()>* host = nullptr;  ///< not null: call this instead; it must not throw
};

/// What one rank does, in this order.
using FiberSequence = std::span<const FiberTask>;

/// Where stores to symmetric memory go instead of straight to memory. Implemented by the link model.
class SymmetricStores {
 public:
  virtual ~SymmetricStores() = default;
  struct Writer {
    unsigned sequence = 0;
    unsigned fiber = 0;  ///< unique among the threads that are resident in the run
  };
  virtual void store(Writer, void* destination, const unsigned* words, unsigned count, bool release) = 0;
  virtual void fence(Writer) = 0;
  /// Fibers [first, last) passed a barrier together: each has observed what the others stored before it.
  virtual void barrier(unsigned first, unsigned last) = 0;
  /// A kernel ended: nothing that this sequence stores from now on is visible before what it has stored.
  virtual void kernel_ended(unsigned sequence) = 0;
  /// Called between two steps of the schedule. `idle`: every fiber only polls, so something must be delivered; false
  /// when there is nothing.
  virtual bool step(bool idle) = 0;
  /// All kernels have ended.
  virtual void flush() = 0;
};

class FiberScheduler {
 public:
  FiberScheduler() = default;
  FiberScheduler(const FiberScheduler&) = delete;
  FiberScheduler& operator=(const FiberScheduler&) = delete;

  /// Runs the sequences together, to completion. Throws DeviceError when threads wait for each other in a way that can
  /// never end (divergent barriers); all kernels are abandoned then. `stores` null: stores go straight to memory.
  void run(std::span<const FiberSequence> sequences, std::uint64_t seed, SymmetricStores* stores = nullptr);

  /// Fiber switches since construction.
  std::uint64_t switches() const noexcept { return switches_; }

 private:
  using Context = boost::context::detail::fcontext_t;
  using Transfer = boost::context::detail::transfer_t;

  static constexpr unsigned warp_threads = 32;

  enum class State : std::uint8_t { runnable, block_barrier, cluster_barrier, shuffle, exited };

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
    unsigned sequence = 0;
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
  struct Running {
    FiberSequence tasks;
    std::size_t next_task = 0;
    Extent room;              // where its launches live
    FiberLaunch launch;       // the current one
    unsigned next_block = 0;  // of its grid
    std::size_t live = 0;     // threads of its resident blocks
    arbiter_thread** slot = nullptr;
  };

  // Laying out a run.
  static Extent extent(const FiberLaunch&) noexcept;
  void prepare(std::span<const FiberSequence> sequences);
  void begin_next(unsigned sequence) noexcept;
  void lay_out(unsigned sequence) noexcept;
  void admit(Cluster&) noexcept;

  // The order of fibers.
  Fiber* pick() noexcept;
  void idle() noexcept;
  void remove_current() noexcept;

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
  SymmetricStores::Writer writer(const Fiber&) const noexcept;

  static std::uint64_t steady_ns() noexcept;
  static FiberScheduler& of(arbiter_thread* thread) noexcept { return *static_cast<FiberScheduler*>(thread->executor); }
  static void service_yield(arbiter_thread*);
  static void service_block_barrier(arbiter_thread*);
  static void service_cluster_barrier(arbiter_thread*);
  static unsigned service_shuffle_xor(arbiter_thread*, unsigned value, unsigned mask);
  static unsigned long long service_now(arbiter_thread*);
  static void service_store(arbiter_thread*, void* destination, const unsigned* words, unsigned count, int release);
  static void service_fence(arbiter_thread*);
  static void service_nothing(arbiter_thread*);

  FiberStackPool stacks_;
  std::vector<Running> running_;
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  std::vector<Block> blocks_;
  std::vector<Cluster> clusters_;
  std::vector<std::byte> shared_;

  std::vector<Fiber*> runnable_;  // [0, cursor_) have run in this round
  std::size_t cursor_ = 0;
  Fiber* current_ = nullptr;
  std::size_t live_ = 0;             // fibers of resident blocks that have not exited
  bool progress_ = false;            // something else than polling happened in this round
  std::uint64_t idle_since_ns_ = 0;  // 0: not idle
  std::uint64_t virtual_ns_ = 0;     // the clock when stores_ is set, so that deadlines are deterministic too
  OrderRandom random_;
  SymmetricStores* stores_ = nullptr;

  Context main_ = nullptr;
  Context discarded_ = nullptr;
  Context* save_to_ = nullptr;
  const Cluster* stuck_ = nullptr;
  std::uint64_t switches_ = 0;
  const void* main_bottom_ = nullptr;  // for the sanitizer
  std::size_t main_bytes_ = 0;
};

}  // namespace arbiter
