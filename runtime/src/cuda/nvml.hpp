// NVML, opened with dlopen: power limits, clocks, driver version and NVLink attributes.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace arbiter {

/// What an NVLink of a GPU leads to.
enum class LinkRemote { gpu, bridge_chip, nvswitch, unknown };

class Nvml {
 public:
  /// Null without NVML, or when it cannot be initialised; `reason`, if given, receives why. Never throws.
  static std::unique_ptr<Nvml> open(std::string* reason = nullptr);
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  // All by the GPU's unique id ("GPU-..."), because NVML and CUDA number devices differently. Empty when the driver or
  // the container does not tell.
  std::optional<int> power_limit_watts(const std::string& gpu) const;
  std::optional<int> power_watts(const std::string& gpu) const;
  std::optional<int> sm_clock_mhz(const std::string& gpu) const;
  std::optional<int> memory_clock_mhz(const std::string& gpu) const;
  std::optional<int> max_memory_clock_mhz(const std::string& gpu) const;
  /// The far ends of all active links; empty vector: no active links.
  std::optional<std::vector<LinkRemote>> active_links(const std::string& gpu) const;
  /// The NVLink domain that reaches beyond the node, as text that is equal on its GPUs; empty optional: there is none.
  std::optional<std::string> fabric_domain(const std::string& gpu) const;
  std::optional<std::string> driver_version() const;
  std::optional<int> device_count() const;  ///< of the machine or container, whatever CUDA_VISIBLE_DEVICES says

 private:
  struct Functions;
  explicit Nvml(std::unique_ptr<Functions>);
  std::unique_ptr<Functions> functions_;
};

/// "nvlink_switch", "nvlink_bridge" or "pcie", from the far ends of a GPU's active links.
std::string link_class(const std::vector<LinkRemote>& links);

/// The weakest of several GPUs' classes: one GPU on PCIe makes the whole group "pcie".
std::string weakest_link_class(const std::vector<std::string>& classes);

}  // namespace arbiter
