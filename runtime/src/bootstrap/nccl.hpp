// Ranks that exchange host data through NCCL, connected here or by the host program.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "arbiter/bootstrap.hpp"
#include "arbiter/device.hpp"
#include "nccl/library.hpp"

namespace arbiter {

/// What is known about a communicator of the host program, for everything that outlives a call.
struct LentNcclState {
  std::atomic<bool> closed{false};       ///< destroyed or aborted by the program: must not be touched any more
  std::atomic<bool> nonblocking{false};  ///< a call has come back with work in progress
};

struct NcclBootstrapSetup {
  std::shared_ptr<const NcclLibrary> library;
  std::shared_ptr<Device> device;
  std::string name;
  std::chrono::milliseconds deadline{};  ///< of every wait; 0: none
  /// Called when everything is allocated, before the first exchange. May be empty.
  std::function<void()> allocated = {};
  std::shared_ptr<LentNcclState> lent = nullptr;  ///< of a communicator that is lent, where somebody watches it
};

/// Connects `size` ranks that have the same id. Collective.
std::unique_ptr<Bootstrap> make_nccl_bootstrap(NcclBootstrapSetup, const NcclId&, int rank, int size);
/// Over a communicator that is connected, and stays the host program's. Collective. Once `lent` says that it is closed,
/// barrier() returns at once and everything else throws Poisoned.
std::unique_ptr<Bootstrap> make_nccl_bootstrap(NcclBootstrapSetup, NcclComm lent, int rank, int size);

/// Waits until NCCL has nothing in progress on this communicator; returns its state then, or ncclInProgress after the
/// deadline (0: none). Throws Poisoned when `closed` (may be null) is set.
int settle_nccl(const NcclLibrary&, NcclComm, std::chrono::milliseconds deadline, const std::atomic<bool>* closed);

}  // namespace arbiter
