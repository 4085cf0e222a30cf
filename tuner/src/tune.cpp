#include "arbiter/tuner/tune.hpp"

#include <algorithm>
#include <memory>

#include "arbiter/error.hpp"
#include "family_state.hpp"
#include "ledger.hpp"
#include "problem_tuner.hpp"

namespace arbiter {

using namespace tuning;

namespace {

bool is_plain(Group& group, const ProblemFamily& family) { return !group.catalogue().epilogue(family.pattern).rows; }

/// Refused before anything is opened or launched.
void check(Group& group, const TuneOptions& options) {
  if (options.families.empty()) throw InvalidArgument("nothing to tune: pass at least one family");
  if (options.database.empty()) throw InvalidArgument("no database to store the result in: pass its path");
  if (group.size() < 2) throw InvalidArgument("a tune needs at least 2 ranks; this group has 1");
  if (options.measure.replays < 1 || options.measure.min_calls < 1) {
    throw InvalidArgument("measure settings: replays and min_calls must be at least 1");
  }
  for (const ProblemFamily& family : options.families) {
    group.catalogue().epilogue(family.pattern);
    if (family.max_tokens < 1) {
      throw InvalidArgument("family '" + family.pattern + "': max_tokens is " + std::to_string(family.max_tokens) +
                            "; expected at least 1");
    }
    const std::size_t vector = vector_elements(family.dtype);
    if (family.hidden <= 0 || static_cast<std::size_t>(family.hidden) % vector != 0) {
      throw InvalidArgument("family '" + family.pattern + "': hidden is " + std::to_string(family.hidden) +
                            "; expected a positive multiple of " + std::to_string(vector));
    }
  }
}

std::vector<std::int64_t> sizes_of(const ProblemFamily& family, const std::vector<std::int64_t>& asked) {
  if (asked.empty()) return token_grid(family.max_tokens);
  std::vector<std::int64_t> sizes;
  for (const std::int64_t tokens : asked) {
    if (tokens < 1) throw InvalidArgument("tokens = " + std::to_string(tokens) + "; expected at least 1");
    if (tokens <= family.max_tokens) sizes.push_back(tokens);
  }
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  if (sizes.empty()) {
    throw InvalidArgument("none of the sizes to measure is at most max_tokens = " + std::to_string(family.max_tokens));
  }
  return sizes;
}

/// One size of one family.
struct Step {
  std::size_t family = 0;
  std::int64_t tokens = 0;
};

/// Coarse to fine over all families together, so that whenever the time is spent, every family is covered evenly; at
/// each level plain families come before the fused ones that build on them.
std::vector<Step> plan(Group& group, const std::vector<std::unique_ptr<FamilyState>>& states) {
  std::vector<std::size_t> order;
  for (const bool plain : {true, false}) {
    for (std::size_t i = 0; i < states.size(); ++i) {
      if (is_plain(group, states[i]->family) == plain) order.push_back(i);
    }
  }
  std::vector<Step> steps;
  std::vector<std::vector<std::size_t>> levels;
  std::size_t longest = 0;
  for (const auto& state : states) {
    levels.push_back(coarse_to_fine(state->sizes.size()));
    longest = std::max(longest, state->sizes.size());
  }
  for (std::size_t level = 0; level < longest; ++level) {
    for (const std::size_t i : order) {
      if (level < levels[i].size()) steps.push_back({i, states[i]->sizes[levels[i][level]]});
    }
  }
  return steps;
}

/// The plain allreduce that an unfused candidate of `state` starts with: the winner of the plain family of the same
/// shape, measured in this run or decided in an earlier one.
std::vector<CandidateSpec> plain_winners(Group& group, const std::vector<std::unique_ptr<FamilyState>>& states,
                                         const Ledger& ledger, const FamilyState& state, std::int64_t tokens,
                                         const ChoiceRules& rules) {
  if (is_plain(group, state.family)) return {};
  for (const auto& other : states) {
    const ProblemFamily& family = other->family;
    if (!is_plain(group, family) || family.dtype != state.family.dtype || family.hidden != state.family.hidden ||
        family.mode != state.family.mode) {
      continue;
    }
    if (const std::optional<Candidate> winner = other->winner_near(tokens, rules)) {
      if (const auto index = other->space.find(winner->name)) return {other->space.spec(*index)};
    }
  }
  ProblemFamily family = state.family;
  family.pattern = "allreduce";
  for (const Decision& decision : ledger.previous_decisions()) {
    if (!belongs(decision, family, group.size()) || tokens < decision.tokens_min || tokens > decision.tokens_max) {
      continue;
    }
    try {
      return {CandidateSpec::parse(group.catalogue(), decision.candidate.name, family, group.size())};
    } catch (const InvalidArgument&) {
      return {};  // decided with another catalogue; NCCL's unfused candidates remain
    }
  }
  return {};
}

}  // namespace

CandidateSource CandidateSource::runtime() {
  CandidateSource source;
  source.enumerate = [](Group& group, const ProblemFamily& family, std::span<const CandidateSpec> best_plain) {
    return enumerate_candidates(group, family, best_plain);
  };
  source.load = [](Group& group, const CandidateSpec& spec, const ProblemFamily& family) {
    const LoadRequest request{spec, family};
    return std::move(load_on_all_ranks(group, {&request, 1}).front());
  };
  return source;
}

SearchEffort SearchEffort::for_device(DeviceKind kind) noexcept {
  SearchEffort effort;
  if (kind == DeviceKind::cuda) return effort;
  effort.anchor_candidates = 6;
  effort.candidates = 5;
  effort.anchors = 1;
  effort.finalists = 2;
  effort.final_samples = 6;
  effort.compiles = 8;
  return effort;
}

TuneResult tune(Group& group, const TuneOptions& options, ProgressSink* sink) {
  check(group, options);
  std::vector<std::unique_ptr<FamilyState>> states;
  for (const ProblemFamily& family : options.families) {
    states.push_back(std::make_unique<FamilyState>(family, sizes_of(family, options.tokens),
                                                   options.source.enumerate(group, family, {})));
  }
  const std::vector<Step> steps = plan(group, states);
  TuneResult result;
  result.problems = steps.size();
  Ledger ledger(group, options);
  const double budget_s = std::chrono::duration<double>(options.budget).count();

  std::size_t done = 0;
  Progress progress;
  Signals signals;
  TuneContext context{group, options, ledger, result, {}, {}};
  context.should_stop = [&] {
    signals = ledger.signals();
    result.cancelled = result.cancelled || signals.cancelled;
    result.budget_spent = result.budget_spent || (budget_s > 0 && signals.elapsed_s >= budget_s);
    return result.cancelled || result.budget_spent;
  };
  context.report = [&](const std::string& candidate, const std::string& best, double best_us) {
    if (sink == nullptr) return;
    progress.candidate = candidate;
    progress.done = done;
    progress.total = steps.size();
    progress.best = best;
    progress.best_us = best_us;
    progress.elapsed_s = signals.elapsed_s;
    const double left = static_cast<double>(steps.size() - done);
    progress.left_s = done > 0 ? signals.elapsed_s / static_cast<double>(done) * left : 0;
    if (budget_s > 0) progress.left_s = std::min(progress.left_s, std::max(0.0, budget_s - signals.elapsed_s));
    sink->update(progress);
  };

  std::vector<std::unique_ptr<Verifier>> verifiers(states.size());
  for (const Step& step : steps) {
    if (context.should_stop()) break;
    FamilyState& state = *states[step.family];
    if (!verifiers[step.family]) verifiers[step.family] = std::make_unique<Verifier>(group, state.family);
    Problem problem{state.family.pattern,
                    state.family.dtype,
                    state.family.hidden,
                    step.tokens,
                    group.size(),
                    state.family.mode,
                    false};
    progress.doing = problem.name();
    context.report("", "", 0);
    // A fair share of what is left, and half as much again, because the first sizes explore most.
    const double left_s = budget_s - signals.elapsed_s;
    const double share = left_s / static_cast<double>(steps.size() - done);
    const double explore_until_s = budget_s > 0 ? signals.elapsed_s + 1.5 * share : 1e18;
    ProblemTuner problem_tuner(context, state, *verifiers[step.family], step.tokens,
                               plain_winners(group, states, ledger, state, step.tokens, options.rules));
    problem_tuner.run(explore_until_s);
    ++done;
  }

  std::vector<ProblemFamily> decided;
  for (const auto& state : states) {
    std::vector<SizeResult> sizes;
    for (const auto& [tokens, size] : state->results) sizes.push_back(size);
    std::vector<Decision> decisions =
        decide(state->family, group.size(), sizes, ledger.previous_decisions(), options.rules);
    if (decisions.empty()) {
      result.notes.push_back("nothing was measured for " + state->family.pattern + " hidden=" +
                             std::to_string(state->family.hidden) + "; its earlier decisions, if any, stay");
      continue;
    }
    decided.push_back(state->family);
    result.decisions.insert(result.decisions.end(), decisions.begin(), decisions.end());
  }
  ledger.store(result.decisions, decided);
  if (ledger.finish_run()) result.notes.push_back("the SM clock dropped by more than 5% during this run");
  result.seconds = ledger.signals().elapsed_s;
  progress.doing.clear();
  done = result.measured + result.resumed;
  context.report("", "", 0);
  return result;
}

}  // namespace arbiter
