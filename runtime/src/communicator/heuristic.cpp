#include "communicator/heuristic.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <string_view>

#include "arbiter/error.hpp"

namespace arbiter {
namespace {

constexpr std::string_view plain_pattern = "allreduce";

// One latency more, and the bandwidth of stores to peers, both measured on H200 (one-way flag 0.76 us plus the work of
// a second leg). Only their product matters.
constexpr double extra_latency_us = 1.2;
constexpr double bytes_per_us = 350e3;
// Above this, a cluster with several rows in flight won on plain messages of four H200s.
constexpr std::int64_t rows_limit_bytes = std::int64_t{8} << 20;
// Above this, bandwidth alone decides.
constexpr std::int64_t push_limit_bytes = std::int64_t{64} << 20;

struct SizeClass {
  std::int64_t from_bytes;
  std::vector<std::string_view> algorithms;  // in order of preference, perhaps with a backend: "mnnvl/oneshot_push"
  std::string_view reason;
};

/// `rows`: the pattern works on rows. Spread over a cluster they won at every size on two H200s, by a quarter of the
/// time at few tokens.
std::vector<SizeClass> size_classes(int world, bool rows) {
  std::vector<std::string_view> oneshot{"oneshot_push"};
  if (rows) oneshot.insert(oneshot.begin(), "mnnvl/oneshot_push");
  if (world <= 2) return {{0, oneshot, "with two ranks two-shot moves as many bytes in more steps"}};
  return {{0, oneshot, "one-shot has the fewest steps at this size"},
          {oneshot_limit_bytes(world) + 1,
           {"twoshot_rows", "twoshot_push", "twoshot_barrier"},
           "two-shot moves fewer bytes, and a cluster for every row reaches all SMs"},
          {rows_limit_bytes + 1, {"twoshot_push", "twoshot_barrier"}, "two-shot moves fewer bytes"},
          {push_limit_bytes + 1, {"classic", "twoshot_barrier", "twoshot_push"}, "bandwidth decides at this size"}};
}

/// Is `variant` of this algorithm? Of any, if it is empty.
bool matches(const Variant& variant, std::string_view algorithm) {
  const std::size_t slash = algorithm.find('/');
  if (slash == std::string_view::npos) return algorithm.empty() || variant.algorithm == algorithm;
  return to_string(variant.backend) == algorithm.substr(0, slash) && variant.algorithm == algorithm.substr(slash + 1);
}

class Chooser {
 public:
  Chooser(const Group& group, const ProblemFamily& family, const ChoicePolicy& policy,
          const std::function<bool(const CandidateSpec&)>& usable)
      : group_(group), policy_(policy), usable_(usable) {
    const Catalogue& catalogue = group.catalogue();
    const Pattern pattern = catalogue.pattern(family.pattern);
    plain_ = pattern.plain();
    const int hidden = pattern.rows ? family.hidden : 0;
    const TargetLimits limits = group.limits();
    const auto standalone = [&](const std::string& name) {
      return enumerate_standalone(catalogue, name, family.dtype, hidden, limits).variants;
    };
    if (!plain_) whole_ = standalone(family.pattern);
    if (pattern.has(PartKind::prologue)) prologues_ = optional_variants(standalone(pattern.prologue_alone()));
    if (pattern.has_stages()) epilogues_ = optional_variants(standalone(pattern.without_prologue()));
    if (group.size() == 1 || policy.backend == Backend::nccl) return;
    if (!group.symmetric_provider()) {
      why_no_kernel_ = "there is no symmetric memory: " + group.symmetric_reason();
      return;
    }
    if (group.size() > max_world) {
      why_no_kernel_ = "kernels are for up to " + std::to_string(max_world) + " ranks";
      return;
    }
    Enumeration fused =
        enumerate(catalogue, family.pattern, family.dtype, group.size(), hidden, limits, policy.backend);
    fused_ = std::move(fused.variants);
    if (!plain_) {
      exchanges_ = enumerate(catalogue, plain_pattern, family.dtype, group.size(), 0, limits, policy.backend).variants;
    }
    if (!fused_.empty() || !exchanges_.empty()) return;
    why_no_kernel_ = fused.excluded.empty() ? "the backend has no kernels" : fused.excluded.front().reason;
  }

  /// Why NCCL is chosen where kernels are preferred.
  const std::string& why_no_kernel() const noexcept { return why_no_kernel_; }

  /// The first usable candidate, the named algorithms first. Fused kernels before unfused ones, kernels before NCCL
  /// unless NCCL is named.
  std::optional<CandidateSpec> best(const std::vector<std::string_view>& preferred) const {
    if (group_.size() == 1) return alone();
    for (const std::string_view algorithm : preferred) {
      if (algorithm == "classic") {
        if (auto spec = nccl()) return spec;
      } else if (auto spec = kernel(algorithm)) {
        return spec;
      }
    }
    if (auto spec = kernel("")) return spec;
    return nccl();
  }

 private:
  std::optional<CandidateSpec> alone() const {
    CandidateSpec spec;
    if (plain_) return usable_(spec) ? std::optional(spec) : std::nullopt;
    for (const Variant& variant : whole_) {
      spec.kernel = variant;
      if (usable_(spec)) return spec;
    }
    return std::nullopt;
  }

  bool allowed(const Variant& variant) const {
    return policy_.numerics == NumericsPolicy::any ||
           group_.catalogue().algorithm(variant.backend, variant.algorithm).numerics == Numerics::rank_order_fp32;
  }

