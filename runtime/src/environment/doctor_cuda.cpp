#include "environment/doctor_cuda.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <functional>
#include <thread>

#include "arbiter/bootstrap.hpp"
#include "arbiter/error.hpp"
#include "arbiter/generator/joined.hpp"
#include "arbiter/runtime/symmetric_memory.hpp"
#include "cuda/device.hpp"
#include "cuda/nvml.hpp"
#include "group/topology.hpp"
#include "memory/multicast_probe.hpp"

namespace arbiter {
namespace {

constexpr std::chrono::seconds probe_deadline{20};

std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

Capability probe_driver(const Nvml* nvml, const std::string& nvml_reason) {
  Capability driver{"driver", false, "", ""};
  int version = 0;
  if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0) {
    cudaGetLastError();
    driver.reason = cuda_missing();
    if (driver.reason.empty()) driver.reason = "the driver does not tell its version";
    return driver;
  }
  driver.value = "CUDA " + version_text(version);
  if (nvml != nullptr) driver.value = nvml->driver_version().value_or("unknown version") + ", " + driver.value;
  try {
    CudaDriver::load();
    driver.ok = true;
  } catch (const Error& error) {
    driver.reason = error.what();
  }
  if (driver.ok && nvml == nullptr) driver.value += " (no clocks and power limits: " + nvml_reason + ")";
  return driver;
}

Capability describe_device(int ordinal) {
  Capability device{fmt::format("cuda_device_{}", ordinal), false, "", ""};
  try {
    const std::unique_ptr<Device> opened = make_cuda_device(ordinal);
    const DeviceProperties& properties = opened->properties();
    device.value =
        fmt::format("{}, SM {}.{}, {} SMs, {} MiB, compiles for {}, {}", properties.name,
                    properties.compute_capability / 10, properties.compute_capability % 10, properties.sm_count,
                    properties.memory_bytes >> 20U, properties.compile_target, properties.unique_id);
    device.ok = properties.compute_capability >= 80;
    if (!device.ok) device.reason = "Arbiter's kernels need SM 8.0 (A100) or newer";
  } catch (const std::exception& error) {
    device.reason = error.what();
  }
  return device;
}

// A matrix as text: row i tells which GPUs device i can reach.
Capability probe_peers(int count) {
  Capability peers{"peer_access", true, "", ""};
  if (count < 2) {
    peers.ok = false;
    peers.reason = count == 0 ? "there is no CUDA device" : "there is only one GPU; allreduce needs at least 2";
    return peers;
  }
  std::vector<std::string> rows, missing;
  for (int from = 0; from < count; ++from) {
    std::string& row = rows.emplace_back();
    for (int to = 0; to < count; ++to) {
      int possible = from == to ? 1 : 0;
      if (from != to && cudaDeviceCanAccessPeer(&possible, from, to) != cudaSuccess) {
        cudaGetLastError();
        possible = 0;
      }
      row += possible != 0 ? '1' : '0';
      if (possible == 0) missing.push_back(fmt::format("{}->{}", from, to));
    }
  }
  peers.value = joined(rows, " / ");
  if (!missing.empty()) {
    peers.ok = false;
    peers.reason = fmt::format("no peer access for {}; check the topology (nvidia-smi topo -p2p r), the IOMMU and ACS",
                               joined(missing, ", "));
  }
  return peers;
}

Capability probe_topology(const Nvml* nvml, int count) {
  Capability topology{"topology", false, "", ""};
  if (count == 0) {
    topology.reason = "there is no CUDA device";
    return topology;
  }
  std::vector<std::string> classes;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    classes.push_back(gpu_link_class(nvml, ordinal, make_cuda_device(ordinal)->properties().unique_id));
  }
  topology.value = weakest_link_class(classes);
  topology.ok = topology.value.starts_with("nvlink");
  if (!topology.ok) {
    topology.reason = topology.value == "unknown" ? "neither NVML nor a second visible GPU tells how this GPU is linked"
                                                  : "the GPUs talk over PCIe: kernels work, but far below NVLink speed";
  }
  return topology;
}

}  // namespace

std::vector<Capability> probe_cuda() {
  std::string nvml_reason;
  const std::unique_ptr<Nvml> nvml = Nvml::open(&nvml_reason);
  const int count = cuda_device_count();
  std::vector<Capability> found{probe_driver(nvml.get(), nvml_reason)};
  Capability devices{"cuda_devices", count > 0, std::to_string(count), count > 0 ? "" : cuda_missing()};
  if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES")) {
    devices.value += std::string(" (CUDA_VISIBLE_DEVICES=") + visible + ")";
  }
  found.push_back(devices);
  for (int ordinal = 0; ordinal < count; ++ordinal) found.push_back(describe_device(ordinal));
  found.push_back(probe_peers(count));
  found.push_back(probe_topology(nvml.get(), count));
  return found;
}

