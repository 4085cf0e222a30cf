// May a decision measured there be used here?
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "arbiter/db/fields.hpp"
#include "arbiter/db/records.hpp"
#include "records/digest.hpp"

namespace arbiter {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// A version text taken apart: what stands before the first number, and the dotted numbers.
struct Version {
  std::string prefix;
  std::vector<std::string> parts;
};

Version take_apart(const std::string& text) {
  Version version;
  auto at = std::find_if(text.begin(), text.end(), is_digit);
  version.prefix.assign(text.begin(), at);
  while (at != text.end() && is_digit(*at)) {
    const auto end = std::find_if_not(at, text.end(), is_digit);
    version.parts.emplace_back(at, end);
    at = end;
    if (at != text.end() && *at == '.') ++at;
  }
  return version;
}

/// Equal up to the patch level: the first `significant` numbers are the same.
bool same_release(const std::string& here, const std::string& there, std::size_t significant) {
  const Version a = take_apart(here);
  const Version b = take_apart(there);
  if (a.prefix != b.prefix || a.parts.size() < significant || b.parts.size() < significant) return false;
  return std::equal(a.parts.begin(), a.parts.begin() + static_cast<std::ptrdiff_t>(significant), b.parts.begin());
}

std::string shown(const std::string& text) { return text.empty() ? "none" : text; }

/// How far apart two texts with numbers in them are: from 0 to 1, larger for a difference in an earlier number.
double apart(const std::string& here, const std::string& there) {
  const Version a = take_apart(here);
  const Version b = take_apart(there);
  if (a.prefix != b.prefix) return 1;
  double weight = 1;
  for (std::size_t i = 0; i < std::max(a.parts.size(), b.parts.size()); ++i, weight /= 4) {
    const double x = i < a.parts.size() ? std::strtod(a.parts[i].c_str(), nullptr) : 0;
    const double y = i < b.parts.size() ? std::strtod(b.parts[i].c_str(), nullptr) : 0;
    if (x != y) return weight * std::abs(x - y) / (std::abs(x - y) + 1);
  }
  return 0;
}

class Comparison {
 public:
  void exact(const char* field, const std::string& here, const std::string& measured) {
    if (here != measured) differ(field, here, measured, Compatibility::incompatible);
  }
  void exact(const char* field, int here, int measured) {
    exact(field, std::to_string(here), std::to_string(measured));
  }
  void release(const char* field, const std::string& here, const std::string& measured, std::size_t significant) {
    if (here == measured) return;
    differ(field, here, measured,
           same_release(here, measured, significant) ? Compatibility::compatible : Compatibility::incompatible);
  }
  /// Nothing can be said about a measurement from before the field was recorded.
  void exact_if_recorded(const char* field, const std::string& here, const std::string& measured) {
    exact_if_known(field, here, measured, "", "not recorded");
  }
  /// `unknown` is how the field says so; `shown_as` is what is said instead.
  void exact_if_known(const char* field, const std::string& here, const std::string& measured,
                      const std::string& unknown, const char* shown_as) {
    if (here == measured) return;
    if (here == unknown || measured == unknown) {
      differ(field, here == unknown ? shown_as : here, measured == unknown ? shown_as : measured,
             Compatibility::compatible);
    } else {
      differ(field, here, measured, Compatibility::incompatible);
    }
  }
  void tolerated(const char* field, const std::string& here, const std::string& measured) {
    if (here != measured) differ(field, here, measured, Compatibility::compatible);
  }
  CompatibilityReport report() { return std::move(report_); }

