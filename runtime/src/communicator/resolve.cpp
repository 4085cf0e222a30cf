#include "communicator/resolve.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "arbiter/db/family_text.hpp"
#include "arbiter/error.hpp"
#include "arbiter/generator/joined.hpp"
#include "candidate/loaded_kernel.hpp"

namespace arbiter {
namespace {

std::string describe(const Decision& decision) {
  return fmt::format("{} tokens={}..{} world={} {}: {}", family_text(decision), decision.tokens_min,
                     decision.tokens_max, decision.world, to_string(decision.mode), decision.candidate.name);
}

bool same_choice(const PlannedInterval& a, const PlannedInterval& b) {
  return a.spec == b.spec && a.rule == b.rule && a.reason == b.reason && a.decision == b.decision && a.timed == b.timed;
}

std::int64_t row_bytes(int hidden, Dtype dtype) {
  return static_cast<std::int64_t>(hidden) * static_cast<std::int64_t>(element_bytes(dtype));
}

/// The end of a reason: where the measurement was taken, if not in an equal environment.
std::string in_environment(bool shipped, const std::string& differences, const std::string& note) {
  std::string text;
  if (shipped) {
    text =
        "; shipped with Arbiter, measured on the same hardware" + (differences.empty() ? "" : " (" + differences + ")");
  } else if (!differences.empty()) {
    text = " in a compatible environment (" + differences + ")";
  }
  return note.empty() ? text : text + "; " + note;
}

/// value * there / here, rounded down or up; the largest number where it would be larger.
std::int64_t scaled(std::int64_t value, std::int64_t there, std::int64_t here, bool up) {
  __extension__ using Wide = __int128;
  const Wide product = Wide{value} * there;
  const Wide result = product / here + (up && product % here != 0 ? 1 : 0);
  constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
  return result > largest ? largest : static_cast<std::int64_t>(result);
}

}  // namespace

std::string refusal_key(const CandidateSpec& spec, const ProblemFamily& family) {
  // A flat kernel does not know the hidden size, so its failure holds for all of them.
  const bool flat = spec.fused() && (!spec.kernel || spec.kernel->hidden == 0);
  return family.pattern + " " + std::string(to_string(family.dtype)) + " " +
         (flat ? std::string("flat") : std::to_string(family.hidden)) + " " + spec.name();
}

std::string refusal_key(const CandidateSpec& spec, const ProblemFamily& family, const KernelUse& timed) {
  return fmt::format("{} timed with {} registers, {} bytes spilled", refusal_key(spec, family), timed.registers,
                     timed.spill_bytes);
}

const std::string& SourceHashes::of(const CandidateSpec& spec) {
  std::string key;
  if (spec.kernel) key += spec.kernel->full_name();
  if (spec.prologue) key += "+" + spec.prologue->full_name();
  if (spec.epilogue) key += "+" + spec.epilogue->full_name();
  const auto found = known_.find(key);
  if (found != known_.end()) return found->second;
  return known_.emplace(std::move(key), candidate_source_hash(group_, spec)).first->second;
}

Resolver::Resolver(const GroupCapabilities& group, std::span<const DecisionSet> sets, ChoicePolicy policy,
                   std::span<const DecisionSet> shipped)
    : group_(group), policy_(std::move(policy)), hashes_(group) {
  // An equal environment comes first (its distance is 0), then the nearest of those that are only compatible.
  for (const DecisionSet& set : sets) add_environment(set);
  // Most of what is shipped is for other hardware: nothing to be said about that.
  for (const DecisionSet& set : shipped) {
    const CompatibilityReport report = same_hardware(group.environment, set.environment);
    if (report.verdict == Compatibility::incompatible) continue;
    shipped_.push_back({&set, report.distance, joined(report.differences, "; "), true});
  }
  sort_nearest_first(environments_);
  sort_nearest_first(shipped_);
}

/// Each candidate is asked by itself: another NCCL is nothing to a kernel of ours. What is refused for the same reason
/// is said once.
void Resolver::add_environment(const DecisionSet& set) {
  std::map<std::string, std::size_t> refused;
  std::size_t usable = 0;
  for (const Decision& decision : set.decisions) {
    const CompatibilityReport report =
        compatibility(group_.environment, set.environment, decision.candidate, decision.use);
    if (report.verdict == Compatibility::incompatible) {
      ++refused[joined(report.differences, "; ")];
    } else {
      ++usable;
    }
  }
  for (const auto& [reason, count] : refused) {
    ignored_.push_back({fmt::format("{} decisions for {}", count, set.environment.gpu_name),
                        "measured in another environment: " + reason});
  }
  if (usable > 0) {
    environments_.push_back({&set, environment_distance(group_.environment, set.environment), "", false});
  }
}

void Resolver::sort_nearest_first(std::vector<Usable>& sets) {
  std::stable_sort(sets.begin(), sets.end(), [](const Usable& a, const Usable& b) {
    // Equally near ones in the order of their keys, whatever the order in which they were given.
    return a.distance != b.distance ? a.distance < b.distance : a.set->environment.key() < b.set->environment.key();
  });
}

void Resolver::ignore(const Decision& decision, const std::string& reason) {
  const std::string text = describe(decision);
  for (const IgnoredDecision& known : ignored_) {
    if (known.decision == text) return;
  }
  ignored_.push_back({text, reason});
}

std::string Resolver::obstacle(const CandidateSpec& spec) const {
  for (const std::optional<Variant>* variant : {&spec.kernel, &spec.prologue, &spec.epilogue}) {
    if (!*variant) continue;
    if (const auto reason = unavailable(*group_.catalogue, **variant, group_.limits)) return *reason;
  }
  if (spec.kernel && !group_.symmetric_provider) return "it needs symmetric memory: " + group_.symmetric_reason;
  if (spec.nccl && !group_.nccl_reason.empty()) return "it needs NCCL: " + group_.nccl_reason;
  return {};
}

namespace {

/// The decision as it holds where the policy forbids its candidate: what sends 8-bit values has the best of the others
/// beside it. Empty where there is none that is allowed.
std::optional<Decision> as_allowed(const Decision& decision, NumericsPolicy policy) {
  if (allows(policy, decision.candidate.numerics)) return decision;
  if (decision.candidate.numerics != Numerics::fp8_transport || !decision.runner_up ||
      !allows(policy, decision.runner_up->numerics)) {
    return std::nullopt;
  }
  Decision other = decision;
  other.candidate = *decision.runner_up;
  other.median_us = decision.runner_up_median_us;
  other.runner_up.reset();
  other.runner_up_median_us = 0;
  other.use = decision.runner_up_use;
  other.runner_up_use = {};
  return other;
}

/// Rows of another length are another kernel; a flat kernel does not know them.
bool same_sources(const CandidateSpec& a, const CandidateSpec& b) {
  return a.kernel == b.kernel && a.prologue == b.prologue && a.epilogue == b.epilogue;
}

}  // namespace

/// The decision's candidate for `family`, if policy, catalogue, source and device allow it.
std::optional<Resolver::Accepted> Resolver::accept(const Usable& measured, const Decision& decision,
                                                   const ProblemFamily& family, const Refusals& refusals) {
  if (policy_.backend != Backend::automatic && decision.candidate.backend != policy_.backend) return std::nullopt;
  std::string differences = measured.differences;
  if (!measured.shipped) {
    const CompatibilityReport report =
        compatibility(group_.environment, measured.set->environment, decision.candidate, decision.use);
    if (report.verdict == Compatibility::incompatible) return std::nullopt;  // said by add_environment()
    differences = joined(report.differences, "; ");
  }
  try {
    ProblemFamily original = family;
    original.hidden = decision.hidden;
    const CandidateSpec as_measured =
        CandidateSpec::parse(*group_.catalogue, decision.candidate.name, original, group_.size);
    CandidateSpec spec = CandidateSpec::parse(*group_.catalogue, decision.candidate.name, family, group_.size);
    if (const std::string reason = obstacle(spec); !reason.empty()) {
      if (decision.hidden == family.hidden) ignore(decision, reason);
      return std::nullopt;
    }
    std::string note;
    if (spec.forced.forces() && group_.nccl_reason.empty() && !group_.nccl_forcing_reason.empty()) {
      // What was fastest is NCCL; told nothing, it is nearer to what was measured than any kernel that lost to it.
      note = "NCCL is used as it chooses, because it cannot be told to use " + spec.forced.text();
      ignore(decision, note + ": " + group_.nccl_forcing_reason);
      spec.forced = {};
    }
    if (hashes_.of(as_measured) != decision.candidate.source_hash) {
      // What is shipped was timed with the kernels of its day, and is better than no measurement at all.
      if (!measured.shipped) {
        ignore(decision, "the source of its kernel has changed since it was measured; tune again");
        return std::nullopt;
      }
      note += (note.empty() ? "" : "; ") + std::string("the source of its kernel has changed since then");
    }
    const KernelUse timed = same_sources(spec, as_measured) ? decision.use : KernelUse{};
    for (const std::string& key : {refusal_key(spec, family), refusal_key(spec, family, timed)}) {
      if (const auto refused = refusals.find(key); refused != refusals.end()) {
        ignore(decision, refused->second);
        return std::nullopt;
      }
    }
    return Accepted{spec, differences, note, timed};
  } catch (const Error& error) {
    // That a shipped kernel does not fit rows of another length is nobody's concern.
    if (!measured.shipped || decision.hidden == family.hidden) ignore(decision, error.what());
    return std::nullopt;
  }
}

bool Resolver::concerns(const Decision& decision, const ProblemFamily& family) const {
  return decision.world == group_.size && decision.pattern == family.pattern && decision.dtype == family.dtype &&
         decision.mode == family.mode;
}

Resolver::Layer Resolver::decisions_layer(const Usable& measured, const ProblemFamily& family,
                                          const Refusals& refusals) {
  Layer layer;
  for (const Decision& stored : measured.set->decisions) {
    if (!concerns(stored, family) || stored.hidden != family.hidden || stored.tokens_min > family.max_tokens) {
      continue;
    }
    const std::optional<Decision> allowed = as_allowed(stored, policy_.numerics);
    if (!allowed) continue;
    const Decision& decision = *allowed;
    const std::optional<Accepted> accepted = accept(measured, decision, family, refusals);
    if (!accepted) continue;
    const Rule rule = measured.shipped                ? Rule::shipped_default
                      : accepted->differences.empty() ? Rule::decision
                                                      : Rule::nearest_environment;
    layer.push_back(
        {decision.tokens_min, decision.tokens_max, accepted->spec, rule,
         "measured for this problem" + in_environment(measured.shipped, accepted->differences, accepted->note),
         decision, accepted->timed});
  }
  return layer;
}

/// Decisions for another hidden size, translated by communicated bytes.
Resolver::Layer Resolver::nearest_layer(const Usable& measured, const ProblemFamily& family, int hidden,
                                        const Refusals& refusals) {
  std::vector<const Decision*> tuned;
  for (const Decision& decision : measured.set->decisions) {
    if (concerns(decision, family) && decision.hidden == hidden) tuned.push_back(&decision);
  }
  std::stable_sort(tuned.begin(), tuned.end(),
                   [](const Decision* a, const Decision* b) { return a->tokens_min < b->tokens_min; });
  const std::int64_t here = row_bytes(family.hidden, family.dtype);
  const std::int64_t there = row_bytes(hidden, family.dtype);
  Layer layer;
  for (std::size_t i = 0; i < tuned.size(); ++i) {
    const std::optional<Decision> allowed = as_allowed(*tuned[i], policy_.numerics);
    if (!allowed) continue;
    const Decision& decision = *allowed;
    const std::optional<Accepted> accepted = accept(measured, decision, family, refusals);
    if (!accepted) continue;
    // The smallest measured message also stands for smaller ones, and an interval reaches up to the next one's start:
    // between two measured messages of another row length lie some of this one.
    const std::int64_t first = decision.tokens_min <= 1 ? 1 : scaled(decision.tokens_min, there, here, true);
    const bool adjacent = i + 1 < tuned.size() && tuned[i + 1]->tokens_min - 1 == decision.tokens_max;
    const std::int64_t last = adjacent ? scaled(tuned[i + 1]->tokens_min, there, here, true) - 1
                                       : scaled(decision.tokens_max, there, here, false);
    if (last < first) continue;
    layer.push_back(
        {first, last, accepted->spec, measured.shipped ? Rule::shipped_default : Rule::nearest_hidden,
         fmt::format("nothing was measured for hidden={}; taken from hidden={} at the same number of bytes{}",
                     family.hidden, hidden, in_environment(measured.shipped, accepted->differences, accepted->note)),
         decision, accepted->timed});
  }
  return layer;
}

namespace {

/// Names that pin a way to exchange data instead of one candidate.
bool is_kind(std::string_view name) { return name == "oneshot" || name == "twoshot"; }

}  // namespace

/// The built-in choice among the kernels of a kind, for every size.
Resolver::Layer Resolver::kind_layer(const ProblemFamily& family, const Refusals& refusals,
                                     std::string* why_not) const {
  const std::string& kind = policy_.candidate;
  const auto usable = [&](const CandidateSpec& spec) {
    return spec.kernel && spec.kernel->algorithm.starts_with(kind) && !refusals.contains(refusal_key(spec, family));
  };
  const std::vector<HeuristicStep> steps = heuristic_steps(group_, family, policy_, usable, why_not);
  Layer layer;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const std::int64_t last = i + 1 < steps.size() ? steps[i + 1].tokens_min - 1 : family.max_tokens;
    layer.push_back({steps[i].tokens_min, last, steps[i].spec, Rule::pinned, "'" + kind + "' is pinned", std::nullopt});
  }
  return layer;
}

