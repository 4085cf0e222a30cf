// The meeting point of the ranks of a link model: their launches run together on one thread.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "arbiter/runtime/cpu_link.hpp"
#include "cpu/scheduler.hpp"

namespace arbiter {

class CpuLink final : public CpuLinkModel {
 public:
  CpuLink(int ranks, const CpuLinkOptions& options);

  CpuLinkStatistics statistics() const override;
  void restart(std::uint64_t seed) override;

  /// A device of this rank exists from join to leave. join throws InvalidArgument for a rank that is not part of the
  /// model or has a device already.
  void join(int rank);
  void leave(int rank) noexcept;

  /// Returns when the sequences of all ranks have run. Throws DeviceError, on every rank, when a kernel could not end,
  /// or when a rank does not come before the deadline or has left.
  void run(int rank, FiberSequence tasks);

 private:
  enum class Presence : std::uint8_t { not_yet, here, left };

  void run_all();
  std::string absent(bool only_left) const;

  const CpuLinkOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Presence> presence_;
  std::vector<FiberSequence> waiting_;
  std::vector<bool> arrived_;
  std::size_t arrivals_ = 0;
  std::uint64_t meeting_ = 0;
  std::string failure_;  // of the last meeting
  std::string broken_;   // why no meeting will ever be complete again
  FiberScheduler scheduler_;
  SplitMix seeds_;
  CpuLinkStatistics statistics_;
};

}  // namespace arbiter
