#include "arbiter/runtime/fingerprint.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "arbiter/communicator.hpp"
#include "arbiter/db/fields.hpp"
#include "arbiter/error.hpp"
#include "arbiter/generator/compile.hpp"
#include "arbiter/generator/joined.hpp"
#include "arbiter/runtime/nccl.hpp"
#include "cuda/nvml.hpp"
#include "environment/process_identity.hpp"
#include "group/collective.hpp"
#include "group/topology.hpp"
#include "nccl/tuner_plugin.hpp"

namespace arbiter {
namespace {

// Only what changes the path or the shape of NCCL's work. Logging, interface names and host lists are left out: they
// differ from run to run and would make every measurement look foreign.
constexpr std::array behaviour_variables = {
    "NCCL_ALGO",
    "NCCL_BUFFSIZE",
    "NCCL_CGA_CLUSTER_SIZE",
    "NCCL_CHUNK_SIZE",
    "NCCL_COLLNET_ENABLE",
    "NCCL_CONF_FILE",
    "NCCL_CROSS_NIC",
    "NCCL_CTA_POLICY",
    "NCCL_CUMEM_ENABLE",
    "NCCL_CUMEM_HOST_ENABLE",
    "NCCL_DMABUF_ENABLE",
    "NCCL_ENV_PLUGIN",
    "NCCL_GRAPH_FILE",
    "NCCL_GRAPH_MIXING_SUPPORT",
    "NCCL_GRAPH_REGISTER",
    "NCCL_IB_ADAPTIVE_ROUTING",
    "NCCL_IB_AR_THRESHOLD",
    "NCCL_IB_DISABLE",
    "NCCL_IB_PCI_RELAXED_ORDERING",
    "NCCL_IB_QPS_PER_CONNECTION",
    "NCCL_IB_SPLIT_DATA_ON_QPS",
    "NCCL_IGNORE_DISABLED_P2P",
    "NCCL_L1_SHARED_MEMORY_CARVEOUT",
    "NCCL_LAUNCH_MODE",
    "NCCL_LEGACY_CUDA_REGISTER",
    "NCCL_LL128_BUFFSIZE",
    "NCCL_LL128_C2C",
    "NCCL_LL128_NTHREADS",
    "NCCL_LL_BUFFSIZE",
    "NCCL_LOCAL_REGISTER",
    "NCCL_MAX_CTAS",
    "NCCL_MAX_NCHANNELS",
    "NCCL_MAX_NRINGS",
    "NCCL_MEM_SYNC_DOMAIN",
    "NCCL_MIN_CTAS",
    "NCCL_MIN_NCHANNELS",
    "NCCL_MIN_NRINGS",
    "NCCL_MNNVL_CLIQUE_ID",
    "NCCL_MNNVL_ENABLE",
    "NCCL_MNNVL_RAIL_PER_HOST",
    "NCCL_MNNVL_UUID",
    "NCCL_NCHANNELS_PER_NET_PEER",
    "NCCL_NET",
    "NCCL_NETDEVS_POLICY",
    "NCCL_NET_DISABLE_INTRA",
    "NCCL_NET_FORCE_MERGE",
    "NCCL_NET_GDR_C2C",
    "NCCL_NET_GDR_LEVEL",
    "NCCL_NET_GDR_READ",
    "NCCL_NET_MERGE_LEVEL",
    "NCCL_NET_PLUGIN",
    "NCCL_NET_SHARED_BUFFERS",
    "NCCL_NET_SHARED_COMMS",
    "NCCL_NSOCKS_PERTHREAD",
    "NCCL_NTHREADS",
    "NCCL_NVB_DISABLE",
    "NCCL_NVLINK_UTIL_CENTRIC_SCHED_ENABLE",
    "NCCL_NVLSTREE_MAX_CHUNKSIZE",
    "NCCL_NVLS_CHUNKSIZE",
    "NCCL_NVLS_ENABLE",
    "NCCL_NVLS_NCHANNELS",
    "NCCL_P2P_DIRECT_DISABLE",
    "NCCL_P2P_DISABLE",
    "NCCL_P2P_LEVEL",
    "NCCL_P2P_READ_ENABLE",
    "NCCL_P2P_USE_CUDA_MEMCPY",
    "NCCL_PROTO",
    "NCCL_PXN_C2C",
    "NCCL_PXN_DISABLE",
    "NCCL_SHM_DISABLE",
    "NCCL_SHM_LOCALITY",
    "NCCL_SHM_MEMCPY_MODE",
    "NCCL_SHM_USE_CUDA_MEMCPY",
    "NCCL_SINGLE_PROC_MEM_REG_ENABLE",
    "NCCL_SOCKET_NTHREADS",
    "NCCL_SYM_CTAS",
    "NCCL_SYM_KERNEL",
    "NCCL_THREAD_THRESHOLDS",
    "NCCL_TOPO_FILE",
    "NCCL_TUNER_CONFIG_FILE",
    "NCCL_TUNER_PLUGIN",
    "NCCL_UNPACK_DOUBLE_NCHANNELS",
    "NCCL_WIN_ENABLE",
    "NCCL_WORK_FIFO_BYTES",
};

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (!line.starts_with("model name") && !line.starts_with("Model")) continue;
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::size_t begin = line.find_first_not_of(" \t", colon + 1);
    if (begin != std::string::npos) return line.substr(begin);
  }
  return "unknown processor";
}