/// The pinned candidate for every size, if it can serve the family.
Resolver::Layer Resolver::pinned_layer(const ProblemFamily& family, const Refusals& refusals) {
  const std::string& name = policy_.candidate;
  if (name.empty()) return {};
  std::string reason;
  if (is_kind(name)) {
    Layer layer = kind_layer(family, refusals, &reason);
    if (!layer.empty()) return layer;
  } else {
    try {
      const CandidateSpec spec = CandidateSpec::parse(*group_.catalogue, name, family, group_.size);
      reason = obstacle(spec);
      const Numerics numerics = numerics_of(*group_.catalogue, spec);
      if (!allows(policy_.numerics, numerics)) {
        reason = numerics == Numerics::fp8_transport && policy_.numerics == NumericsPolicy::any
                     ? "it sends 8-bit values, which numerics 'lossy' must allow"
                     : "its numerics are not those of 'strict'";
      }
      const auto refused = refusals.find(refusal_key(spec, family));
      if (refused != refusals.end()) reason = refused->second;
      if (reason.empty()) {
        return {{1, family.max_tokens, spec, Rule::pinned, "candidate '" + name + "' is pinned", std::nullopt}};
      }
    } catch (const Error& error) {
      reason = error.what();
    }
  }
  const std::string text = "pinned candidate '" + name + "' for " + family.pattern;
  for (const IgnoredDecision& known : ignored_) {
    if (known.decision == text) return {};
  }
  ignored_.push_back({text, reason});
  return {};
}