namespace {

// Ranks as threads, `count` GPUs shared among them. What each rank threw; empty for one that came back.
std::vector<std::string> on_gpus(int ranks, int count, const std::function<void(int, Device&, Bootstrap&)>& body) {
  std::vector<std::unique_ptr<Bootstrap>> bootstraps = make_in_process_bootstraps(ranks, probe_deadline);
  std::vector<std::string> failures(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      const auto index = static_cast<std::size_t>(rank);
      // Taken along, so that a rank that gives up releases its peers at once.
      const std::unique_ptr<Bootstrap> bootstrap = std::move(bootstraps[index]);
      try {
        const std::unique_ptr<Device> device = make_cuda_device(rank % count);
        body(rank, *device, *bootstrap);
      } catch (const std::exception& error) {
        failures[index] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return failures;
}

// Only when it is allowed: this creates a multicast object.
std::string try_multicast(int count, const std::filesystem::path& cache_directory) {
  if (count < 2) return "there is only one GPU";
  std::vector<std::string> reasons(static_cast<std::size_t>(count));
  const std::vector<std::string> failures = on_gpus(count, count, [&](int rank, Device& device, Bootstrap& bootstrap) {
    CacheOptions options;
    options.directory = cache_directory;
    KernelCache cache(options);
    reasons[static_cast<std::size_t>(rank)] = probe_multicast(device, bootstrap, SymmetricProvider::vmm, cache);
  });
  for (std::size_t rank = 0; rank < failures.size(); ++rank) {
    if (!failures[rank].empty()) return fmt::format("rank {}: {}", rank, failures[rank]);
  }
  return reasons.front();
}

}  // namespace

std::vector<Capability> probe_symmetric_providers() {
  std::vector<Capability> found;
  for (const SymmetricProvider provider : {SymmetricProvider::vmm, SymmetricProvider::cuda_ipc}) {
    found.push_back({"symmetric_memory_" + std::string(to_string(provider)), false, "", ""});
  }
  const int count = std::min(cuda_device_count(), max_world);
  if (count == 0) {
    for (Capability& capability : found) capability.reason = "there is no CUDA device";
    return found;
  }
  // A single GPU is shared by two ranks: the mapping is then still proven.
  const int ranks = std::max(count, 2);
  std::vector<std::vector<ProviderProbe>> probes(static_cast<std::size_t>(ranks));
  const std::vector<std::string> failures = on_gpus(ranks, count, [&](int rank, Device& device, Bootstrap& bootstrap) {
    probes[static_cast<std::size_t>(rank)] = probe_symmetric_memory(device, bootstrap);
  });

  for (std::size_t i = 0; i < found.size(); ++i) {
    for (std::size_t rank = 0; rank < probes.size() && found[i].reason.empty(); ++rank) {
      if (!failures[rank].empty()) {
        found[i].reason = fmt::format("rank {}: {}", rank, failures[rank]);
      } else if (i < probes[rank].size() && !probes[rank][i].usable) {
        found[i].reason = probes[rank][i].reason;
      }
    }
    found[i].ok = found[i].reason.empty();
    found[i].value = fmt::format("{} ranks on {} GPU(s)", ranks, count);
  }
  return found;
}

Capability probe_multicast(const EnvironmentVariables& variables) {
  Capability multicast{"multicast", false, "", ""};
  if (cuda_device_count() == 0) {
    multicast.reason = "there is no CUDA device";
    return multicast;
  }
  const CudaDriver driver = CudaDriver::load();
  bool supported = true;
  for (int ordinal = 0; ordinal < cuda_device_count(); ++ordinal) {
    int value = 0;
    cuda_check(driver, driver.device_get_attribute(&value, CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED, ordinal),
               "cuDeviceGetAttribute");
    supported = supported && value != 0;
  }
  multicast.value = supported ? "the devices support it" : "the devices do not support it";
  if (!supported) {
    multicast.reason = "it needs GPUs on an NVLink switch and a running fabric manager";
  } else if (!variables.multicast) {
    multicast.reason = "opt-in: set ARBITER_MULTICAST=on (and not NCCL_NVLS_ENABLE=0) to allow it; it was not tried";
  } else {
    multicast.reason = try_multicast(std::min(cuda_device_count(), max_world), variables.cache_dir);
    multicast.ok = multicast.reason.empty();
    if (multicast.ok) multicast.value += "; a store and a sum over all GPUs have worked";
  }
  return multicast;
}

}  // namespace arbiter
