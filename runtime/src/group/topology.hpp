// How the GPUs of a group are linked, as a class that is comparable between machines.
#pragma once

#include <string>
#include <vector>

#include "cuda/nvml.hpp"

namespace arbiter {

/// Of one GPU, by its links (never by host names); `nvml` may be null. Without NVML, or where it does not tell: native
/// atomics between two GPUs exist over NVLink only, so a GPU that has them with every visible peer counts as
/// "nvlink_switch"; with nothing to go by, "unknown". Never throws.
std::string gpu_link_class(const Nvml* nvml, int ordinal, const std::string& gpu);

/// Do all pairs of these CUDA ordinals reach each other over NVLink? True for fewer than two.
bool all_pairs_nvlink(const std::vector<int>& ordinals);

/// Where a GPU stands: the NVLink domain that it belongs to by name (any text), and its host.
struct DomainMember {
  std::string domain;
  std::string host;
};

/// Environment::nvlink_domains of these GPUs: for every domain the number of hosts that it spans, largest first
/// ("2+1"). "none" if there are no members.
std::string nvlink_domain_shape(const std::vector<DomainMember>&);

}  // namespace arbiter
