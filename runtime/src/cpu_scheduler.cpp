#include "cpu_scheduler.hpp"

#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <cstring>
#include <thread>

#include "arbiter/error.hpp"
#include "cpu_sanitizer.hpp"

namespace arbiter {
namespace {

using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;

constexpr unsigned warp_threads = 32;
constexpr std::size_t shared_alignment = 1024;

// Ranks are OS threads that share few cores: give the core away as soon as all fibers only poll, and sleep when that
// has lasted for a while.
constexpr std::uint64_t sleep_after_idle_ns = 2'000'000;
constexpr std::chrono::microseconds idle_sleep{50};

// Virtual time: a switch, and a round in which nothing at all can happen but a deadline.
constexpr std::uint64_t virtual_switch_ns = 20;
constexpr std::uint64_t virtual_idle_ns = 100'000;

/// Kernels round as a GPU does, whatever mode (such as flush-to-zero) the host program has set for itself.
class DefaultFloatingPoint {
 public:
  DefaultFloatingPoint() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  DefaultFloatingPoint(const DefaultFloatingPoint&) = delete;
  DefaultFloatingPoint& operator=(const DefaultFloatingPoint&) = delete;
  ~DefaultFloatingPoint() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_{};
};

std::uint64_t steady_ns() noexcept {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
          .count());
}

}  // namespace

void FiberScheduler::run(std::span<const FiberSequence> sequences, std::uint64_t seed, SymmetricStores* stores) {
  random_ = OrderRandom(seed);
  stores_ = stores;
  stuck_ = nullptr;
  prepare(sequences);
  if (live_ != 0) {
    const DefaultFloatingPoint floating_point;
    Fiber* first = pick();
    save_to_ = &main_;
    void* fake_stack = nullptr;
    const Transfer from = jump(*first, &fake_stack);
    after_stack_switch(fake_stack, nullptr, nullptr);
    *static_cast<FiberScheduler*>(from.data)->save_to_ = from.fctx;
  }
  if (stores_ != nullptr) stores_->flush();
  if (stuck_ == nullptr) return;
  // Kernel frames hold nothing that needs destruction, so suspended fibers are simply dropped.
  for (Fiber& fiber : fibers_) {
    if (fiber.stack.top != nullptr) stacks_.give_back(std::exchange(fiber.stack, {}));
  }
  throw DeviceError(describe_stuck());
}

// ---- The order of fibers ----

// Every round runs each runnable fiber once, in a new random order: a Fisher-Yates shuffle done one step at a time.
FiberScheduler::Fiber* FiberScheduler::pick() noexcept {
  if (stores_ != nullptr) stores_->step(false);
  if (cursor_ >= runnable_.size()) {
    cursor_ = 0;
    if (progress_) {
      progress_ = false;
      idle_since_ns_ = 0;
    } else {
      idle();
    }
  }
  const std::size_t left = runnable_.size() - cursor_;
  const std::size_t chosen = cursor_ + random_.below(static_cast<std::uint32_t>(left));
  std::swap(runnable_[cursor_], runnable_[chosen]);
  return runnable_[cursor_++];
}

void FiberScheduler::idle() noexcept {
  if (stores_ != nullptr) {
    if (!stores_->step(true)) virtual_ns_ += virtual_idle_ns;
    return;
  }
  const std::uint64_t now = steady_ns();
  if (idle_since_ns_ == 0) idle_since_ns_ = now;
  if (now - idle_since_ns_ < sleep_after_idle_ns) {
    ::sched_yield();
  } else {
    std::this_thread::sleep_for(idle_sleep);
  }
}

void FiberScheduler::remove_current() noexcept {
  --cursor_;
  runnable_[cursor_] = runnable_.back();
  runnable_.pop_back();
  progress_ = true;
}

// ---- Switching ----

FiberScheduler::Transfer FiberScheduler::jump(Fiber& next, void** fake_stack) {
  if (next.context == nullptr) {
    next.stack = stacks_.take();
    forget_stack_contents(next.stack.bottom, next.stack.bytes());
    next.context = make_fcontext(next.stack.top, next.stack.bytes(), &FiberScheduler::trampoline);
  }
  ++switches_;
  current_ = &next;
  *next.slot = &next.thread;
  before_stack_switch(fake_stack, next.stack.bottom, next.stack.bytes());
  return jump_fcontext(next.context, this);
}

