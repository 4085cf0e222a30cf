// Where the blocks and threads of launches live while they run.
#include <algorithm>
#include <cstring>

#include "cpu/memory_model.hpp"
#include "cpu/scheduler.hpp"

namespace arbiter {
namespace {

constexpr std::size_t shared_alignment = 1024;

}  // namespace

FiberScheduler::Extent FiberScheduler::extent(const FiberLaunch& launch) noexcept {
  const std::size_t resident = std::max(std::min(launch.blocks, launch.resident_blocks), launch.cluster);
  const std::size_t clusters = resident / launch.cluster;
  const std::size_t blocks = clusters * launch.cluster;
  const std::size_t stride = (launch.shared_bytes + shared_alignment - 1) / shared_alignment * shared_alignment;
  return {clusters, blocks, blocks * ((launch.threads + warp_threads - 1) / warp_threads), blocks * launch.threads,
          blocks * stride};
}

// Every sequence gets room for the two largest of its launches, so that nothing moves or is allocated while fibers run.
void FiberScheduler::prepare(std::span<const FiberSequence> sequences) {
  running_.clear();
  grids_.clear();
  Extent total;
  unsigned largest_cluster = 1;
  for (const FiberSequence& tasks : sequences) {
    Extent largest;
    std::size_t launches = 0;
    bool early = false;
    for (const FiberTask& task : tasks) {
      if (task.host != nullptr) continue;
      const Extent needed = extent(task.launch);
      largest.clusters = std::max(largest.clusters, needed.clusters);
      largest.blocks = std::max(largest.blocks, needed.blocks);
      largest.warps = std::max(largest.warps, needed.warps);
      largest.fibers = std::max(largest.fibers, needed.fibers);
      largest.shared_bytes = std::max(largest.shared_bytes, needed.shared_bytes);
      largest_cluster = std::max(largest_cluster, task.launch.cluster);
      early = early || (launches++ != 0 && task.launch.programmatic);
    }
    running_.push_back({tasks});
    for (unsigned lane = 0; lane < 2; ++lane) {
      Grid& grid = grids_.emplace_back();
      grid.sequence = static_cast<unsigned>(running_.size() - 1);
      grid.room = total;
      if (lane == 1 && !early) continue;
      total.clusters += largest.clusters;
      total.blocks += largest.blocks;
      total.warps += largest.warps;
      total.fibers += largest.fibers;
      total.shared_bytes += largest.shared_bytes;
    }
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
  polling_ = 0;
  progress_ = true;
  idle_since_ns_ = 0;
  virtual_ns_ = 0;
  virtual_idle_ns_ = 0;
  if (model_ != nullptr) model_->prepare(static_cast<unsigned>(total.fibers));
  for (unsigned s = 0; s < running_.size(); ++s) begin_next(s);
}

/// Does the tasks of a sequence up to and including the next launch.
void FiberScheduler::begin_next(unsigned sequence) noexcept {
  Running& running = running_[sequence];
  while (running.next_task < running.tasks.size()) {
    const FiberTask& task = running.tasks[running.next_task++];
    if (task.host != nullptr) {
      if (model_ != nullptr) model_->settle();
      (*task.host)();
      continue;
    }
    begin(sequence, task.launch, false);
    return;
  }
}

/// `early`: while the launch before it runs.
void FiberScheduler::begin(unsigned sequence, const FiberLaunch& launch, bool early) noexcept {
  const std::size_t first = std::size_t{2} * sequence;
  const std::size_t chosen = grids_[first].running ? first + 1 : first;
  Grid& grid = grids_[chosen];
  grid.launch = launch;
  grid.ordinal = running_[sequence].launches++;
  grid.next_block = 0;
  grid.triggered = 0;
  grid.live = 0;
  grid.running = true;
  grid.early = early;
  grid.waiting = nullptr;
  grid.slot = launch.current_slot();
  lay_out(static_cast<unsigned>(chosen));
}

void FiberScheduler::lay_out(unsigned grid) noexcept {
  const FiberLaunch& launch = grids_[grid].launch;
  const Extent& room = grids_[grid].room;
  const Extent size = extent(launch);
  const std::size_t stride = size.shared_bytes / size.blocks;
  const auto misaligned = reinterpret_cast<std::uintptr_t>(shared_.data()) % shared_alignment;
  std::byte* shared = shared_.data() + (misaligned == 0 ? 0 : shared_alignment - misaligned) + room.shared_bytes;
  auto block_index = static_cast<unsigned>(room.blocks);
  auto fiber_index = static_cast<unsigned>(room.fibers);
  auto warp_index = static_cast<unsigned>(room.warps);
  for (std::size_t c = 0; c < size.clusters; ++c) {
    Cluster& cluster = clusters_[room.clusters + c];
    cluster.grid = grid;
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
  Grid& grid = grids_[cluster.grid];
  const FiberLaunch& launch = grid.launch;
  cluster.barrier = {};
  cluster.blocked = 0;
  cluster.live = launch.cluster * launch.threads;
  live_ += cluster.live;
  grid.live += cluster.live;
  for (unsigned b = 0; b < launch.cluster; ++b) {
    Block& block = blocks_[cluster.first_block + b];
    block.barrier = {};
    block.triggered = false;
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
      fiber.slot = grid.slot;
      fiber.block = &block;
      fiber.warp = &warp;
      fiber.stack = {};
      fiber.state = State::runnable;
      fiber.thread.thread_index = t;
      fiber.thread.block_threads = launch.threads;
      fiber.thread.block_index = grid.next_block + b;
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
      fiber.thread.store_multicast = service_store_multicast;
      fiber.thread.multicast_members = service_multicast_members;
      fiber.thread.fence_system = service_fence;
      fiber.thread.load_symmetric = model_ != nullptr ? service_load : nullptr;
      fiber.thread.grid_dependency_wait = service_grid_wait;
      fiber.thread.grid_dependency_trigger = service_grid_trigger;
      fiber.thread.executor = this;
      if (model_ != nullptr) {
        model_->thread_begins(index(fiber), {grid.sequence, grid.ordinal, grid.next_block + b, t});
      }
      runnable_.push_back(&fiber);
    }
  }
  grid.next_block += launch.cluster;
}

}  // namespace arbiter
