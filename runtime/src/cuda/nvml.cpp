#include "cuda/nvml.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace arbiter {
namespace {

// Names and numbers of nvml.h.
using NvmlDevice = struct nvmlDevice_st*;
constexpr int nvml_success = 0;
constexpr int nvml_invalid_argument = 2;
constexpr int clock_sm = 1;
constexpr int clock_memory = 2;
constexpr unsigned most_links = 64;  // the real limit is 18 on Hopper and grows
constexpr int fabric_registered = 3;

/// nvmlGpuFabricInfo_t.
struct FabricInfo {
  std::array<unsigned char, 16> cluster{};
  int status = 0;
  unsigned clique = 0;
  unsigned char state = 0;
};

constexpr int remote_gpu = 0;
constexpr int remote_bridge_chip = 1;
constexpr int remote_switch = 2;

}  // namespace

struct Nvml::Functions {
  void* library = nullptr;
  int (*init)() = nullptr;
  const char* (*error_string)(int) = nullptr;
  int (*device_by_uuid)(const char*, NvmlDevice*) = nullptr;
  int (*device_count)(unsigned*) = nullptr;
  int (*driver_version)(char*, unsigned) = nullptr;
  int (*power_limit)(NvmlDevice, unsigned*) = nullptr;
  int (*power_usage)(NvmlDevice, unsigned*) = nullptr;
  int (*clock)(NvmlDevice, int, unsigned*) = nullptr;
  int (*max_clock)(NvmlDevice, int, unsigned*) = nullptr;
  int (*link_state)(NvmlDevice, unsigned, int*) = nullptr;
  int (*link_remote)(NvmlDevice, unsigned, int*) = nullptr;
  int (*fabric_info)(NvmlDevice, FabricInfo*) = nullptr;

  Functions() = default;
  Functions(const Functions&) = delete;
  Functions& operator=(const Functions&) = delete;

  template <typename Function>
  void load(Function& slot, const char* symbol) {
    slot = reinterpret_cast<Function>(dlsym(library, symbol));
  }

  NvmlDevice device(const std::string& gpu) const {
    NvmlDevice found = nullptr;
    if (device_by_uuid == nullptr || device_by_uuid(gpu.c_str(), &found) != nvml_success) return nullptr;
    return found;
  }
};

Nvml::Nvml(std::unique_ptr<Functions> functions) : functions_(std::move(functions)) {}
// NVML stays loaded and initialised until the process ends: it counts its users, and with driver 580 every cycle of
// loading, nvmlInit and nvmlShutdown left a descriptor open, one for each communicator that a process created.
Nvml::~Nvml() = default;

std::unique_ptr<Nvml> Nvml::open(std::string* reason) {
  const auto fail = [reason](std::string why) {
    if (reason != nullptr) *reason = std::move(why);
    return nullptr;
  };
  auto functions = std::make_unique<Functions>();
  functions->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (functions->library == nullptr) {
    const char* text = dlerror();
    return fail(std::string("NVML cannot be opened: ") + (text == nullptr ? "libnvidia-ml.so.1" : text) +
                "; it comes with the NVIDIA driver");
  }
  functions->load(functions->init, "nvmlInit_v2");
  functions->load(functions->error_string, "nvmlErrorString");
  functions->load(functions->device_by_uuid, "nvmlDeviceGetHandleByUUID");
  functions->load(functions->device_count, "nvmlDeviceGetCount_v2");
  functions->load(functions->driver_version, "nvmlSystemGetDriverVersion");
  functions->load(functions->power_limit, "nvmlDeviceGetEnforcedPowerLimit");
  functions->load(functions->power_usage, "nvmlDeviceGetPowerUsage");
  functions->load(functions->clock, "nvmlDeviceGetClockInfo");
  functions->load(functions->max_clock, "nvmlDeviceGetMaxClockInfo");
  functions->load(functions->link_state, "nvmlDeviceGetNvLinkState");
  functions->load(functions->link_remote, "nvmlDeviceGetNvLinkRemoteDeviceType");
  functions->load(functions->fabric_info, "nvmlDeviceGetGpuFabricInfo");
  if (functions->init == nullptr) return fail("libnvidia-ml.so.1 has no nvmlInit_v2");
  if (const int result = functions->init(); result != nvml_success) {
    return fail(std::string("nvmlInit failed: ") +
                (functions->error_string != nullptr ? functions->error_string(result) : std::to_string(result)));
  }
  return std::unique_ptr<Nvml>(new Nvml(std::move(functions)));
}