std::string cuda_version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

std::string host_compiler_identity() {
  try {
    return make_host_compiler()->identity();
  } catch (const Error&) {
    return {};
  }
}

std::string driver_version(const Nvml* nvml) {
  if (nvml != nullptr) {
    if (std::optional<std::string> version = nvml->driver_version()) return *version;
  }
  int version = 0;
  if (cudaDriverGetVersion(&version) != cudaSuccess) {
    cudaGetLastError();
    return {};
  }
  return "CUDA " + cuda_version_text(version);  // all that is known without NVML
}

// What this rank sees by itself, before the ranks compare.
// `nvlink_domains` is the name of its own domain until then; empty: that of its node.
Environment local_view(Device& device) {
  const DeviceProperties& properties = device.properties();
  Environment here;
  here.device = to_string(device.kind());
  here.sm_count = properties.sm_count;
  here.compute_capability = properties.compute_capability;
  here.arbiter_version = version();
  if (device.kind() == DeviceKind::cpu) {
    here.gpu_name = processor_name();
    here.compiler_version = host_compiler_identity();
    here.ranks_per_node = static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
    return here;
  }
  here.gpu_name = properties.name;
  const std::unique_ptr<Nvml> nvml = Nvml::open();
  if (nvml) {
    here.memory_clock_mhz = nvml->max_memory_clock_mhz(properties.unique_id).value_or(0);
    here.power_limit_watts = nvml->power_limit_watts(properties.unique_id).value_or(0);
  }
  if (here.memory_clock_mhz == 0) {
    int kilohertz = 0;
    if (cudaDeviceGetAttribute(&kilohertz, cudaDevAttrMemoryClockRate, properties.ordinal) == cudaSuccess) {
      here.memory_clock_mhz = kilohertz / 1000;
    }
    cudaGetLastError();
  }
  here.driver_version = driver_version(nvml.get());
  int runtime = 0;
  if (cudaRuntimeGetVersion(&runtime) == cudaSuccess) here.cuda_runtime = cuda_version_text(runtime);
  // What stands in brackets is why there is none.
  if (const std::string version = nvrtc_version(); !version.starts_with("(")) here.compiler_version = version;
  here.nccl_version = nccl_version();
  here.nccl_variables = nccl_variables();
  here.topology = gpu_link_class(nvml.get(), properties.ordinal, properties.unique_id);
  if (nvml && here.topology.starts_with("nvlink")) {
    here.nvlink_domains = nvml->fabric_domain(properties.unique_id).value_or("");
  }
  here.ranks_per_node = nvml ? nvml->device_count().value_or(cuda_device_count()) : cuda_device_count();
  return here;
}

// Of the whole group. Bridges often join pairs only: then two GPUs without a common bridge go over PCIe.
std::string group_topology(const std::vector<std::string>& classes, const std::vector<std::string>& gpus) {
  if (classes.size() < 2) return "single";
  std::string topology = weakest_link_class(classes);
  if (topology != "nvlink_bridge") return topology;
  std::vector<int> ordinals;
  for (int ordinal = 0; ordinal < cuda_device_count(); ++ordinal) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, ordinal) != cudaSuccess) continue;
    const std::string uuid(properties.uuid.bytes, sizeof(properties.uuid.bytes));
    if (std::find(gpus.begin(), gpus.end(), uuid) != gpus.end()) ordinals.push_back(ordinal);
  }
  return all_pairs_nvlink(ordinals) ? topology : "pcie";
}

std::string raw_uuid(Device& device) {
  if (device.kind() != DeviceKind::cuda) return {};
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, device.properties().ordinal) != cudaSuccess) {
    cudaGetLastError();
    return {};
  }
  return {properties.uuid.bytes, sizeof(properties.uuid.bytes)};
}

