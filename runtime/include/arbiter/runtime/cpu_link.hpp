// The link model of the CPU device: what a kernel stores is seen by others later, torn and in another order, as far as
// the memory model of a GPU allows. A protocol that is right only by luck fails here, and the seed replays it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

namespace arbiter {

struct CpuLinkOptions {
  /// Decides the order of all fibers of all ranks and of all deliveries. With the same launches, the same seed gives
  /// the same run.
  std::uint64_t seed = 0;
  /// How long a rank waits for the others to launch before it throws DeviceError.
  std::chrono::milliseconds deadline = std::chrono::seconds(60);
};

/// What the model did, so that a test can see that it did something.
struct CpuLinkStatistics {
  std::uint64_t runs = 0;       ///< meetings of all ranks
  std::uint64_t stores = 0;     ///< stores to a peer's memory
  std::uint64_t torn = 0;       ///< of these, delivered in more than one piece
  std::uint64_t overtaken = 0;  ///< pieces delivered after a piece that was stored later
  std::uint64_t most_pending = 0;
};

/// Shared by the CPU devices of all ranks of one process (CpuDeviceOptions::link). Every launch, and every replay of a
/// graph, then waits until all ranks have come with theirs, and one thread runs them together; within a graph a rank
/// may run ahead of its peers. Ranks must launch equally often. Time stands still except for steps of the schedule, so
/// deadlines in kernels are deterministic too. All memory of the devices is modelled, but for loads and stores of
/// single words that only the own rank's kernels use (load_word, store_word) and atomic exchanges.
class CpuLinkModel {
 public:
  virtual ~CpuLinkModel() = default;
  virtual CpuLinkStatistics statistics() const = 0;
  /// From the next run on, as if the model had been created with this seed. Only while no rank is in a launch.
  virtual void restart(std::uint64_t seed) = 0;
};

/// Throws InvalidArgument unless 1 <= ranks <= max_world.
std::shared_ptr<CpuLinkModel> make_cpu_link_model(int ranks, const CpuLinkOptions& = {});

}  // namespace arbiter
