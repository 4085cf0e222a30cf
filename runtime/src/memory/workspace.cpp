#include "memory/workspace.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "arbiter/error.hpp"
#include "group/collective.hpp"
#include "memory/shared_buffers.hpp"

namespace arbiter {
namespace {

constexpr std::uint64_t alignment = 512;

std::uint64_t aligned_up(std::uint64_t bytes) {
  std::uint64_t raised = 0;
  if (__builtin_add_overflow(bytes, alignment - 1, &raised)) {
    throw InvalidArgument("a workspace of more than 2^64 bytes is needed; prepare fewer tokens");
  }
  return raised / alignment * alignment;
}

std::uint64_t control_words(int arrays) { return static_cast<std::uint64_t>(arrays) * arbiter_abi::max_blocks; }

}  // namespace

WorkspaceLayout workspace_layout(int control_arrays, std::uint64_t push_bytes, std::uint64_t staging_bytes) {
  WorkspaceLayout layout;
  layout.push_offset = aligned_up(sizeof(arbiter_abi::Control) + control_words(control_arrays) * sizeof(std::uint32_t));
  layout.push_stride = aligned_up(push_bytes);
  if (layout.push_stride > std::numeric_limits<unsigned>::max()) {  // Arguments::push_stride has 32 bits
    throw InvalidArgument(
        fmt::format("a rotating buffer of {} bytes; kernels address at most 4 GiB in one", push_bytes));
  }
  const std::uint64_t half = aligned_up(staging_bytes / 2 + staging_bytes % 2);
  std::uint64_t staging = 0;
  std::uint64_t push_total = 0;
  if (__builtin_mul_overflow(half, std::uint64_t{2}, &staging) ||
      __builtin_mul_overflow(layout.push_stride, std::uint64_t{arbiter_abi::push_buffers}, &push_total) ||
      __builtin_add_overflow(layout.push_offset, push_total, &layout.staging_offset) ||
      __builtin_add_overflow(layout.staging_offset, half, &layout.results_offset) ||
      __builtin_add_overflow(layout.staging_offset, staging, &layout.total_bytes)) {
    throw InvalidArgument("a workspace of more than 2^64 bytes is needed; prepare fewer tokens");
  }
  return layout;
}

Workspace::Workspace(Device& device, Bootstrap& bootstrap, std::optional<SymmetricProvider> provider, bool multicast,
                     int control_arrays, std::uint32_t first_epoch)
    : device_(device),
      bootstrap_(bootstrap),
      provider_(provider),
      multicast_(multicast),
      control_arrays_(control_arrays),
      first_epoch_(first_epoch) {
  try {
    fault_ = static_cast<arbiter_abi::FaultRecord*>(device.allocate_host_visible(sizeof(arbiter_abi::FaultRecord)));
    *fault_ = arbiter_abi::FaultRecord{};
    stream_ = device.create_stream();
  } catch (...) {
    if (fault_ != nullptr) device.release_host_visible(fault_);
    throw;
  }
}

Workspace::~Workspace() {
  memory_.reset();
  device_.destroy_stream(stream_);
  device_.release_host_visible(fault_);
}

bool Workspace::fits(std::uint64_t push_bytes, std::uint64_t staging_bytes) const noexcept {
  return push_bytes <= push_bytes_ && staging_bytes <= staging_bytes_;
}

void Workspace::reserve(std::uint64_t push_bytes, std::uint64_t staging_bytes) {
  // The ranks' arguments are equal by contract, but a layout that differs between ranks corrupts memory silently.
  const std::uint64_t mine[2] = {push_bytes, staging_bytes};
  std::vector<std::uint64_t> all(2 * static_cast<std::size_t>(bootstrap_.size()));
  bootstrap_.allgather(mine, sizeof(mine), all.data());
  std::uint64_t push = push_bytes_;
  std::uint64_t staging = staging_bytes_;
  bool anything = false;
  for (std::size_t i = 0; i < all.size(); i += 2) {
    push = std::max(push, all[i]);
    staging = std::max(staging, all[i + 1]);
    anything = anything || all[i] != 0 || all[i + 1] != 0;
  }
  // A kernel without push buffers and staging still needs the control block.
  if (memory_ && fits(push, staging)) return;
  if (!provider_) {
    if (!anything) return;
    throw Unavailable("kernels that exchange data need symmetric memory, and this group has none");
  }
  const WorkspaceLayout layout = layout_for(push, staging);
  std::unique_ptr<SymmetricMemory> memory;
  everywhere(bootstrap_, "finish its work before the workspace is moved", [&] { device_.synchronize(nullptr); });
  memory = allocate_symmetric(device_, bootstrap_, *provider_, layout.total_bytes, multicast_);
  std::vector<void*> seen_by = seen_by_peers(*memory, bootstrap_);
  initialise(*memory, layout, memory_.get());
  memory_ = std::move(memory);
  seen_by_ = std::move(seen_by);
  layout_ = layout;
  push_bytes_ = push;
  staging_bytes_ = staging;
  ++generation_;
}

void Workspace::initialise(SymmetricMemory& memory, const WorkspaceLayout& layout, const SymmetricMemory* before) {
  everywhere(bootstrap_, "initialise its workspace", [&] {
    auto* start = static_cast<unsigned char*>(memory.local());
    device_.fill_words(start, 0, layout.push_offset / sizeof(std::uint32_t), stream_);
    device_.fill_words(start + layout.push_offset, arbiter_abi::sentinel_word,
                       (layout.staging_offset - layout.push_offset) / sizeof(std::uint32_t), stream_);
    if (first_epoch_ != 0) {
      device_.fill_words(start + sizeof(arbiter_abi::Control), first_epoch_, control_words(control_arrays_), stream_);
    }
    if (before != nullptr) {  // whoever has made its first calls has made them
      auto* control = static_cast<arbiter_abi::Control*>(memory.local());
      const auto* old = static_cast<const arbiter_abi::Control*>(before->local());
      device_.copy(&control->calls, &old->calls, sizeof(control->calls), stream_);
    }
    device_.synchronize(stream_);
  });
}

void Workspace::reset() {
  // Nobody clears while a peer's last kernel, or its word to give up, may still be on the way.
  everywhere(bootstrap_, "finish its work before the workspace is reset", [&] { device_.synchronize(stream_); });
  if (memory_) initialise(*memory_, layout_, nullptr);
  *fault_ = arbiter_abi::FaultRecord{};
  bootstrap_.barrier();
}

arbiter_abi::FaultRecord Workspace::read_fault() noexcept {
  arbiter_abi::FaultRecord fault = *fault_;
  if (!memory_ || (fault.state != 2 && fault.state != 3)) return fault;
  try {
    arbiter_abi::Control* const control = static_cast<arbiter_abi::Control*>(memory_->local());
    unsigned lengths[arbiter_abi::max_world][3] = {};
    device_.copy(lengths, control->lengths, sizeof(lengths), stream_);
    device_.synchronize(stream_);
    for (unsigned rank = 0; rank < arbiter_abi::max_world; ++rank) {
      const bool own = fault.state == 3 && rank != fault.waiting_rank;
      if (own || lengths[rank][1] == 0) continue;
      fault.state = 3;
      fault.waiting_rank = rank;
      fault.waited_for = lengths[rank][0];
      fault.vectors[0] = lengths[rank][1];
      fault.vectors[1] = lengths[rank][2];
      break;
    }
  } catch (...) {  // a device that is lost says nothing more
  }
  return fault;
}

void Workspace::reserve_scratch(std::size_t bytes) {
  if (bytes <= scratch_.bytes()) return;
  device_.synchronize(nullptr);
  scratch_ = DeviceMemory(device_, bytes);
  // Kernels read whole vectors, the last one of a message beyond its end.
  device_.fill_words(scratch_.data(), 0, bytes / sizeof(std::uint32_t), stream_);
  device_.synchronize(stream_);
}

void Workspace::abort_all() noexcept {
  if (!memory_) return;
  for (int rank = 0; rank < bootstrap_.size(); ++rank) {
    try {
      device_.fill_words(memory_->peer(rank), 1, 1, stream_);
    } catch (...) {  // a peer that is gone needs no telling
    }
  }
}

}  // namespace arbiter
