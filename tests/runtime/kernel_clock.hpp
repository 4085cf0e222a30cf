// The clock of kernels on the CPU device, in the hands of a test.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "arbiter/vocabulary.hpp"
#include "cpu/device.hpp"

namespace arbiter::test {

/// It stands still, so that ranks may be as late as the machine likes and no deadline passes. While it goes on, because
/// a rank that a kernel waits for does not come, it is 60 ms later at each look.
class KernelClock {
 public:
  /// The kernels of this device, a CPU device, go by this clock from here on.
  void drive(Device& device, int rank) {
    dynamic_cast<CpuDevice&>(device).use_clock([this, looks = &looks_.at(static_cast<std::size_t>(rank))] {
      ++*looks;
      return goes_on_ ? ns_ += 60'000'000 : ns_.load();
    });
  }
  void go_on() { goes_on_ = true; }
  void stand() { goes_on_ = false; }
  /// How often the kernels of a rank have looked: more than before if one has had to wait since.
  std::uint64_t looks(int rank) const { return looks_.at(static_cast<std::size_t>(rank)); }

 private:
  std::atomic<bool> goes_on_ = false;
  std::atomic<std::uint64_t> ns_ = 1'000'000'000;
  std::array<std::atomic<std::uint64_t>, max_world> looks_ = {};
};

}  // namespace arbiter::test