// A field as one element of a packed message between ranks, and back.
std::string packed(const std::string& field) { return field; }
std::string packed(int field) { return std::to_string(field); }
std::string packed(bool field) { return field ? "1" : "0"; }
std::string packed(const std::map<std::string, std::string>& field) {
  std::vector<std::string> all;
  for (const auto& [name, value] : field) all.insert(all.end(), {name, value});
  return pack(all);
}
void unpacked(const std::string& text, std::string& field) { field = text; }
void unpacked(const std::string& text, int& field) { field = std::stoi(text); }
void unpacked(const std::string& text, bool& field) { field = text == "1"; }
void unpacked(const std::string& text, std::map<std::string, std::string>& field) {
  const std::vector<std::string> all = unpack(text);
  for (std::size_t i = 0; i + 1 < all.size(); i += 2) field[all[i]] = all[i + 1];
}

std::string to_text(const Environment& environment) {
  std::vector<std::string> fields;
  for_each_field(environment, [&](const char*, const auto& field) { fields.push_back(packed(field)); });
  return pack(fields);
}

Environment from_text(const std::string& text) {
  const std::vector<std::string> fields = unpack(text);
  std::size_t next = 0;
  Environment environment;
  for_each_field(environment, [&](const char*, auto& field) { unpacked(fields.at(next++), field); });
  return environment;
}

}  // namespace

std::map<std::string, std::string> nccl_variables() {
  std::map<std::string, std::string> found;
  for (const char* name : behaviour_variables) {
    const char* value = std::getenv(name);
    // Our own plugin leaves the runtime's calls to NCCL unless the runtime asks for more.
    if (value == nullptr || (name == std::string_view("NCCL_TUNER_PLUGIN") && is_own_nccl_tuner(value))) continue;
    found[name] = value;
  }
  return found;
}

Environment fingerprint(Device& device, Bootstrap& bootstrap, const std::string& provider,
                        const std::string& catalogue_hash) {
  Environment here;
  std::string host;
  everywhere(bootstrap, "describe its environment", [&] {
    here = local_view(device);
    host = process_identity().host;
    if (host.empty()) host = fmt::format("unknown host of rank {}", bootstrap.rank());
  });
  require_equal(bootstrap, "describing the environment",
                {{"device", here.device},
                 {"driver_version", here.driver_version},
                 {"symmetric_memory", provider},
                 {"catalogue_hash", catalogue_hash}});

  const std::vector<std::string> all = bootstrap.allgather(
      pack({host, here.topology, raw_uuid(device), std::to_string(here.ranks_per_node), here.nvlink_domains,
            here.gpu_name, std::to_string(here.sm_count), std::to_string(here.compute_capability)}));
  std::set<std::string> names;
  std::set<std::string> hosts;
  std::vector<std::string> classes;
  std::vector<std::string> gpus;
  std::vector<DomainMember> members;
  for (const std::string& text : all) {
    const std::vector<std::string> fields = unpack(text);
    hosts.insert(fields.at(0));
    classes.push_back(fields.at(1));
    gpus.push_back(fields.at(2));
    here.ranks_per_node = std::max(here.ranks_per_node, std::stoi(fields.at(3)));
    names.insert(fields.at(5));
    here.sm_count = std::min(here.sm_count, std::stoi(fields.at(6)));
    here.compute_capability = std::min(here.compute_capability, std::stoi(fields.at(7)));
    if (fields.at(1).starts_with("nvlink")) {
      members.push_back({fields.at(4).empty() ? "node " + fields.at(0) : fields.at(4), fields.at(0)});
    }
  }
  here.nodes = static_cast<int>(hosts.size());
  // GPUs of several kinds are an environment of their own: what was measured on one kind does not hold for it.
  here.gpu_name = joined(names, " + ");
  here.symmetric_memory = provider;
  here.catalogue_hash = catalogue_hash;
  if (device.kind() == DeviceKind::cpu) {
    here.topology = bootstrap.size() > 1 ? "shared_memory" : "single";
  } else {
    here.topology = group_topology(classes, gpus);
  }
  here.nvlink_domains = here.topology == "pcie" ? "none" : nvlink_domain_shape(members);
  return from_text(bootstrap.broadcast(to_text(here), 0));
}

ClockSample sample_clocks(Device& device) noexcept {
  ClockSample sample;
  try {
    if (device.kind() != DeviceKind::cuda) return sample;
    const std::unique_ptr<Nvml> nvml = Nvml::open();
    if (!nvml) return sample;
    const std::string& gpu = device.properties().unique_id;
    sample.sm_clock_mhz = nvml->sm_clock_mhz(gpu).value_or(0);
    sample.memory_clock_mhz = nvml->memory_clock_mhz(gpu).value_or(0);
    sample.power_watts = nvml->power_watts(gpu).value_or(0);
  } catch (const std::exception&) {  // a record without clocks is better than none
  }
  return sample;
}

}  // namespace arbiter
