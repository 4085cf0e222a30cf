// Comparing on the device what a kernel wrote with what it must be, so that it need not be brought to the host.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "arbiter/runtime/group.hpp"
// Pasted into the kernel, too, so it has no include guard of its own.
#include "compare.h"

namespace arbiter::tuning {

using arbiter_abi::ComparedRange;

/// Counts. A range is right only where all of its bytes are equal: what has miscounted, or has done nothing, costs a
/// comparison on the host and no more.
class DeviceComparison {
 public:
  virtual ~DeviceComparison() = default;
  /// How many bytes of each range are as expected, bit for bit. Waits for the stream; allocates nothing.
  virtual std::vector<std::uint64_t> equal_bytes(std::span<const ComparedRange>, StreamHandle) = 0;
};

/// Collective. Null, on every rank, where the kernel cannot be compiled: then the host compares everything.
/// The group must outlive it.
std::unique_ptr<DeviceComparison> make_device_comparison(Group&);

}  // namespace arbiter::tuning
