// What kernels ask of the scheduler: barriers, shuffles, stores, time.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>

#include "cpu/memory_model.hpp"
#include "cpu/sanitizer.hpp"
#include "cpu/scheduler.hpp"

namespace arbiter {
namespace {

// What a switch takes of virtual time.
constexpr std::uint64_t virtual_switch_ns = 100;

}  // namespace

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
  if (model_ != nullptr) {
    model_->barrier(block.first_fiber, block.first_fiber + grids_[block.cluster->grid].launch.threads);
  }
  wake(block.barrier);
}

void FiberScheduler::complete_cluster(Cluster& cluster) noexcept {
  if (model_ != nullptr) {
    const unsigned first = blocks_[cluster.first_block].first_fiber;
    model_->barrier(first, first + cluster.blocks * grids_[cluster.grid].launch.threads);
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
  const FiberLaunch& launch = grids_[cluster.grid].launch;
  std::string text = fmt::format("kernel of rank {} can never end: no thread of ", launch.rank);
  text += launch.cluster > 1 ? "a cluster" : "a block";
  text += " can go on. ";
  for (unsigned b = 0; b < cluster.blocks; ++b) {
    const Block& block = blocks_[cluster.first_block + b];
    std::array<unsigned, states> count{};
    for (unsigned t = 0; t < launch.threads; ++t)
      ++count[static_cast<std::size_t>(fibers_[block.first_fiber + t].state)];
    text += fmt::format(
        "Block {}: of {} threads, {} arrived at a block barrier, {} at a cluster barrier, {} at a shuffle, {} wait for "
        "the kernel before, {} exited. ",
        fibers_[block.first_fiber].thread.block_index, launch.threads,
        count[static_cast<std::size_t>(State::block_barrier)], count[static_cast<std::size_t>(State::cluster_barrier)],
        count[static_cast<std::size_t>(State::shuffle)], count[static_cast<std::size_t>(State::grid_wait)],
        count[static_cast<std::size_t>(State::exited)]);
  }
  text += "Every thread of a warp must reach each shuffle, and every thread of a block (cluster) each barrier";
  return text;
}

// ---- Services ----

void FiberScheduler::service_yield(arbiter_thread* thread) {
  FiberScheduler& self = of(thread);
  Fiber& fiber = *self.current_;
  if (self.model_ != nullptr && self.model_->watch(self.index(fiber))) {
    // Polling again would read the same, so it sleeps until it would not.
    fiber.state = State::polling;
    ++self.polling_;
    self.runnable_[--self.cursor_] = self.runnable_.back();
    self.runnable_.pop_back();
  }
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
  if (self.model_ != nullptr) return self.virtual_ns_ + self.switches_ * virtual_switch_ns;
  return self.clock_ ? self.clock_() : steady_ns();
}

void FiberScheduler::service_store(arbiter_thread* thread, void* destination, const unsigned* words, unsigned count,
                                   int release) {
  FiberScheduler& self = of(thread);
  self.progress_ = true;
  if (self.model_ != nullptr) {
    self.model_->store(self.index(*self.current_), destination, words, count, release != 0);
    self.wake_woken();
    return;
  }
  // Releasing every word orders it behind everything that this rank's OS thread did before, and its fibers with it.
  const std::memory_order order = release != 0 ? std::memory_order_release : std::memory_order_relaxed;
  auto* target = static_cast<unsigned*>(destination);
  for (unsigned i = 0; i < count; ++i) std::atomic_ref<unsigned>(target[i]).store(words[i], order);
}

void FiberScheduler::service_store_multicast(arbiter_thread* thread, void* destination, const unsigned* words,
                                             unsigned count) {
  std::array<const void*, arbiter_multicast_members> members{};
  const unsigned ranks = service_multicast_members(thread, destination, members.data());
  // The switch owes nobody an order among the ranks.
  const unsigned first = of(thread).random_.below(ranks);
  for (unsigned i = 0; i < ranks; ++i) {
    service_store(thread, const_cast<void*>(members[(first + i) % ranks]), words, count, 0);
  }
}

unsigned FiberScheduler::service_multicast_members(arbiter_thread* thread, const void* address, const void** members) {
  const unsigned ranks = of(thread).multicast_.members(address, members);
  if (ranks != 0) return ranks;
  // What is a fault on a GPU.
  std::fprintf(stderr, "a kernel of the CPU device uses %p as multicast memory, which it is not\n", address);
  std::abort();
}

void FiberScheduler::service_load(arbiter_thread* thread, const void* source, unsigned* words, unsigned count,
                                  int order) {
  FiberScheduler& self = of(thread);
  self.model_->load(self.index(*self.current_), source, words, count, static_cast<MemoryModel::LoadOrder>(order));
}

void FiberScheduler::service_fence(arbiter_thread* thread) {
  FiberScheduler& self = of(thread);
  if (self.model_ != nullptr) self.model_->fence(self.index(*self.current_));
#ifdef ARBITER_THREAD_SANITIZER
  // It does not model fences; a read-modify-write is what it understands.
  std::atomic_ref<std::uint64_t>(self.switches_).fetch_add(0, std::memory_order_seq_cst);
#else
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

void FiberScheduler::service_grid_wait(arbiter_thread* thread) {
  FiberScheduler& self = of(thread);
  Fiber& fiber = *self.current_;
  Grid& grid = self.grids_[fiber.block->cluster->grid];
  if (!grid.early) {
    // Its predecessor has ended, perhaps since this thread began.
    if (self.model_ != nullptr) self.model_->grid_waited(self.index(fiber));
    return;
  }
  fiber.state = State::grid_wait;
  fiber.next_waiting = std::exchange(grid.waiting, &fiber);
  self.remove_current();
  self.switch_to(*self.pick());
}

void FiberScheduler::service_grid_trigger(arbiter_thread* thread) {
  FiberScheduler& self = of(thread);
  self.trigger(*self.current_->block);
}

}  // namespace arbiter
