#include <charconv>
#include <string>

#include "arbiter/error.hpp"
#include "arbiter/runtime/candidate.hpp"

namespace arbiter {
namespace {

constexpr std::string_view plain_pattern = "allreduce";

/// NCCL has symmetric windows from 2.27 on.
bool has_symmetric_windows(const std::string& version) {
  int major = 0;
  int minor = 0;
  const char* end = version.data() + version.size();
  const auto first = std::from_chars(version.data(), end, major);
  if (first.ec != std::errc() || first.ptr == end || *first.ptr != '.') return false;
  if (std::from_chars(first.ptr + 1, end, minor).ec != std::errc()) return false;
  return major > 2 || (major == 2 && minor >= 27);
}

/// Every launch shape of a kernel. A grid limit below the cluster size holds nothing; equal limits are one candidate.
void add_launch_shapes(const Catalogue& catalogue, const Variant& variant, std::vector<CandidateSpec>& candidates) {
  const AlgorithmEntry& algorithm = catalogue.algorithm(variant.backend, variant.algorithm);
  const Axis* blocks = algorithm.axis("blocks");
  const auto cluster = variant.parameters.find("cluster");
  CandidateSpec spec;
  spec.kernel = variant;
  if (blocks == nullptr || !blocks->launch) {
    candidates.push_back(spec);
    return;
  }
  for (const int limit : blocks->values) {
    if (limit != 0 && cluster != variant.parameters.end() && limit < cluster->second) continue;
    spec.max_blocks = limit;
    candidates.push_back(spec);
  }
}

}  // namespace

std::vector<CandidateSpec> enumerate_candidates(const Group& group, const ProblemFamily& family,
                                                std::span<const CandidateSpec> best_plain,
                                                std::vector<Excluded>* excluded) {
  const Catalogue& catalogue = group.catalogue();
  const EpilogueEntry& pattern = catalogue.epilogue(family.pattern);
  const bool plain = family.pattern == plain_pattern;
  const int hidden = pattern.rows ? family.hidden : 0;
  const TargetLimits limits = group.limits();
  std::vector<CandidateSpec> candidates;
  const auto report = [&](const Variant& variant, const std::string& reason) {
    if (excluded != nullptr) excluded->push_back({variant, reason});
  };

  if (group.size() == 1) {
    if (plain) return {CandidateSpec{}};
    Enumeration alone = enumerate_standalone(catalogue, family.pattern, family.dtype, hidden, limits);
    for (const Variant& variant : alone.variants) add_launch_shapes(catalogue, variant, candidates);
    for (const Excluded& item : alone.excluded) report(item.variant, item.reason);
    return candidates;
  }

  Enumeration fused = enumerate(catalogue, family.pattern, family.dtype, group.size(), hidden, limits);
  for (const Variant& variant : fused.variants) {
    if (group.symmetric_provider()) {
      add_launch_shapes(catalogue, variant, candidates);
    } else {
      report(variant, "no symmetric memory: " + group.symmetric_reason());
    }
  }
  for (const Excluded& item : fused.excluded) report(item.variant, item.reason);

  std::vector<CandidateSpec> exchanges(best_plain.begin(), best_plain.end());
  if (group.nccl_reason().empty()) {
    CandidateSpec nccl;
    for (const char* kind : {"classic", "symmetric"}) {
      nccl.nccl = kind;
      if (nccl.nccl == "symmetric" && !has_symmetric_windows(group.environment().nccl_version)) continue;
      bool listed = false;
      for (const CandidateSpec& spec : exchanges) listed = listed || spec == nccl;
      if (!listed) exchanges.push_back(nccl);
    }
  }
  if (plain) {
    for (const CandidateSpec& spec : exchanges) {
      if (!spec.nccl.empty()) candidates.push_back(spec);
    }
    return candidates;
  }
  const Enumeration epilogues = enumerate_standalone(catalogue, family.pattern, family.dtype, hidden, limits);
  for (CandidateSpec spec : exchanges) {
    for (const Variant& variant : epilogues.variants) {
      spec.epilogue = variant;
      candidates.push_back(spec);
    }
  }
  return candidates;
}

}  // namespace arbiter