void FiberScheduler::switch_to(Fiber& next) {
  Fiber& self = *current_;
  if (&next == &self) return;
  save_to_ = &self.context;
  const Transfer from = jump(next, &self.fake_stack);
  after_stack_switch(self.fake_stack, nullptr, nullptr);
  *save_to_ = from.fctx;
}

void FiberScheduler::switch_for_good(Fiber& next) {
  save_to_ = &discarded_;
  jump(next, nullptr);
}

void FiberScheduler::leave_to_main() {
  save_to_ = &discarded_;
  before_stack_switch(nullptr, main_bottom_, main_bytes_);
  jump_fcontext(main_, this);
}

void FiberScheduler::trampoline(Transfer from) {
  auto* self = static_cast<FiberScheduler*>(from.data);
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  after_stack_switch(nullptr, &bottom, &bytes);
  if (self->save_to_ == &self->main_) {
    self->main_bottom_ = bottom;
    self->main_bytes_ = bytes;
  }
  *self->save_to_ = from.fctx;
  self->trampoline_loop();
}

// Runs the current fiber, and then, on the same stack, every fiber chosen next that has not started: a kernel whose
// threads never wait is a plain loop.
void FiberScheduler::trampoline_loop() {
  for (;;) {
    const FiberLaunch& launch = running_[current_->block->cluster->sequence].launch;
    launch.entry(launch.arguments);
    const FiberStack stack = std::exchange(current_->stack, {});
    Fiber* next = finish_current();
    if (next != nullptr && next->context == nullptr) {
      next->stack = stack;
      next->context = this;  // started; replaced when it first switches away
      current_ = next;
      *next->slot = &next->thread;
      continue;
    }
    stacks_.give_back(stack);
    if (next == nullptr) leave_to_main();
    switch_for_good(*next);
  }
}

/// The fiber to run next; null when all have finished or none can go on.
FiberScheduler::Fiber* FiberScheduler::finish_current() noexcept {
  Fiber& self = *current_;
  Block& block = *self.block;
  Cluster& cluster = *block.cluster;
  self.state = State::exited;
  self.context = nullptr;
  remove_current();
  --live_;
  --self.warp->live;
  --block.live;
  --cluster.live;
  // As on a GPU, a thread that has exited no longer holds up the barriers of its block and cluster.
  if (self.warp->exchange.arrived != 0 && self.warp->exchange.arrived == self.warp->live) complete_shuffle(*self.warp);
  if (block.barrier.arrived != 0 && block.barrier.arrived == block.live) complete_block(block);
  if (cluster.barrier.arrived != 0 && cluster.barrier.arrived == cluster.live) complete_cluster(cluster);
  if (cluster.live != 0 && cluster.blocked == cluster.live) {
    stuck_ = &cluster;
    return nullptr;
  }
  Running& running = running_[cluster.sequence];
  --running.live;
  if (cluster.live == 0 && running.next_block < running.launch.blocks) {
    admit(cluster);
  } else if (running.live == 0) {
    if (stores_ != nullptr) stores_->kernel_ended(cluster.sequence);
    begin_next(cluster.sequence);
  }
  return live_ == 0 ? nullptr : pick();
}

// ---- Barriers and shuffles ----

void FiberScheduler::wait_in(Barrier& barrier, State state) {
  Fiber& self = *current_;
  Cluster& cluster = *self.block->cluster;
  self.state = state;
  self.next_waiting = barrier.waiting;
  barrier.waiting = &self;
  ++barrier.arrived;
  ++cluster.blocked;
  remove_current();
  if (cluster.blocked == cluster.live) {
    stuck_ = &cluster;
    leave_to_main();
  }
  switch_to(*pick());
}

void FiberScheduler::wake(Barrier& barrier) noexcept {
  for (Fiber* fiber = barrier.waiting; fiber != nullptr; fiber = fiber->next_waiting) {
    fiber->state = State::runnable;
    --fiber->block->cluster->blocked;
    runnable_.push_back(fiber);
  }
  barrier = {};
  progress_ = true;
}

void FiberScheduler::complete_block(Block& block) noexcept {
  if (stores_ != nullptr) {
    stores_->barrier(block.first_fiber, block.first_fiber + running_[block.cluster->sequence].launch.threads);
  }
  wake(block.barrier);
}