namespace {

std::optional<int> milliwatts(int (*query)(NvmlDevice, unsigned*), NvmlDevice device) {
  unsigned value = 0;
  if (query == nullptr || device == nullptr || query(device, &value) != nvml_success) return std::nullopt;
  return static_cast<int>((value + 500) / 1000);
}

std::optional<int> megahertz(int (*query)(NvmlDevice, int, unsigned*), NvmlDevice device, int clock) {
  unsigned value = 0;
  if (query == nullptr || device == nullptr || query(device, clock, &value) != nvml_success) return std::nullopt;
  return static_cast<int>(value);
}

}  // namespace

std::optional<int> Nvml::power_limit_watts(const std::string& gpu) const {
  return milliwatts(functions_->power_limit, functions_->device(gpu));
}
std::optional<int> Nvml::power_watts(const std::string& gpu) const {
  return milliwatts(functions_->power_usage, functions_->device(gpu));
}
std::optional<int> Nvml::sm_clock_mhz(const std::string& gpu) const {
  return megahertz(functions_->clock, functions_->device(gpu), clock_sm);
}
std::optional<int> Nvml::memory_clock_mhz(const std::string& gpu) const {
  return megahertz(functions_->clock, functions_->device(gpu), clock_memory);
}
std::optional<int> Nvml::max_memory_clock_mhz(const std::string& gpu) const {
  return megahertz(functions_->max_clock, functions_->device(gpu), clock_memory);
}

std::optional<std::vector<LinkRemote>> Nvml::active_links(const std::string& gpu) const {
  NvmlDevice device = functions_->device(gpu);
  if (device == nullptr || functions_->link_state == nullptr) return std::nullopt;
  std::vector<LinkRemote> links;
  for (unsigned link = 0; link < most_links; ++link) {
    int active = 0;
    const int result = functions_->link_state(device, link, &active);
    if (result == nvml_invalid_argument) break;  // past the last link
    if (result != nvml_success || active == 0) continue;
    int remote = -1;
    if (functions_->link_remote == nullptr || functions_->link_remote(device, link, &remote) != nvml_success)
      remote = -1;
    links.push_back(remote == remote_gpu           ? LinkRemote::gpu
                    : remote == remote_bridge_chip ? LinkRemote::bridge_chip
                    : remote == remote_switch      ? LinkRemote::nvswitch
                                                   : LinkRemote::unknown);
  }
  return links;
}

std::optional<std::string> Nvml::fabric_domain(const std::string& gpu) const {
  NvmlDevice device = functions_->device(gpu);
  FabricInfo info;
  if (device == nullptr || functions_->fabric_info == nullptr ||
      functions_->fabric_info(device, &info) != nvml_success || info.state != fabric_registered ||
      info.status != nvml_success) {
    return std::nullopt;
  }
  // A switch that serves one node registers its GPUs too, in a cluster without a name.
  if (std::all_of(info.cluster.begin(), info.cluster.end(), [](unsigned char c) { return c == 0; })) {
    return std::nullopt;
  }
  static constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  for (const unsigned char c : info.cluster) {
    text += digits[c >> 4U];
    text += digits[c & 15U];
  }
  return fmt::format("{}/{}", text, info.clique);
}

std::optional<std::string> Nvml::driver_version() const {
  std::array<char, 96> text{};
  if (functions_->driver_version == nullptr ||
      functions_->driver_version(text.data(), static_cast<unsigned>(text.size())) != nvml_success) {
    return std::nullopt;
  }
  return std::string(text.data());
}

std::optional<int> Nvml::device_count() const {
  unsigned count = 0;
  if (functions_->device_count == nullptr || functions_->device_count(&count) != nvml_success) return std::nullopt;
  return static_cast<int>(count);
}

std::string link_class(const std::vector<LinkRemote>& links) {
  if (links.empty()) return "pcie";
  const auto leads_to = [&](LinkRemote remote) { return std::find(links.begin(), links.end(), remote) != links.end(); };
  if (leads_to(LinkRemote::gpu) || leads_to(LinkRemote::bridge_chip)) return "nvlink_bridge";
  // Drivers in virtual machines may hide the far end. Data-centre boards then have a switch: bridges are only found on
  // PCIe cards, whose far ends are GPUs that the driver does name.
  return "nvlink_switch";
}

std::string weakest_link_class(const std::vector<std::string>& classes) {
  for (const char* weak : {"pcie", "nvlink_bridge"}) {
    if (std::find(classes.begin(), classes.end(), weak) != classes.end()) return weak;
  }
  return classes.empty() ? "single" : classes.front();
}

}  // namespace arbiter
