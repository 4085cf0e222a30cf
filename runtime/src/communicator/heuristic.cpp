#include "communicator/heuristic.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "arbiter/db/family_text.hpp"
#include "arbiter/error.hpp"
#include "arbiter/generator/bindings.hpp"
#include "communicator/costs.hpp"

namespace arbiter {
namespace {

constexpr std::string_view plain_pattern = "allreduce";

/// Beyond so many iterations one wide block a row is faster than several narrow ones that start anew each for itself:
/// on H200s by 13% for 4 MiB and 2 ranks, and by up to 16% for 4 to 12 MiB and 4 ranks, fused. Up to there narrow
/// blocks are, because each of them waits for fewer of its threads.
constexpr double narrow_iterations = 1.5;

/// An algorithm that the choice may fall on: its variants in the order of the catalogue, of which the first that can be
/// used stands for it.
struct Option {
  const AlgorithmEntry* algorithm = nullptr;
  std::vector<const Variant*> variants;
  std::optional<CandidateSpec> spec{};  // once it was asked for
  bool usable = true;                   // as far as is known
};

class Chooser {
 public:
  Chooser(const GroupCapabilities& group, const ProblemFamily& family, const ChoicePolicy& policy,
          const std::function<bool(const CandidateSpec&)>& usable)
      : group_(group),
        policy_(policy),
        usable_(usable),
        pattern_(group.catalogue->pattern(family.pattern)),
        machine_(machine_figures(group.environment)) {
    const Catalogue& catalogue = *group.catalogue;
    const Pattern& pattern = pattern_;
    plain_ = pattern.plain();
    const int hidden = pattern.rows ? family.hidden : 0;
    const TargetLimits limits = group.limits;
    const auto standalone = [&](const std::string& name) {
      return enumerate_standalone(catalogue, name, family.dtype, hidden, limits).variants;
    };
    if (!plain_) whole_ = standalone(family.pattern);
    if (pattern.has(PartKind::prologue)) prologues_ = optional_variants(standalone(pattern.prologue_alone()));
    if (pattern.has_stages()) epilogues_ = optional_variants(standalone(pattern.without_prologue()));
    if (group.size == 1 || policy.backend == Backend::nccl) return;
    if (!group.symmetric_provider) {
      why_no_kernel_ = "there is no symmetric memory: " + group.symmetric_reason;
      return;
    }
    if (group.size > max_world) {
      why_no_kernel_ = fmt::format("kernels are for up to {} ranks", max_world);
      return;
    }
    Enumeration fused = enumerate(catalogue, family.pattern, family.dtype, group.size, hidden, limits, policy.backend);
    fused_ = std::move(fused.variants);
    if (!plain_) {
      exchanges_ = enumerate(catalogue, plain_pattern, family.dtype, group.size, 0, limits, policy.backend).variants;
    }
    fused_options_ = options_of(fused_);
    exchange_options_ = options_of(exchanges_);
    if (!fused_.empty() || !exchanges_.empty()) return;
    why_no_kernel_ = fused.excluded.empty() ? "the backend has no kernels" : fused.excluded.front().reason;
  }

  /// Why NCCL is chosen although kernels are preferred.
  const std::string& why_no_kernel() const noexcept { return why_no_kernel_; }

  /// What to use from which token count on: a single choice where there is nothing to exchange or no kernel.
  /// Fused kernels before unfused ones, kernels before NCCL.
  struct Choice {
    std::int64_t tokens_min = 1;
    CandidateSpec spec;
    const AlgorithmEntry* algorithm = nullptr;  // of a kernel
  };
  std::vector<Choice> choices(const ProblemFamily& family) {
    if (group_.size == 1) {
      if (const auto spec = alone()) return {{1, *spec, nullptr}};
      return {};
    }
    for (std::vector<Option>* options : {&fused_options_, &exchange_options_}) {
      std::vector<Choice> found = cheapest(*options, family, options == &fused_options_);
      if (!found.empty()) return found;
    }
    if (const auto spec = nccl()) return {{1, *spec, nullptr}};
    return {};
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
    return allows(policy_.numerics, numerics_of(*group_.catalogue, variant));
  }

  /// The algorithms of one numerics class that have variants: the strictest class, unless there is none of it. Where
  /// 8-bit transport is allowed, it competes with that class.
  std::vector<Option> options_of(const std::vector<Variant>& variants) const {
    std::vector<Option> strict, others;
    for (const Variant& variant : variants) {
      if (!allowed(variant)) continue;
      const AlgorithmEntry& algorithm = group_.catalogue->algorithm(variant.backend, variant.algorithm);
      const bool competes =
          algorithm.numerics == Numerics::rank_order_fp32 || algorithm.numerics == Numerics::fp8_transport;
      std::vector<Option>& options = competes ? strict : others;
      if (options.empty() || options.back().algorithm != &algorithm) options.push_back({&algorithm, {}});
      options.back().variants.push_back(&variant);
    }
    std::vector<Option>& options = strict.empty() ? others : strict;
    for (Option& option : options) narrowest_first(option);
    return options;
  }