void FiberScheduler::complete_cluster(Cluster& cluster) noexcept {
  if (stores_ != nullptr) {
    const unsigned first = blocks_[cluster.first_block].first_fiber;
    stores_->barrier(first, first + cluster.blocks * running_[cluster.sequence].launch.threads);
  }
  wake(cluster.barrier);
}

// Results are computed for all lanes at once: a lane that runs on may start the next exchange before the others have
// looked. A lane that does not take part gives its partner the partner's own value.
void FiberScheduler::complete_shuffle(Warp& warp) noexcept {
  std::array<unsigned, warp_threads> values{};
  Fiber* lanes = &fibers_[warp.first_fiber];
  for (unsigned lane = 0; lane < warp.lanes; ++lane) values[lane] = lanes[lane].value;
  for (unsigned lane = 0; lane < warp.lanes; ++lane) {
    if (lanes[lane].state != State::shuffle) continue;
    const unsigned partner = lane ^ lanes[lane].mask;
    if (partner < warp.lanes && lanes[partner].state == State::shuffle) lanes[lane].value = values[partner];
  }
  wake(warp.exchange);
}

std::string FiberScheduler::describe_stuck() const {
  const Cluster& cluster = *stuck_;
  const FiberLaunch& launch = running_[cluster.sequence].launch;
  std::string text = "kernel of rank " + std::to_string(launch.rank) + " can never end: no thread of ";
  text += launch.cluster > 1 ? "a cluster" : "a block";
  text += " can go on. ";
  for (unsigned b = 0; b < cluster.blocks; ++b) {
    const Block& block = blocks_[cluster.first_block + b];
    std::array<unsigned, 5> count{};
    for (unsigned t = 0; t < launch.threads; ++t) ++count[static_cast<std::size_t>(fibers_[block.first_fiber + t].state)];
    text += "Block " + std::to_string(fibers_[block.first_fiber].thread.block_index) + ": of " +
            std::to_string(launch.threads) + " threads, " +
            std::to_string(count[static_cast<std::size_t>(State::block_barrier)]) + " arrived at a block barrier, " +
            std::to_string(count[static_cast<std::size_t>(State::cluster_barrier)]) + " at a cluster barrier, " +
            std::to_string(count[static_cast<std::size_t>(State::shuffle)]) + " at a shuffle, " +
            std::to_string(count[static_cast<std::size_t>(State::exited)]) + " exited. ";
  }
  text += "Every thread of a warp must reach each shuffle, and every thread of a block (cluster) each barrier";
  return text;
}

// ---- Services for kernels ----

void FiberScheduler::service_yield(arbiter_thread* thread) {
  FiberScheduler& self = of(thread);
  self.switch_to(*self.pick());
}

void FiberScheduler::service_block_barrier(arbiter_thread* thread) {
  FiberScheduler& self = of(thread);
  Block& block = *self.current_->block;
  if (block.barrier.arrived + 1 == block.live) {
    self.complete_block(block);
  } else {
    self.wait_in(block.barrier, State::block_barrier);
  }
}

void FiberScheduler::service_cluster_barrier(arbiter_thread* thread) {
  FiberScheduler& self = of(thread);
  Cluster& cluster = *self.current_->block->cluster;
  if (cluster.barrier.arrived + 1 == cluster.live) {
    self.complete_cluster(cluster);
  } else {
    self.wait_in(cluster.barrier, State::cluster_barrier);
  }
}

unsigned FiberScheduler::service_shuffle_xor(arbiter_thread* thread, unsigned value, unsigned mask) {
  FiberScheduler& self = of(thread);
  Fiber& fiber = *self.current_;
  Warp& warp = *fiber.warp;
  fiber.value = value;
  fiber.mask = mask;
  if (warp.exchange.arrived + 1 == warp.live) {
    fiber.state = State::shuffle;
    self.complete_shuffle(warp);
    fiber.state = State::runnable;
  } else {
    self.wait_in(warp.exchange, State::shuffle);
  }
  return fiber.value;
}

unsigned long long FiberScheduler::service_now(arbiter_thread* thread) {
  const FiberScheduler& self = of(thread);
  return self.stores_ != nullptr ? self.virtual_ns_ + self.switches_ * virtual_switch_ns : steady_ns();
}

