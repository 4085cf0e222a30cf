#include <algorithm>
#include <charconv>
#include <string>

#include "arbiter/error.hpp"
#include "arbiter/runtime/candidate.hpp"

namespace arbiter {
namespace {

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

/// What NCCL is told to try: each pair of algorithm and protocol that exists within a node, with few to many channels.
/// NVLink SHARP only where multicast is allowed. More nodes add nothing here: what NCCL's trees and rings do across
/// them is one choice of NCCL's own.
std::vector<NcclConfiguration> forced_configurations(bool multicast) {
  static constexpr int channel_limits[] = {4, 8, 16, 32};
  std::vector<std::pair<NcclAlgorithm, NcclProtocol>> pairs;
  for (const NcclAlgorithm algorithm : {NcclAlgorithm::ring, NcclAlgorithm::tree}) {
    for (const NcclProtocol protocol : {NcclProtocol::ll, NcclProtocol::ll128, NcclProtocol::simple}) {
      pairs.emplace_back(algorithm, protocol);
    }
  }
  if (multicast) pairs.emplace_back(NcclAlgorithm::nvls, NcclProtocol::simple);
  std::vector<NcclConfiguration> all;
  for (const auto& [algorithm, protocol] : pairs) {
    for (const int channels : channel_limits) all.push_back({algorithm, protocol, channels});
  }
  return all;
}

/// Of a plain allreduce: NCCL as it chooses, its symmetric kernels, and what it can be told to use.
std::vector<CandidateSpec> nccl_candidates(const GroupCapabilities& group, Dtype dtype,
                                           std::vector<Excluded>* excluded) {
  std::vector<CandidateSpec> candidates;
  CandidateSpec spec = CandidateSpec::classic_nccl();
  candidates.push_back(spec);
  spec.nccl = NcclKind::symmetric;
  if (has_symmetric_windows(group.environment.nccl_version)) candidates.push_back(spec);
  spec.nccl = NcclKind::classic;
  const std::string reason = group.nccl_forcing_reason;
  if (reason.empty()) {
    for (const NcclConfiguration& configuration : forced_configurations(group.environment.multicast)) {
      spec.forced = configuration;
      candidates.push_back(spec);
    }
  } else if (excluded != nullptr) {
    Variant variant;
    variant.backend = Backend::nccl;
    variant.algorithm = to_string(NcclKind::classic);
    variant.dtype = dtype;
    variant.world = group.size;
    excluded->push_back({variant, "no algorithm, protocol or channels can be forced: " + reason});
  }
  return candidates;
}

}  // namespace

std::vector<CandidateSpec> enumerate_candidates(const GroupCapabilities& group, const ProblemFamily& family,
                                                std::span<const CandidateSpec> best_plain,
                                                std::vector<Excluded>* excluded, bool exhaustive) {
  const Catalogue& catalogue = *group.catalogue;
  const Pattern pattern = catalogue.pattern(family.pattern);
  const bool plain = pattern.plain();
  const int hidden = pattern.rows ? family.hidden : 0;
  TargetLimits limits = group.limits;
  limits.exhaustive = exhaustive;
  std::vector<CandidateSpec> candidates;
  const auto report = [&](const Variant& variant, const std::string& reason) {
    if (excluded != nullptr) excluded->push_back({variant, reason});
  };

  if (group.size == 1) {
    if (plain) return {CandidateSpec{}};
    Enumeration alone = enumerate_standalone(catalogue, family.pattern, family.dtype, hidden, limits);
    for (const Variant& variant : alone.variants) add_launch_shapes(catalogue, variant, candidates);
    for (const Excluded& item : alone.excluded) report(item.variant, item.reason);
    return candidates;
  }

  Enumeration fused;  // beyond the largest world that kernels are for, NCCL is what is left
  if (group.size <= max_world) fused = enumerate(catalogue, family.pattern, family.dtype, group.size, hidden, limits);
  for (const Variant& variant : fused.variants) {
    // Nobody is measured, or compared with others, who may not be chosen, where that is a matter of accuracy.
    const Numerics numerics = catalogue.algorithm(variant.backend, variant.algorithm).numerics;
    if (numerics == Numerics::fp8_transport && !allows(group.numerics, numerics)) {
      report(variant, "it sends 8-bit values, which numerics 'lossy' must allow");
    } else if (group.symmetric_provider) {
      add_launch_shapes(catalogue, variant, candidates);
    } else {
      report(variant, "no symmetric memory: " + group.symmetric_reason);
    }
  }
  for (const Excluded& item : fused.excluded) report(item.variant, item.reason);

  std::vector<CandidateSpec> exchanges(best_plain.begin(), best_plain.end());
  if (group.nccl_reason.empty()) {
    for (const CandidateSpec& nccl : nccl_candidates(group, family.dtype, plain ? excluded : nullptr)) {
      // With an epilogue behind it, the forced configurations that are worth it are among the best plain candidates.
      if (!plain && nccl.forced.forces()) continue;
      if (std::find(exchanges.begin(), exchanges.end(), nccl) == exchanges.end()) exchanges.push_back(nccl);
    }
  }
  if (plain) {
    for (const CandidateSpec& spec : exchanges) {
      if (spec.nccl) candidates.push_back(spec);
    }
    return candidates;
  }
  // One launch shape of the prologue is enough: it is the smaller part, and unfused candidates are many already.
  std::optional<Variant> prologue;
  if (pattern.has(PartKind::prologue)) {
    std::vector<Variant> alone =
        enumerate_standalone(catalogue, pattern.prologue_alone(), family.dtype, hidden, limits).variants;
    if (alone.empty()) return candidates;
    prologue = std::move(alone.front());
  }
  std::vector<std::optional<Variant>> epilogues;
  if (pattern.has_stages()) {
    const std::string alone = pattern.without_prologue();
    for (Variant& variant : enumerate_standalone(catalogue, alone, family.dtype, hidden, limits).variants) {
      epilogues.emplace_back(std::move(variant));
    }
  } else {
    epilogues.emplace_back();
  }
  for (CandidateSpec spec : exchanges) {
    spec.prologue = prologue;
    for (const std::optional<Variant>& epilogue : epilogues) {
      spec.epilogue = epilogue;
      candidates.push_back(spec);
    }
  }
  return candidates;
}

}  // namespace arbiter
