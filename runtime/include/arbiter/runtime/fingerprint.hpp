// The environment in which ranks measure or run: what decides whether a stored decision applies here.
#pragma once

#include <map>
#include <string>

#include "arbiter/bootstrap.hpp"
#include "arbiter/db/records.hpp"
#include "arbiter/device.hpp"

namespace arbiter {

/// Collective; every rank returns rank 0's values. `provider` is the symmetric-memory provider in use, equal on all
/// ranks. `ranks_per_node` counts the GPUs (on the CPU device, the processors) of a node and not the ranks, so a
/// measurement holds for every world size. `multicast` is false: the group, which proves it, sets it.
/// GPUs of several kinds are named together, with the smallest of their numbers of multiprocessors and capabilities.
/// Throws Disagreement, naming ranks and values, when ranks differ in device kind or driver.
Environment fingerprint(Device&, Bootstrap&, const std::string& provider, const std::string& catalogue_hash);

/// Clocks and power at this moment, for Run records. All 0 on the CPU device and without NVML. Never throws.
struct ClockSample {
  int sm_clock_mhz = 0;
  int memory_clock_mhz = 0;
  int power_watts = 0;
  bool operator==(const ClockSample&) const = default;
};
ClockSample sample_clocks(Device&) noexcept;

/// The NCCL_* variables of this process that change how fast or by which way NCCL works.
std::map<std::string, std::string> nccl_variables();

}  // namespace arbiter