  /// Where rows only cut a flat message, and a block handles one: by up to 7% on H200s.
  void narrowest_first(Option& option) const {
    const Variant& first = *option.variants.front();
    if (first.hidden != 0 || !first.parameters.contains("threads")) return;
    if (evaluate(option.algorithm->tile_rows, bindings_of(first, pattern_, {})) != 1) return;
    auto narrowest = option.variants.begin();
    for (auto at = option.variants.begin(); at != option.variants.end(); ++at) {
      Variant other = **at;
      other.parameters["threads"] = first.parameter("threads");
      if (other == first && (*at)->parameter("threads") < (*narrowest)->parameter("threads")) narrowest = at;
    }
    std::rotate(option.variants.begin(), narrowest, std::next(narrowest));
  }

  /// Whether the option can be used. Asking may load a kernel, so it is asked only for what would be chosen.
  bool resolve(Option& option, bool fused) const {
    for (const Variant* variant : option.variants) {
      if (option.spec) break;
      CandidateSpec spec;
      spec.kernel = *variant;
      if (!fused) {
        option.spec = completed(spec);
      } else if (usable_(spec)) {
        option.spec = spec;
      }
    }
    option.usable = option.spec.has_value();
    return option.usable;
  }

  std::vector<Choice> cheapest(std::vector<Option>& options, const ProblemFamily& family, bool fused) const {
    for (;;) {
      std::vector<std::pair<std::int64_t, Option*>> winners = winners_of(options, family);
      bool settled = true;  // what cannot be used, or only as another variant, changes who wins
      for (const auto& [tokens, option] : winners) {
        if (option->spec) continue;
        settled = resolve(*option, fused) && *option->spec->kernel == *option->variants.front() && settled;
      }
      if (!settled) continue;
      std::vector<Choice> choices;
      for (std::size_t i = 0; i < winners.size(); ++i) {
        const auto& [tokens, option] = winners[i];
        choices.push_back({tokens, *option->spec, option->algorithm});
        const std::int64_t end = i + 1 < winners.size() ? winners[i + 1].first : family.max_tokens + 1;
        const std::int64_t from = std::max(tokens, first_of_many(*option, family));
        if (from >= end) continue;
        const std::optional<CandidateSpec> wide = wide_spec(*option, fused);
        if (!wide) continue;
        if (from == tokens) choices.pop_back();
        choices.push_back({from, *wide, option->algorithm});
      }
      return choices;
    }
  }

  /// The first token count whose message takes more than `narrow_iterations`.
  std::int64_t first_of_many(const Option& option, const ProblemFamily& family) const {
    const auto many = [&](std::int64_t tokens) {
      return iterations_of(*option.algorithm, *option.spec->kernel, pattern_, tokens * row_bytes(family), machine_) >
             narrow_iterations;
    };
    std::int64_t before = 0, found = family.max_tokens + 1;
    while (found - before > 1) {
      const std::int64_t middle = before + (found - before) / 2;
      (many(middle) ? found : before) = middle;
    }
    return found;
  }

  /// The option with one block a row, where a cluster's blocks handle no more than a row: as wide as the row, or, where
  /// rows only cut a flat message, as can be. Nothing if it is that already, or has no such variant that can be used.
  std::optional<CandidateSpec> wide_spec(const Option& option, bool fused) const {
    const Variant& narrow = *option.spec->kernel;
    if (!narrow.parameters.contains("cluster") || !narrow.parameters.contains("threads")) return std::nullopt;
    const Bindings bindings = bindings_of(narrow, pattern_, {});
    if (evaluate(option.algorithm->tile_rows, bindings) != 1) return std::nullopt;
    const Variant* wide = nullptr;
    for (const Variant* variant : option.variants) {
      Variant other = *variant;
      other.parameters["cluster"] = narrow.parameter("cluster");
      other.parameters["threads"] = narrow.parameter("threads");
      if (!(other == narrow) || variant->parameter("cluster") != 1) continue;
      const int threads = variant->parameter("threads");
      if (wide == nullptr || (threads < wide->parameter("threads")) == (variant->hidden != 0)) wide = variant;
    }
    if (wide == nullptr || *wide == narrow) return std::nullopt;
    CandidateSpec spec;
    spec.kernel = *wide;
    if (!fused) return completed(spec);
    return usable_(spec) ? std::optional(spec) : std::nullopt;
  }