Resolver::Layer Resolver::heuristic_layer(const ProblemFamily& family, const Refusals& refusals,
                                          std::string* why_not) const {
  const auto usable = [&](const CandidateSpec& spec) { return !refusals.contains(refusal_key(spec, family)); };
  const bool pinned = policy_.backend != Backend::automatic;
  std::string pinned_reason;
  std::vector<HeuristicStep> steps = heuristic_steps(group_, family, policy_, usable, &pinned_reason);
  Rule rule = pinned ? Rule::pinned : Rule::heuristic;
  std::string prefix = pinned ? "backend " + std::string(to_string(policy_.backend)) + " is pinned; " : "";
  if (steps.empty()) {
    // Every request is served: first without the pin, then without the numerics class.
    for (const ChoicePolicy& relaxed : {ChoicePolicy{Backend::automatic, policy_.numerics}, ChoicePolicy{}}) {
      steps = heuristic_steps(group_, family, relaxed, usable, why_not);
      if (!steps.empty()) break;
    }
    rule = Rule::fallback;
    prefix = pinned_reason + "; ";
  }
  Layer layer;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const std::int64_t last = i + 1 < steps.size() ? steps[i + 1].tokens_min - 1 : family.max_tokens;
    layer.push_back({steps[i].tokens_min, last, steps[i].spec, rule, prefix + steps[i].reason, std::nullopt});
  }
  return layer;
}