  std::optional<CandidateSpec> kernel(std::string_view algorithm) const {
    for (const Variant& variant : fused_) {
      if (!matches(variant, algorithm) || !allowed(variant)) continue;
      CandidateSpec spec;
      spec.kernel = variant;
      if (usable_(spec)) return spec;
    }
    for (const Variant& variant : exchanges_) {
      if (!matches(variant, algorithm) || !allowed(variant)) continue;
      CandidateSpec spec;
      spec.kernel = variant;
      if (auto complete = completed(spec)) return complete;
    }
    return std::nullopt;
  }

  std::optional<CandidateSpec> nccl() const {
    if (!group_.nccl_reason().empty() || policy_.numerics == NumericsPolicy::strict) return std::nullopt;
    if (policy_.backend != Backend::automatic && policy_.backend != Backend::nccl) return std::nullopt;
    CandidateSpec spec;
    spec.nccl = "classic";
    if (plain_) return usable_(spec) ? std::optional(spec) : std::nullopt;
    return completed(spec);
  }

  /// A plain exchange with what the pattern has around it.
  std::optional<CandidateSpec> completed(CandidateSpec spec) const {
    for (const std::optional<Variant>& prologue : prologues_) {
      for (const std::optional<Variant>& epilogue : epilogues_) {
        spec.prologue = prologue;
        spec.epilogue = epilogue;
        if (usable_(spec)) return spec;
      }
    }
    return std::nullopt;
  }

  static std::vector<std::optional<Variant>> optional_variants(std::vector<Variant> variants) {
    return {std::make_move_iterator(variants.begin()), std::make_move_iterator(variants.end())};
  }

  const Group& group_;
  const ChoicePolicy& policy_;
  const std::function<bool(const CandidateSpec&)>& usable_;
  bool plain_ = true;
  std::string why_no_kernel_ = "none of its kernels can be loaded or is allowed";
  std::vector<Variant> fused_;      // kernels of the pattern itself
  std::vector<Variant> exchanges_;  // plain kernels, for an unfused candidate
  std::vector<Variant> whole_;      // the whole pattern without an exchange, for a single rank
  // Stand-alone kernels around a plain exchange; one that is empty where the pattern has nothing there.
  std::vector<std::optional<Variant>> prologues_ = std::vector<std::optional<Variant>>(1);
  std::vector<std::optional<Variant>> epilogues_ = std::vector<std::optional<Variant>>(1);
};

std::string nothing_left(const Group& group, const ProblemFamily& family, const ChoicePolicy& policy) {
  std::string text = "no candidate for " + family.pattern + " " + std::string(to_string(family.dtype)) +
                     " hidden=" + std::to_string(family.hidden) + " on " + std::to_string(group.size()) + " ranks";
  if (policy.backend != Backend::automatic) text += " from backend " + std::string(to_string(policy.backend));
  if (policy.numerics == NumericsPolicy::strict) text += " with strict numerics";
  if (!group.symmetric_provider()) text += "; symmetric memory: " + group.symmetric_reason();
  if (policy.backend == Backend::nvls) text += "; multicast: " + group.multicast_reason();
  if (!group.nccl_reason().empty()) text += "; NCCL: " + group.nccl_reason();
  return text;
}

}  // namespace

std::int64_t oneshot_limit_bytes(int world) {
  if (world <= 2) return std::numeric_limits<std::int64_t>::max();
  const double n = world;
  return static_cast<std::int64_t>(extra_latency_us * bytes_per_us * n / ((n - 1) * (n - 2)));
}

std::vector<HeuristicStep> heuristic_steps(const Group& group, const ProblemFamily& family, const ChoicePolicy& policy,
                                           const std::function<bool(const CandidateSpec&)>& usable,
                                           std::string* why_not) {
  const Chooser chooser(group, family, policy, usable);
  const std::int64_t row_bytes =
      static_cast<std::int64_t>(family.hidden) * static_cast<std::int64_t>(element_bytes(family.dtype));
  const bool rows = group.catalogue().pattern(family.pattern).rows;
  std::vector<HeuristicStep> steps;
  for (const SizeClass& size : size_classes(group.size(), rows)) {
    const std::optional<CandidateSpec> spec = chooser.best(size.algorithms);
    if (!spec) {
      if (why_not != nullptr) *why_not = nothing_left(group, family, policy);
      return {};
    }
    const std::int64_t tokens_min = std::max<std::int64_t>(1, (size.from_bytes + row_bytes - 1) / row_bytes);
    if (!steps.empty() && steps.back().tokens_min == tokens_min) steps.pop_back();
    if (!steps.empty() && steps.back().spec == *spec) continue;
    std::string reason = group.size() == 1 ? "a single rank has nothing to exchange" : std::string(size.reason);
    if (!spec->nccl.empty() && policy.backend != Backend::nccl && size.algorithms.front() != "classic") {
      reason = "no kernel serves it: " + chooser.why_no_kernel();
    }
    steps.push_back({tokens_min, *spec, "nothing was measured for this size; " + reason});
  }
  return steps;
}

CandidateSpec heuristic(const Group& group, const ProblemFamily& family, std::int64_t tokens) {
  const ChoicePolicy policy{group.variables().backend, group.variables().numerics};
  const auto any = [](const CandidateSpec&) { return true; };
  std::string why_not;
  std::vector<HeuristicStep> steps = heuristic_steps(group, family, policy, any, &why_not);
  if (steps.empty()) steps = heuristic_steps(group, family, ChoicePolicy{}, any, &why_not);
  if (steps.empty()) throw Unsupported(why_not);
  CandidateSpec chosen = steps.front().spec;
  for (const HeuristicStep& step : steps) {
    if (step.tokens_min <= tokens) chosen = step.spec;
  }
  return chosen;
}

}  // namespace arbiter