 private:
  void differ(const char* field, const std::string& here, const std::string& measured, Compatibility verdict) {
    report_.verdict = std::max(report_.verdict, verdict);
    report_.distance += 1 + apart(here, measured);
    report_.differences.push_back(std::string(field) + ": " + shown(here) + " here, " + shown(measured) + " measured");
  }
  CompatibilityReport report_{.verdict = Compatibility::equal, .differences = {}, .distance = 0};
};

/// `nccl_alone`: of a candidate that does not know of ARBITER_MAX_SMS, which is what makes fewer of a GPU's SMs.
void compare_hardware(Comparison& compare, const Environment& here, const Environment& measured,
                      bool nccl_alone = false) {
  compare.exact("device", here.device, measured.device);
  compare.exact("gpu_name", here.gpu_name, measured.gpu_name);
  if (nccl_alone && here.sm_count < measured.sm_count) {
    compare.tolerated("sm_count", std::to_string(here.sm_count), std::to_string(measured.sm_count));
  } else {
    compare.exact("sm_count", here.sm_count, measured.sm_count);
  }
  compare.exact("compute_capability", here.compute_capability, measured.compute_capability);
  // Without NVML, or in a container that hides it, some of this is not known; the GPU's name still is.
  compare.exact_if_known("memory_clock_mhz", std::to_string(here.memory_clock_mhz),
                         std::to_string(measured.memory_clock_mhz), "0", "unknown");
  compare.tolerated("power_limit_watts", std::to_string(here.power_limit_watts),
                    std::to_string(measured.power_limit_watts));
  compare.exact_if_known("topology", here.topology, measured.topology, "unknown", "unknown");
  compare.exact("nodes", here.nodes, measured.nodes);
  if (here.topology == "unknown" || measured.topology == "unknown") {  // the domains are those of known links
    compare.tolerated("nvlink_domains", here.nvlink_domains, measured.nvlink_domains);
  } else {
    compare.exact_if_recorded("nvlink_domains", here.nvlink_domains, measured.nvlink_domains);
  }
}

std::string usable(bool multicast) { return multicast ? "usable" : "not usable"; }

/// A driver release is its first number: 580.82 and 580.95 are one branch. Without NVML there is no such number.
void compare_driver(Comparison& compare, const Environment& here, const Environment& measured) {
  const auto known = [](const std::string& version) { return !version.empty() && !version.starts_with("CUDA "); };
  if (here.device == "cuda" && (!known(here.driver_version) || !known(measured.driver_version))) {
    compare.tolerated("driver_version", here.driver_version, measured.driver_version);
  } else {
    compare.release("driver_version", here.driver_version, measured.driver_version, 1);
  }
}

/// What a kernel's compiler may change are its registers and spills. Where they were recorded, they are compared when
/// the kernel is there. Where not, a minor release is taken to keep them, and said; a major one is not. Without a
/// compiler here, kernels come from the snapshot or the cache, as another machine compiled them.
void compare_compiler(Comparison& compare, const Environment& here, const Environment& measured,
                      const KernelUse& timed) {
  if (here.compiler_version.empty() || is_recorded(timed.registers)) {
    compare.tolerated("compiler_version", here.compiler_version, measured.compiler_version);
  } else {
    compare.release("compiler_version", here.compiler_version, measured.compiler_version, 1);
  }
}

void tolerate_software(Comparison& compare, const Environment& here, const Environment& measured) {
  compare.tolerated("driver_version", here.driver_version, measured.driver_version);
  compare.tolerated("cuda_runtime", here.cuda_runtime, measured.cuda_runtime);
  compare.tolerated("compiler_version", here.compiler_version, measured.compiler_version);
  compare.tolerated("nccl_version", here.nccl_version, measured.nccl_version);
  compare.tolerated("ranks_per_node", std::to_string(here.ranks_per_node), std::to_string(measured.ranks_per_node));
  compare.tolerated("symmetric_memory", here.symmetric_memory, measured.symmetric_memory);
  compare.tolerated("multicast", usable(here.multicast), usable(measured.multicast));
  compare.tolerated("nccl_variables", db::nccl_variables_text(here.nccl_variables),
                    db::nccl_variables_text(measured.nccl_variables));
}

}  // namespace

CompatibilityReport compatibility(const Environment& here, const Environment& measured, const Candidate& candidate,
                                  const KernelUse& timed) {
  Comparison compare;
  compare_hardware(compare, here, measured, candidate.backend == Backend::nccl && candidate.source_hash.empty());
  compare_driver(compare, here, measured);
  // Numbers that two CUDA runtimes of one major release agree on: they load the same code.
  compare.release("cuda_runtime", here.cuda_runtime, measured.cuda_runtime, 1);
  // On one node the size of the node says nothing about the group. On several it says how the group is spread.
  if (here.nodes <= 1 && measured.nodes <= 1) {
    compare.tolerated("ranks_per_node", std::to_string(here.ranks_per_node), std::to_string(measured.ranks_per_node));
  } else {
    compare.exact("ranks_per_node", here.ranks_per_node, measured.ranks_per_node);
  }
  if (!candidate.source_hash.empty()) compare_compiler(compare, here, measured, timed);
  if (candidate.backend == Backend::nccl) {
    compare.release("nccl_version", here.nccl_version, measured.nccl_version, 2);
    compare.exact("nccl_variables", db::nccl_variables_text(here.nccl_variables),
                  db::nccl_variables_text(measured.nccl_variables));
  } else {
    compare.exact("symmetric_memory", here.symmetric_memory, measured.symmetric_memory);
  }
  if (candidate.name.find("multicast=1") != std::string::npos) {
    compare.exact("multicast", usable(here.multicast), usable(measured.multicast));
  } else {
    compare.tolerated("multicast", usable(here.multicast), usable(measured.multicast));
  }
  compare.tolerated("arbiter_version", here.arbiter_version, measured.arbiter_version);
  compare.tolerated("catalogue_hash", here.catalogue_hash, measured.catalogue_hash);
  return compare.report();
}

std::string exceeds(const KernelUse& here, const KernelUse& timed) {
  std::string text;
  if (is_recorded(timed.registers) && here.registers > timed.registers) {
    text = fmt::format("this compiler gives it {} registers, measured with {}", here.registers, timed.registers);
  }
  if (is_recorded(timed.spill_bytes) && here.spill_bytes > timed.spill_bytes) {
    text += fmt::format("{} bytes, measured with {}",
                        (text.empty() ? "this compiler spills " : "; it spills ") + std::to_string(here.spill_bytes),
                        timed.spill_bytes);
  }
  return text;
}

KernelUse most_of(const KernelUse& a, const KernelUse& b) noexcept {
  const auto most = [](int x, int y) { return is_recorded(x) && is_recorded(y) ? std::max(x, y) : not_recorded; };
  return {most(a.registers, b.registers), most(a.spill_bytes, b.spill_bytes)};
}

double environment_distance(const Environment& here, const Environment& measured) {
  Comparison compare;
  compare_hardware(compare, here, measured);
  tolerate_software(compare, here, measured);
  compare.tolerated("arbiter_version", here.arbiter_version, measured.arbiter_version);
  compare.tolerated("catalogue_hash", here.catalogue_hash, measured.catalogue_hash);
  return compare.report().distance;
}

CompatibilityReport same_hardware(const Environment& here, const Environment& measured) {
  Comparison compare;
  compare_hardware(compare, here, measured);
  tolerate_software(compare, here, measured);
  return compare.report();
}

}  // namespace arbiter