/// The hidden sizes other than this one for which there are decisions, nearest first (by ratio); the smaller one first
/// when two are equally near.
std::vector<int> Resolver::other_hidden_sizes(const std::vector<Usable>& sets, const ProblemFamily& family) const {
  std::set<std::pair<double, int>> others;
  for (const Usable& measured : sets) {
    for (const Decision& decision : measured.set->decisions) {
      if (!concerns(decision, family) || decision.hidden == family.hidden || decision.hidden <= 0) continue;
      others.emplace(std::abs(std::log(static_cast<double>(decision.hidden) / family.hidden)), decision.hidden);
    }
  }
  std::vector<int> sizes;
  for (const auto& [distance, hidden] : others) sizes.push_back(hidden);
  return sizes;
}

/// This hidden size in every environment, nearest first; then the other hidden sizes alike.
void Resolver::add_measured(std::vector<Layer>& layers, const std::vector<Usable>& sets, const ProblemFamily& family,
                            const Refusals& refusals) {
  for (const Usable& measured : sets) layers.push_back(decisions_layer(measured, family, refusals));
  for (const int hidden : other_hidden_sizes(sets, family)) {
    for (const Usable& measured : sets) layers.push_back(nearest_layer(measured, family, hidden, refusals));
  }
}

std::vector<PlannedInterval> Resolver::plan(const ProblemFamily& family, const Refusals& refusals) {
  std::vector<Layer> layers;
  layers.push_back(pinned_layer(family, refusals));
  add_measured(layers, environments_, family, refusals);
  add_measured(layers, shipped_, family, refusals);

  std::string why_not;
  layers.push_back(heuristic_layer(family, refusals, &why_not));
  std::vector<PlannedInterval> intervals = overlay(layers, family.max_tokens);
  std::int64_t covered = 0;
  for (const PlannedInterval& interval : intervals) {
    if (interval.tokens_min - 1 != covered) break;
    covered = interval.tokens_max;
  }
  if (covered != family.max_tokens) {
    for (const auto& [key, reason] : refusals) why_not += "\n  " + key + ": " + reason;
    throw Unsupported(why_not);
  }
  return intervals;
}

