// Running a launch: the order of fibers and the switches between them.
#include "cpu/scheduler.hpp"

#include <sched.h>

#include <algorithm>
#include <cfenv>
#include <chrono>
#include <thread>

#include "arbiter/error.hpp"
#include "cpu/memory_model.hpp"
#include "cpu/sanitizer.hpp"

namespace arbiter {
namespace {

using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;

// Ranks are OS threads that share few cores: give the core away as soon as all fibers only poll, and sleep when that
// has lasted for a while.
constexpr std::uint64_t sleep_after_idle_ns = 2'000'000;
constexpr std::chrono::microseconds idle_sleep{50};

// A round in which nothing at all can happen but a deadline takes this much virtual time, and the next one twice that.
constexpr std::uint64_t first_virtual_idle_ns = 100'000;
constexpr std::uint64_t longest_virtual_idle_ns = 1'000'000'000;

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

}  // namespace

std::uint64_t FiberScheduler::steady_ns() noexcept {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
          .count());
}

void FiberScheduler::run(std::span<const FiberSequence> sequences, std::uint64_t seed, MemoryModel* model) {
  random_ = OrderRandom(seed);
  model_ = model;
  stuck_ = nullptr;
  multicast_.doubt();
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
  if (model_ != nullptr) model_->settle();
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
  if (model_ != nullptr) {
    model_->step();
    wake_woken();
  }
  while (cursor_ >= runnable_.size()) {
    cursor_ = 0;
    if (progress_) {
      progress_ = false;
      idle_since_ns_ = 0;
      virtual_idle_ns_ = 0;
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
  if (model_ != nullptr) {
    if (model_->idle()) {
      wake_woken();
      return;
    }
    virtual_idle_ns_ = std::clamp(virtual_idle_ns_ * 2, first_virtual_idle_ns, longest_virtual_idle_ns);
    virtual_ns_ += virtual_idle_ns_;
    wake_pollers();
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

/// All of them, so that they see their deadlines.
void FiberScheduler::wake_pollers() noexcept {
  if (polling_ == 0) return;
  for (Fiber& fiber : fibers_) {
    if (fiber.state != State::polling) continue;
    fiber.state = State::runnable;
    runnable_.push_back(&fiber);
  }
  polling_ = 0;
}

void FiberScheduler::wake_woken() noexcept {
  for (const unsigned woken : model_->woken) {
    Fiber& fiber = fibers_[woken];
    if (fiber.state != State::polling) continue;
    fiber.state = State::runnable;
    runnable_.push_back(&fiber);
    --polling_;
  }
  model_->woken.clear();
}

void FiberScheduler::remove_current() noexcept {
  --cursor_;
  runnable_[cursor_] = runnable_.back();
  runnable_.pop_back();
  progress_ = true;
}

// ---- Switching ----

ARBITER_NEVER_RETURNS FiberScheduler::Transfer FiberScheduler::jump(Fiber& next, void** fake_stack) {
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

ARBITER_NEVER_RETURNS void FiberScheduler::switch_for_good(Fiber& next) {
  save_to_ = &discarded_;
  jump(next, nullptr);
}

ARBITER_NEVER_RETURNS void FiberScheduler::leave_to_main() {
  save_to_ = &discarded_;
  before_stack_switch(nullptr, main_bottom_, main_bytes_);
  jump_fcontext(main_, this);
}

ARBITER_NEVER_RETURNS void FiberScheduler::trampoline(Transfer from) {
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
ARBITER_NEVER_RETURNS void FiberScheduler::trampoline_loop() {
  for (;;) {
    const FiberLaunch& launch = grids_[current_->block->cluster->grid].launch;
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

// ---- The order of launches ----

void FiberScheduler::trigger(Block& block) noexcept {
  if (std::exchange(block.triggered, true)) return;
  Grid& grid = grids_[block.cluster->grid];
  if (++grid.triggered == grid.launch.blocks) begin_early(grid);
}

/// Begins the launch behind `grid`, which still runs, if that may be, or leaves it for later: both happen on a GPU.
void FiberScheduler::begin_early(const Grid& grid) noexcept {
  Running& running = running_[grid.sequence];
  if (grid.early || grid.live == 0 || other(grid).running || running.next_task == running.tasks.size()) return;
  const FiberTask& next = running.tasks[running.next_task];
  if (next.host != nullptr || !next.launch.programmatic || random_.below(2) == 0) return;
  ++running.next_task;
  begin(grid.sequence, next.launch, true);
}

void FiberScheduler::end(Grid& grid) noexcept {
  grid.running = false;
  if (model_ != nullptr) {
    const auto first = static_cast<unsigned>(grid.room.fibers);
    model_->grid_ends(grid.sequence, first, first + static_cast<unsigned>(extent(grid.launch).fibers));
  }
  Grid& next = other(grid);
  if (!next.running) {
    begin_next(grid.sequence);
    return;
  }
  if (!next.early) return;  // it is the earlier one: `grid` did not wait for it
  next.early = false;
  for (Fiber* fiber = std::exchange(next.waiting, nullptr); fiber != nullptr; fiber = fiber->next_waiting) {
    fiber->state = State::runnable;
    runnable_.push_back(fiber);
    if (model_ != nullptr) model_->grid_waited(index(*fiber));
  }
  if (next.triggered == next.launch.blocks) begin_early(next);
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
  if (block.live == 0) trigger(block);
  Grid& grid = grids_[cluster.grid];
  --grid.live;
  if (cluster.live == 0 && grid.next_block < grid.launch.blocks) {
    admit(cluster);
  } else if (grid.live == 0) {
    end(grid);
  }
  return live_ == 0 ? nullptr : pick();
}

}  // namespace arbiter
