#include "verify/device_comparison.hpp"

#include <algorithm>
#include <cstring>

#include "arbiter/error.hpp"
#include "candidate/helper_kernel.hpp"
#include "group/collective.hpp"
#include "verify/tensors.hpp"

namespace arbiter::tuning {
namespace {

using arbiter_abi::Comparison;
using arbiter_abi::max_compared_ranges;

static_assert(sizeof(Comparison) <= 4096, "arguments of a kernel");

constexpr std::size_t sums_bytes = max_compared_ranges * sizeof(std::uint64_t);
/// Fibers are slower than one thread of the host each: as few as still share the work.
constexpr unsigned cuda_threads = 512, cpu_threads = 32;

class KernelComparison : public DeviceComparison {
 public:
  explicit KernelComparison(Group& group)
      : device_(group.device()), sums_(group.device(), sums_bytes), host_(group.device(), sums_bytes) {
    // The same source for every rank and every number of ranks.
    kernel_ = load_helper_kernel(device_, group.cache(), "compare", "comparison of results", 0, 1);
    shape_.threads = device_.kind() == DeviceKind::cuda ? cuda_threads : cpu_threads;
    resident_ = static_cast<std::uint64_t>(std::max(device_.resident_blocks(*kernel_, shape_), 1));
  }

  std::vector<std::uint64_t> equal_bytes(std::span<const ComparedRange> ranges, StreamHandle stream) override {
    std::vector<std::uint64_t> sums;
    sums.reserve(ranges.size());
    while (!ranges.empty()) {
      const auto now = ranges.first(std::min<std::size_t>(ranges.size(), max_compared_ranges));
      launch(now, stream);
      for (std::size_t i = 0; i < now.size(); ++i) {
        sums.emplace_back();
        std::memcpy(&sums.back(), host_.data() + i * sizeof(std::uint64_t), sizeof(std::uint64_t));
      }
      ranges = ranges.subspan(now.size());
    }
    return sums;
  }

 private:
  void launch(std::span<const ComparedRange> ranges, StreamHandle stream) {
    Comparison comparison{};
    comparison.equal = static_cast<unsigned long long*>(sums_.data());
    comparison.ranges = static_cast<unsigned>(ranges.size());
    comparison.threads = shape_.threads;
    std::uint64_t vectors = 0;
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      comparison.range[i] = ranges[i];
      vectors += ranges[i].bytes / vector_bytes + 1;
    }
    shape_.blocks = static_cast<unsigned>(std::min(resident_, (vectors - 1) / shape_.threads + 1));
    std::memset(host_.data(), 0, sums_bytes);  // a copy that never came counts nothing
    device_.fill_words(sums_.data(), 0, sums_bytes / sizeof(std::uint32_t), stream);
    device_.launch(*kernel_, shape_, &comparison, sizeof(comparison), stream);
    device_.copy(host_.data(), sums_.data(), ranges.size() * sizeof(std::uint64_t), stream);
    device_.synchronize(stream);
  }

  Device& device_;
  DeviceMemory sums_;
  HostBuffer host_;
  std::unique_ptr<Kernel> kernel_;
  Launch shape_;
  std::uint64_t resident_ = 1;
};

}  // namespace

std::unique_ptr<DeviceComparison> make_device_comparison(Group& group) {
  std::unique_ptr<DeviceComparison> comparison;
  try {
    everywhere(group.bootstrap(), "compile the kernel that compares",
               [&] { comparison = std::make_unique<KernelComparison>(group); });
  } catch (const CompileError&) {
    return nullptr;
  } catch (const Unavailable&) {
    return nullptr;
  }
  return comparison;
}

}  // namespace arbiter::tuning