std::vector<PlannedInterval> overlay(const std::vector<std::vector<PlannedInterval>>& layers, std::int64_t tokens_max) {
  std::set<std::int64_t> starts = {1};
  for (const auto& layer : layers) {
    for (const PlannedInterval& interval : layer) {
      starts.insert(interval.tokens_min);
      if (interval.tokens_max < tokens_max) starts.insert(interval.tokens_max + 1);
    }
  }
  std::vector<PlannedInterval> result;
  for (auto start = starts.begin(); start != starts.end(); ++start) {
    if (*start < 1 || *start > tokens_max) continue;
    const auto following = std::next(start);
    const std::int64_t last = following == starts.end() ? tokens_max : std::min(*following - 1, tokens_max);
    const PlannedInterval* found = nullptr;
    for (const auto& layer : layers) {
      for (const PlannedInterval& interval : layer) {
        if (found == nullptr && interval.tokens_min <= *start && interval.tokens_max >= *start) found = &interval;
      }
      if (found != nullptr) break;
    }
    if (found == nullptr) continue;
    if (!result.empty() && result.back().tokens_max == *start - 1 && same_choice(result.back(), *found)) {
      result.back().tokens_max = last;
      continue;
    }
    result.push_back(*found);
    result.back().tokens_min = *start;
    result.back().tokens_max = last;
  }
  return result;
}

}  // namespace arbiter