  /// The option that is expected to be fastest from which token count on. Looked up at sizes a few percent apart, and
  /// between two of them where the winner changes.
  std::vector<std::pair<std::int64_t, Option*>> winners_of(std::vector<Option>& options,
                                                           const ProblemFamily& family) const {
    const auto best = [&](std::int64_t tokens) {
      Option* fastest = nullptr;
      double least = 0;
      for (Option& option : options) {
        if (!option.usable) continue;
        const double us = expected_us(*option.algorithm, option.spec ? *option.spec->kernel : *option.variants.front(),
                                      pattern_, tokens * row_bytes(family), machine_);
        if (fastest != nullptr && us >= least) continue;
        fastest = &option;
        least = us;
      }
      return fastest;
    };
    std::vector<std::pair<std::int64_t, Option*>> winners;
    if (best(1) == nullptr) return winners;
    winners.emplace_back(1, best(1));
    std::int64_t last = 1;
    while (last < family.max_tokens) {
      std::int64_t next = std::min(family.max_tokens, last + std::max<std::int64_t>(1, last / 16));
      Option* const then = best(next);
      if (then != winners.back().second) {
        std::int64_t before = last;
        while (next - before > 1) {
          const std::int64_t middle = before + (next - before) / 2;
          (best(middle) == winners.back().second ? before : next) = middle;
        }
        winners.emplace_back(next, best(next));
      }
      last = next;
    }
    return winners;
  }

  std::optional<CandidateSpec> nccl() const {
    if (!group_.nccl_reason.empty() || !allows(policy_.numerics, Numerics::nccl)) return std::nullopt;
    if (policy_.backend != Backend::automatic && policy_.backend != Backend::nccl) return std::nullopt;
    const CandidateSpec spec = CandidateSpec::classic_nccl();
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

  static std::int64_t row_bytes(const ProblemFamily& family) {
    return static_cast<std::int64_t>(family.hidden) * static_cast<std::int64_t>(element_bytes(family.dtype));
  }

  static std::vector<std::optional<Variant>> optional_variants(std::vector<Variant> variants) {
    return {std::make_move_iterator(variants.begin()), std::make_move_iterator(variants.end())};
  }

  const GroupCapabilities& group_;
  const ChoicePolicy& policy_;
  const std::function<bool(const CandidateSpec&)>& usable_;
  Pattern pattern_;
  MachineFigures machine_;
  bool plain_ = true;
  std::string why_no_kernel_ = "none of its kernels can be loaded or is allowed";
  std::vector<Variant> fused_;      // kernels of the pattern itself
  std::vector<Variant> exchanges_;  // plain kernels, for an unfused candidate
  std::vector<Option> fused_options_, exchange_options_;
  std::vector<Variant> whole_;  // the whole pattern without an exchange, for a single rank
  // Stand-alone kernels around a plain exchange; one that is empty where the pattern has nothing there.
  std::vector<std::optional<Variant>> prologues_ = std::vector<std::optional<Variant>>(1);
  std::vector<std::optional<Variant>> epilogues_ = std::vector<std::optional<Variant>>(1);
};

std::string nothing_left(const GroupCapabilities& group, const ProblemFamily& family, const ChoicePolicy& policy) {
  std::string text = fmt::format("no candidate for {} on {} ranks", family_text(family), group.size);
  if (policy.backend != Backend::automatic) text += " from backend " + std::string(to_string(policy.backend));
  if (policy.numerics != NumericsPolicy::any) text += fmt::format(" with {} numerics", to_string(policy.numerics));
  if (!group.symmetric_provider) text += "; symmetric memory: " + group.symmetric_reason;
  if (policy.backend == Backend::nvls) text += "; multicast: " + group.multicast_reason;
  if (!group.nccl_reason.empty()) text += "; NCCL: " + group.nccl_reason;
  return text;
}

}  // namespace

std::vector<HeuristicStep> heuristic_steps(const GroupCapabilities& group, const ProblemFamily& family,
                                           const ChoicePolicy& policy,
                                           const std::function<bool(const CandidateSpec&)>& usable,
                                           std::string* why_not) {
  Chooser chooser(group, family, policy, usable);
  std::vector<HeuristicStep> steps;
  for (const Chooser::Choice& choice : chooser.choices(family)) {
    std::string reason = "a single rank has nothing to exchange";
    if (group.size > 1 && choice.algorithm != nullptr) {
      const int count = choice.algorithm->steps;
      reason = fmt::format("{}/{} is expected to be fastest: {} step{}, {:.3g} times the message through the links",
                           to_string(choice.algorithm->backend), choice.algorithm->name, count, count == 1 ? "" : "s",
                           choice.algorithm->link_messages(group.size));
    } else if (group.size > 1) {
      reason = policy.backend == Backend::nccl ? "NCCL chooses for itself"
                                               : "no kernel serves it: " + chooser.why_no_kernel();
    }
    steps.push_back({choice.tokens_min, choice.spec, "nothing was measured for this size; " + reason});
  }
  if (steps.empty() && why_not != nullptr) *why_not = nothing_left(group, family, policy);
  return steps;
}

CandidateSpec heuristic(const GroupCapabilities& group, const ProblemFamily& family, std::int64_t tokens) {
  const auto any = [](const CandidateSpec&) { return true; };
  std::string why_not;
  const std::vector<HeuristicStep> steps = heuristic_steps(group, family, ChoicePolicy{}, any, &why_not);
  if (steps.empty()) throw Unsupported(why_not);
  CandidateSpec chosen = steps.front().spec;
  for (const HeuristicStep& step : steps) {
    if (step.tokens_min <= tokens) chosen = step.spec;
  }
  return chosen;
}

}  // namespace arbiter