void FiberScheduler::service_store(arbiter_thread* thread, void* destination, const unsigned* words, unsigned count,
                                   int release) {
  FiberScheduler& self = of(thread);
  self.progress_ = true;
  if (self.stores_ != nullptr) {
    self.stores_->store(self.writer(*self.current_), destination, words, count, release != 0);
    return;
  }
  // Releasing every word orders it behind everything that this rank's OS thread did before, and its fibers with it.
  const std::memory_order order = release != 0 ? std::memory_order_release : std::memory_order_relaxed;
  auto* target = static_cast<unsigned*>(destination);
  for (unsigned i = 0; i < count; ++i) std::atomic_ref<unsigned>(target[i]).store(words[i], order);
}

void FiberScheduler::service_fence(arbiter_thread* thread) {
  FiberScheduler& self = of(thread);
  if (self.stores_ != nullptr) self.stores_->fence(self.writer(*self.current_));
#ifdef ARBITER_THREAD_SANITIZER
  // It does not model fences; a read-modify-write is what it understands.
  std::atomic_ref<std::uint64_t>(self.switches_).fetch_add(0, std::memory_order_seq_cst);
#else
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

void FiberScheduler::service_nothing(arbiter_thread*) {}

SymmetricStores::Writer FiberScheduler::writer(const Fiber& fiber) const noexcept {
  return {fiber.block->cluster->sequence, index(fiber)};
}

// ---- Laying out a run ----

FiberScheduler::Extent FiberScheduler::extent(const FiberLaunch& launch) noexcept {
  const std::size_t resident = std::max(std::min(launch.blocks, launch.resident_blocks), launch.cluster);
  const std::size_t clusters = resident / launch.cluster;
  const std::size_t blocks = clusters * launch.cluster;
  const std::size_t stride = (launch.shared_bytes + shared_alignment - 1) / shared_alignment * shared_alignment;
  return {clusters, blocks, blocks * ((launch.threads + warp_threads - 1) / warp_threads), blocks * launch.threads,
          blocks * stride};
}

// Every sequence gets room for the largest of its launches, so that nothing moves or is allocated while fibers run.
void FiberScheduler::prepare(std::span<const FiberSequence> sequences) {
  running_.clear();
  Extent total;
  unsigned largest_cluster = 1;
  for (const FiberSequence& tasks : sequences) {
    Extent largest;
    for (const FiberTask& task : tasks) {
      if (task.host != nullptr) continue;
      const Extent needed = extent(task.launch);
      largest.clusters = std::max(largest.clusters, needed.clusters);
      largest.blocks = std::max(largest.blocks, needed.blocks);
      largest.warps = std::max(largest.warps, needed.warps);
      largest.fibers = std::max(largest.fibers, needed.fibers);
      largest.shared_bytes = std::max(largest.shared_bytes, needed.shared_bytes);
      largest_cluster = std::max(largest_cluster, task.launch.cluster);
    }
    Running& running = running_.emplace_back();
    running.tasks = tasks;
    running.room = total;
    total.clusters += largest.clusters;
    total.blocks += largest.blocks;
    total.warps += largest.warps;
    total.fibers += largest.fibers;
    total.shared_bytes += largest.shared_bytes;
  }
  stacks_.reserve(total.fibers);
  clusters_.resize(std::max(clusters_.size(), total.clusters));
  for (Cluster& cluster : clusters_) cluster.shared.reserve(largest_cluster);
  blocks_.resize(std::max(blocks_.size(), total.blocks));
  warps_.resize(std::max(warps_.size(), total.warps));
  fibers_.resize(std::max(fibers_.size(), total.fibers));
  shared_.resize(std::max(shared_.size(), total.shared_bytes + shared_alignment));
  runnable_.clear();
  runnable_.reserve(fibers_.size());
  cursor_ = 0;
  live_ = 0;
  progress_ = true;
  idle_since_ns_ = 0;
  virtual_ns_ = 0;
  for (unsigned s = 0; s < running_.size(); ++s) begin_next(s);
}

/// Does the tasks of a sequence up to and including the next launch.
void FiberScheduler::begin_next(unsigned sequence) noexcept {
  Running& running = running_[sequence];
  while (running.next_task < running.tasks.size()) {
    const FiberTask& task = running.tasks[running.next_task++];
    if (task.host != nullptr) {
      (*task.host)();
      continue;
    }
    running.launch = task.launch;
    running.next_block = 0;
    running.slot = task.launch.current_slot();
    lay_out(sequence);
    return;
  }
}

void FiberScheduler::lay_out(unsigned sequence) noexcept {
  const FiberLaunch& launch = running_[sequence].launch;
  const Extent& room = running_[sequence].room;
  const Extent size = extent(launch);
  const std::size_t stride = size.shared_bytes / size.blocks;
  const auto misaligned = reinterpret_cast<std::uintptr_t>(shared_.data()) % shared_alignment;
  std::byte* shared = shared_.data() + (misaligned == 0 ? 0 : shared_alignment - misaligned) + room.shared_bytes;
  auto block_index = static_cast<unsigned>(room.blocks);
  auto fiber_index = static_cast<unsigned>(room.fibers);
  auto warp_index = static_cast<unsigned>(room.warps);
  for (std::size_t c = 0; c < size.clusters; ++c) {
    Cluster& cluster = clusters_[room.clusters + c];
    cluster.sequence = sequence;
    cluster.first_block = block_index;
    cluster.blocks = launch.cluster;
    cluster.shared.clear();
    for (unsigned b = 0; b < launch.cluster; ++b, ++block_index, shared += stride) {
      Block& block = blocks_[block_index];
      block.cluster = &cluster;
      block.first_fiber = fiber_index;
      block.first_warp = warp_index;
      cluster.shared.push_back(shared);
      for (unsigned t = 0; t < launch.threads; t += warp_threads, ++warp_index) {
        warps_[warp_index].first_fiber = fiber_index + t;
        warps_[warp_index].lanes = std::min(warp_threads, launch.threads - t);
      }
      fiber_index += launch.threads;
    }
    admit(cluster);
  }
}

/// Starts the next blocks of the grid in a resident cluster.
void FiberScheduler::admit(Cluster& cluster) noexcept {
  Running& running = running_[cluster.sequence];
  const FiberLaunch& launch = running.launch;
  cluster.barrier = {};
  cluster.blocked = 0;
  cluster.live = launch.cluster * launch.threads;
  live_ += cluster.live;
  running.live += cluster.live;
  for (unsigned b = 0; b < launch.cluster; ++b) {
    Block& block = blocks_[cluster.first_block + b];
    block.barrier = {};
    block.live = launch.threads;
    // Not a number in every format: reading shared memory that was not written must show.
    std::memset(cluster.shared[b], 0xFF, launch.shared_bytes);
    for (unsigned t = 0; t < launch.threads; ++t) {
      Fiber& fiber = fibers_[block.first_fiber + t];
      Warp& warp = warps_[block.first_warp + t / warp_threads];
      if (t % warp_threads == 0) {
        warp.exchange = {};
        warp.live = warp.lanes;
      }
      fiber.context = nullptr;
      fiber.slot = running.slot;
      fiber.block = &block;
      fiber.warp = &warp;
      fiber.stack = {};
      fiber.state = State::runnable;
      fiber.thread.thread_index = t;
      fiber.thread.block_threads = launch.threads;
      fiber.thread.block_index = running.next_block + b;
      fiber.thread.grid_blocks = launch.blocks;
      fiber.thread.cluster_rank = b;
      fiber.thread.cluster_blocks = launch.cluster;
      fiber.thread.shared = cluster.shared[b];
      fiber.thread.cluster_shared = cluster.shared.data();
      fiber.thread.yield = service_yield;
      fiber.thread.block_barrier = service_block_barrier;
      fiber.thread.cluster_barrier = service_cluster_barrier;
      fiber.thread.shuffle_xor = service_shuffle_xor;
      fiber.thread.now_ns = service_now;
      fiber.thread.store_symmetric = service_store;
      fiber.thread.fence_system = service_fence;
      fiber.thread.grid_dependency_wait = service_nothing;
      fiber.thread.grid_dependency_trigger = service_nothing;
      fiber.thread.executor = this;
      runnable_.push_back(&fiber);
    }
  }
  running.next_block += launch.cluster;
}

}  // namespace arbiter
