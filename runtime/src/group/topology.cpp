#include "group/topology.hpp"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "arbiter/device.hpp"
#include "arbiter/generator/joined.hpp"

namespace arbiter {
namespace {

bool native_atomics(int from, int to) {
  int value = 0;
  if (cudaDeviceGetP2PAttribute(&value, cudaDevP2PAttrNativeAtomicSupported, from, to) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return value != 0;
}

}  // namespace

std::string gpu_link_class(const Nvml* nvml, int ordinal, const std::string& gpu) {
  bool told = false;
  if (nvml != nullptr) {
    const auto links = nvml->active_links(gpu);
    told = links.has_value();
    if (told && !links->empty()) return link_class(*links);
  }
  const int count = cuda_device_count();
  if (count < 2) return told ? "pcie" : "unknown";
  for (int other = 0; other < count; ++other) {
    if (other != ordinal && !native_atomics(ordinal, other)) return "pcie";
  }
  return "nvlink_switch";
}

std::string nvlink_domain_shape(const std::vector<DomainMember>& members) {
  std::map<std::string, std::set<std::string>> hosts;
  for (const DomainMember& member : members) hosts[member.domain].insert(member.host);
  std::vector<std::size_t> spans;
  for (const auto& [domain, names] : hosts) spans.push_back(names.size());
  std::sort(spans.begin(), spans.end(), std::greater<>());
  return spans.empty() ? "none" : joined(spans, "+");
}

bool all_pairs_nvlink(const std::vector<int>& ordinals) {
  for (const int from : ordinals) {
    for (const int to : ordinals) {
      if (from != to && !native_atomics(from, to)) return false;
    }
  }
  return true;
}

}  // namespace arbiter
