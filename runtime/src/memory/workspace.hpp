// The memory that kernels of one group use: the symmetric workspace of templates/args.h, scratch memory of this rank,
// and the fault record.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "arbiter/bootstrap.hpp"
#include "arbiter/device.hpp"
#include "arbiter/runtime/symmetric_memory.hpp"
#include "candidate/abi.hpp"

namespace arbiter {

/// Where the parts of a workspace lie, in bytes from its start. Equal on all ranks. Pure arithmetic.
struct WorkspaceLayout {
  std::uint64_t push_offset = 0;
  std::uint64_t push_stride = 0;  ///< of one rotating buffer; they follow each other
  std::uint64_t staging_offset = 0;
  std::uint64_t results_offset = 0;  ///< the second half of the staging area
  std::uint64_t total_bytes = 0;
  bool operator==(const WorkspaceLayout&) const = default;
};
/// `control_arrays`: Catalogue::control_arrays(). Throws InvalidArgument when the sizes overflow 64 bits.
WorkspaceLayout workspace_layout(int control_arrays, std::uint64_t push_bytes, std::uint64_t staging_bytes);

class Workspace {
 public:
  /// `provider` empty: no symmetric memory; reserve() then refuses anything but zero bytes.
  /// `multicast`: its memory has a multicast address.
  Workspace(Device&, Bootstrap&, std::optional<SymmetricProvider> provider, bool multicast, int control_arrays,
            std::uint32_t first_epoch = 0);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// Collective. Grow to the largest of all ranks' needs; never shrinks. On an exception the old memory still stands.
  void reserve(std::uint64_t push_bytes, std::uint64_t staging_bytes);
  /// Would reserve() have to move the workspace? Local; equal on all ranks for equal arguments.
  bool fits(std::uint64_t push_bytes, std::uint64_t staging_bytes) const noexcept;
  /// Collective. Back to the state after creation, keeping the memory.
  void reset();

  /// Local. Device memory for copies of this rank's tensors; grows, and then moves.
  void reserve_scratch(std::size_t bytes);
  void* scratch() const noexcept { return scratch_.data(); }
  std::size_t scratch_bytes() const noexcept { return scratch_.bytes(); }

  std::uint64_t push_bytes() const noexcept { return push_bytes_; }
  std::uint64_t staging_bytes() const noexcept { return staging_bytes_; }
  const WorkspaceLayout& layout() const noexcept { return layout_; }
  /// What reserve() would make of these needs, without what is reserved already.
  WorkspaceLayout layout_for(std::uint64_t push_bytes, std::uint64_t staging_bytes) const {
    return workspace_layout(control_arrays_, push_bytes, staging_bytes);
  }
  std::size_t bytes() const noexcept { return memory_ ? memory_->bytes() : 0; }
  /// Rank r's workspace as this rank addresses it; null before the first reserve().
  void* peer(int rank) const noexcept { return memory_ ? memory_->peer(rank) : nullptr; }
  /// All ranks' workspaces at once; null without multicast.
  void* multicast() const noexcept { return memory_ ? memory_->multicast() : nullptr; }
  /// This rank's workspace as rank r addresses it; null before the first reserve().
  void* seen_by(int rank) const noexcept { return memory_ ? seen_by_[static_cast<std::size_t>(rank)] : nullptr; }
  /// Counts moves: pointers taken from here are good as long as it does not change.
  std::uint64_t generation() const noexcept { return generation_; }

  arbiter_abi::FaultRecord* fault() const noexcept { return fault_; }
  /// What it says, and (which kernels leave on the device) which messages are not of one length. Waits for the device.
  arbiter_abi::FaultRecord read_fault() noexcept;
  bool has_symmetric_memory() const noexcept { return provider_.has_value(); }

  /// Set the abort word of every rank, this one's too: its own kernels may be waiting for a peer that is gone.
  /// Asynchronous, on a stream of its own; does nothing without a workspace.
  void abort_all() noexcept;

 private:
  /// `before`: the memory that this one replaces; null at creation.
  void initialise(SymmetricMemory&, const WorkspaceLayout&, const SymmetricMemory* before);

  Device& device_;
  Bootstrap& bootstrap_;
  std::optional<SymmetricProvider> provider_;
  bool multicast_ = false;
  int control_arrays_;
  std::uint32_t first_epoch_ = 0;
  std::unique_ptr<SymmetricMemory> memory_;
  std::vector<void*> seen_by_;
  WorkspaceLayout layout_;
  std::uint64_t push_bytes_ = 0;
  std::uint64_t staging_bytes_ = 0;
  std::uint64_t generation_ = 0;
  DeviceMemory scratch_;
  arbiter_abi::FaultRecord* fault_ = nullptr;
  StreamHandle stream_ = nullptr;  // for set-up and for abort_all: never the caller's
};

}  // namespace arbiter
