#include "tune/run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <thread>

#include "arbiter/db/family_text.hpp"
#include "arbiter/error.hpp"
#include "tune/measured.hpp"

namespace arbiter::tuning {
namespace {

constexpr double unlimited = 1e18;
constexpr int most_repeats = 2;  // of a close call: each has twice the samples of the one before
constexpr int most_rounds = 2;   // of learning from neighbours, and of what is bisected anew because of it
constexpr double nearby = 2;     // times as many tokens, or half as many

int threads_of(Group& group, const TuneOptions& options) {
  if (!options.compile_threads) return compile_threads(group);
  // Of the CPU device, one source holds the kernels of all ranks.
  const bool compiles = group.cache().keeps() && (group.device().kind() != DeviceKind::cpu || group.rank() == 0);
  return compiles ? *options.compile_threads : 0;
}

}  // namespace

TuneRun::TuneRun(Group& group, const TuneOptions& options, std::vector<std::unique_ptr<FamilyState>> states,
                 ProgressSink* sink)
    : group_(group),
      options_(options),
      states_(std::move(states)),
      sink_(sink),
      ledger_(group, options),
      watchdog_(options.stuck_after, options.on_stuck, options.now),
      ahead_(threads_of(group, options), options.source.compile
                                             ? CompileAhead::Compile([&group, &options](const Variant& variant) {
                                                 options.source.compile(group, variant);
                                               })
                                             : CompileAhead::Compile()),
      context_{group, options, ledger_, result_, ahead_, {}, {}},
      verifiers_(states_.size()) {
  for (const auto& state : states_) plain_.push_back(!group.catalogue().pattern(state->family.pattern).rows);
  steps_ = grid_steps(states_, plain_);
  result_.problems = steps_.size();
  budget_s_ = std::chrono::duration<double>(options.budget).count();
  group.bootstrap().broadcast(&budget_s_, sizeof(budget_s_), 0);  // the clock is rank 0's too
  context_.should_stop = [this] { return should_stop(); };
  context_.report = [this](const std::string& candidate, const std::string& best, double best_us) {
    report(candidate, best, best_us);
  };
}

TuneResult TuneRun::run() {
  compile_first_kernels();
  measure_grid();
  search_on();
  bisect();
  for (int round = 0; round < most_rounds && learn_from_neighbours(); ++round) bisect();
  settle_close_calls();
  ahead_.stop();
  result_.decisions = decide_all();
  if (const std::string reason = group_.capabilities().nccl_forcing_reason;
      group_.nccl() != nullptr && !reason.empty()) {
    result_.notes.push_back("NCCL was measured only as it chooses: " + reason);
  }
  if (const std::string dropped = ledger_.finish_run(); !dropped.empty()) result_.notes.push_back(dropped);
  result_.seconds = ledger_.signals().elapsed_s;
  result_.times.record = ledger_.seconds();
  result_.times.compile = ahead_.seconds();
  progress_.doing.clear();
  done_ = result_.measured + result_.resumed;
  report("", "", 0);
  return std::move(result_);
}

/// At the first size of a family nothing is known yet, and most of what is tried there is not compiled.
void TuneRun::compile_first_kernels() {
  std::set<std::size_t> families;
  for (const Step& step : steps_) {
    if (!families.insert(step.family).second) continue;
    const SearchSpace& space = states_[step.family]->space;
    std::vector<std::size_t> order = space.spread();
    const auto limit = static_cast<std::size_t>(std::max(options_.effort.anchor_candidates, 0));
    if (order.size() > limit) order.resize(limit);
    for (const std::size_t index : order) ahead_.later(space.spec(index));
  }
}

void TuneRun::measure_grid() {
  for (const Step& step : steps_) {
    if (should_stop() || !time_for_another()) return;
    // A fair share of what is left, and half as much again, because the first sizes explore most.
    const double share = (budget_s_ - signals_.elapsed_s) / static_cast<double>(steps_.size() - done_);
    ProblemTuner tuner = problem(step);
    tuner.explore(budget_s_ > 0 ? signals_.elapsed_s + std::max(0.0, 1.5 * share - finals_s_) : unlimited);
    finished(tuner);
  }
}

/// Every size has been measured, some with less searching than they deserve.
void TuneRun::search_on() {
  if (budget_s_ == 0) return;
  for (const Step& step : steps_) {
    if (states_[step.family]->cut_short.count(step.tokens) == 0) continue;
    if (should_stop() || !time_for_another()) return;
    ProblemTuner tuner = problem(step);
    tuner.explore(unlimited);
    finished(tuner);
  }
}

std::vector<std::size_t> TuneRun::plain_first() const {
  std::vector<std::size_t> order(states_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_partition(order.begin(), order.end(), [&](std::size_t family) { return is_plain(family); });
  return order;
}

/// Halves the intervals between sizes with different winners, until they are narrow enough.
void TuneRun::bisect() {
  if (!options_.tokens.empty()) return;
  for (const std::size_t family : plain_first()) {
    FamilyState& state = *states_[family];
    std::set<std::int64_t> tried;
    for (int i = 0; i < options_.effort.bisections; ++i) {
      if (should_stop() || !time_for_another()) return;
      const std::vector<SizeResult> sizes = results(state);
      const std::optional<Crossover> crossover =
          widest_crossover(winners(state.family, group_.size(), sizes, ledger_.previous_decisions(), options_.rules),
                           options_.effort.narrow_to, tried, options_.rules);
      if (!crossover) break;
      const std::int64_t middle = crossover->middle();
      tried.insert(middle);
      ++result_.problems;
      ++result_.bisected;
      ProblemTuner tuner = problem({family, middle});
      tuner.narrow(crossover->below, crossover->above);
      finished(tuner);
    }
  }
}

bool TuneRun::has_untried_neighbour(const FamilyState& state, std::span<const SizeWinner> all, std::size_t at) const {
  const auto tried = state.screened.find(all[at].tokens);
  if (tried == state.screened.end()) return false;
  const auto untried = [&](const SizeWinner& other) {
    const auto [small, large] = std::minmax(all[at].tokens, other.tokens);
    if (static_cast<double>(large) > nearby * static_cast<double>(small)) return false;
    const std::optional<std::size_t> index = state.space.find(other.measured().candidate.name);
    return index && tried->second.count(*index) == 0 && state.broken.count(*index) == 0 &&
           !state.model.hopeless(*index, state.space.group(*index), state.bytes(all[at].tokens),
                                 all[at].measured().summary.median_us);
  };
  return (at > 0 && untried(all[at - 1])) || (at + 1 < all.size() && untried(all[at + 1]));
}

/// A size is searched with what its neighbours knew at that time. What was found to win there since may win here, too:
/// times go up and down with the last round of a grid, so a climb alone does not always get there. True if a size was
/// searched again.
bool TuneRun::learn_from_neighbours() {
  bool searched = false;
  for (const std::size_t family : plain_first()) {
    const FamilyState& state = *states_[family];
    const std::vector<SizeResult> sizes = results(state);
    const std::vector<SizeWinner> all =
        winners(state.family, group_.size(), sizes, ledger_.previous_decisions(), options_.rules);
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (!has_untried_neighbour(state, all, i)) continue;
      if (should_stop() || !time_for_another()) return searched;
      ProblemTuner tuner = problem({family, all[i].tokens});
      tuner.explore(unlimited);
      finished(tuner);
      searched = true;
    }
  }
  return searched;
}

/// Only with a budget, which it may use up: more samples where they could change the winner.
void TuneRun::settle_close_calls() {
  if (budget_s_ == 0) return;
  for (int repeat = 1; repeat <= most_repeats; ++repeat) {
    for (std::size_t family = 0; family < states_.size(); ++family) {
      FamilyState& state = *states_[family];
      const std::vector<SizeResult> sizes = results(state);
      for (const SizeWinner& winner :
           winners(state.family, group_.size(), sizes, ledger_.previous_decisions(), options_.rules)) {
        if (!winner.choice.close) continue;
        if (should_stop() || !time_for_another()) return;
        ProblemTuner tuner = problem({family, winner.tokens});
        tuner.measure_again(1 << repeat);
        ++result_.measured_again;
        finished(tuner);
      }
    }
  }
}

std::vector<Decision> TuneRun::decide_all() {
  std::vector<ProblemFamily> decided;
  std::vector<Decision> all;
  for (const auto& state : states_) {
    const std::vector<SizeResult> sizes = results_with_file(*state);
    const std::vector<Decision> decisions =
        decide(state->family, group_.size(), sizes, ledger_.previous_decisions(), options_.rules);
    if (decisions.empty()) {
      result_.undecided.push_back(why_undecided(*state));
      continue;
    }
    decided.push_back(state->family);
    all.insert(all.end(), decisions.begin(), decisions.end());
  }
  ledger_.store(all, decided);
  return all;
}

bool TuneRun::should_stop() {
  signals_ = ledger_.signals();
  result_.cancelled = result_.cancelled || signals_.cancelled;
  // What has been begun is measured to the end, which takes time too.
  result_.budget_spent = result_.budget_spent || (budget_s_ > 0 && signals_.elapsed_s + finals_s_ >= budget_s_);
  return result_.cancelled || result_.budget_spent;
}

/// Is there time for the least that another problem takes?
bool TuneRun::time_for_another() {
  if (budget_s_ > 0 && signals_.elapsed_s + 2 * finals_s_ >= budget_s_) result_.budget_spent = true;
  return !result_.budget_spent;
}

void TuneRun::report(const std::string& candidate, const std::string& best, double best_us) {
  watchdog_.progress((candidate.empty() ? "" : candidate + " on ") + progress_.doing);
  if (sink_ == nullptr) return;
  progress_.candidate = candidate;
  progress_.done = done_;
  progress_.total = result_.problems;
  progress_.best = best;
  progress_.best_us = best_us;
  progress_.elapsed_s = signals_.elapsed_s;
  const auto left = static_cast<double>(progress_.total - std::min(done_, progress_.total));
  progress_.left_s = done_ > 0 ? signals_.elapsed_s / static_cast<double>(done_) * left : 0;
  if (budget_s_ > 0) progress_.left_s = std::min(progress_.left_s, std::max(0.0, budget_s_ - signals_.elapsed_s));
  sink_->update(progress_);
}

Verifier& TuneRun::verifier(std::size_t family) {
  if (!verifiers_[family]) verifiers_[family] = std::make_unique<Verifier>(group_, states_[family]->family);
  return *verifiers_[family];
}

ProblemTuner TuneRun::problem(const Step& step) {
  FamilyState& state = *states_[step.family];
  progress_.doing = Problem{state.family.pattern,
                            state.family.dtype,
                            state.family.hidden,
                            step.tokens,
                            group_.size(),
                            state.family.mode,
                            false}
                        .name();
  report("", "", 0);
  return {context_, state, verifier(step.family), step.tokens, plain_winners(state, step.tokens)};
}

void TuneRun::finished(const ProblemTuner& tuner) {
  // Slowly forgotten, so that one large message is not taken for the rule.
  finals_s_ = std::max(tuner.finals_seconds(), 0.8 * finals_s_);
  done_ = std::min(done_ + 1, result_.problems);
  ledger_.watch_clocks();
}

/// The plain allreduce that an unfused candidate of `state` starts with: the winner of the plain family of the same
/// shape, measured in this run or decided in an earlier one; and the best exact one, if the winner sends 8-bit values.
std::vector<CandidateSpec> TuneRun::plain_winners(const FamilyState& state, std::int64_t tokens) const {
  if (!group_.catalogue().pattern(state.family.pattern).rows) return {};
  for (std::size_t i = 0; i < states_.size(); ++i) {
    const FamilyState& other = *states_[i];
    const ProblemFamily& family = other.family;
    if (!is_plain(i) || family.dtype != state.family.dtype || family.hidden != state.family.hidden ||
        family.mode != state.family.mode) {
      continue;
    }
    std::vector<CandidateSpec> best;
    for (const bool exact_only : {false, true}) {
      const std::optional<Candidate> winner = other.winner_near(tokens, options_.rules, exact_only);
      const auto index = winner ? other.space.find(winner->name) : std::nullopt;
      if (!index) continue;
      const CandidateSpec& spec = other.space.spec(*index);
      if (std::find(best.begin(), best.end(), spec) == best.end()) best.push_back(spec);
    }
    if (!best.empty()) return best;
  }
  ProblemFamily family = state.family;
  family.pattern = "allreduce";
  for (const Decision& decision : ledger_.previous_decisions()) {
    if (!belongs(decision, family, group_.size()) || tokens < decision.tokens_min || tokens > decision.tokens_max) {
      continue;
    }
    try {
      std::vector<CandidateSpec> best;
      const auto add = [&](const Candidate& candidate) {
        best.push_back(CandidateSpec::parse(group_.catalogue(), candidate.name, family, group_.size()));
      };
      const bool lossy = decision.candidate.numerics == Numerics::fp8_transport;
      if (!lossy || group_.variables().numerics == NumericsPolicy::lossy) add(decision.candidate);
      if (lossy && decision.runner_up) add(*decision.runner_up);
      return best;
    } catch (const InvalidArgument&) {
      return {};  // decided with another catalogue; NCCL's unfused candidates remain
    }
  }
  return {};
}

/// "allreduce bf16 hidden=4096 graph on 12 ranks: why"
std::string TuneRun::why_undecided(const FamilyState& state) const {
  const ProblemFamily& family = state.family;
  std::string text = fmt::format("{} {} on {} ranks: ", family_text(family), to_string(family.mode), group_.size());
  if (state.space.size() == 0) {
    std::vector<Excluded> excluded;
    enumerate_candidates(group_.capabilities(), family, {}, &excluded);
    text += "nothing can serve it";
    if (!excluded.empty()) text += "; kernels: " + excluded.front().reason;
    if (!group_.capabilities().nccl_reason.empty()) text += "; NCCL: " + group_.capabilities().nccl_reason;
    return text;
  }
  if (!state.obstacle.empty()) return text + state.obstacle;
  if (result_.cancelled) return text + "the tune was stopped before anything was measured; go on with --resume";
  if (result_.budget_spent) return text + "the budget was spent before anything was measured; give it more time";
  return text + "nothing was measured";
}

/// What this run has measured, and at all other sizes what any run of this environment has: a tune of a few sizes adds
/// to the file and takes nothing away. At a size of this run only what was measured together competes.
std::vector<SizeResult> TuneRun::results_with_file(const FamilyState& state) {
  std::vector<SizeResult> sizes;
  std::map<std::string, std::string> sources;  // by name, as they are now
  for (const auto& [tokens, size] : state.results) {
    if (size.candidates.empty()) continue;
    sizes.push_back(size);
    for (const Measured& measured : size.candidates) {
      sources.emplace(measured.candidate.name, measured.candidate.source_hash);
    }
  }
  for (const std::vector<Trial>& trials : ledger_.measured(state.family)) {
    const Problem& problem = trials.front().problem;
    const auto here = state.results.find(problem.tokens);
    if (here != state.results.end() && !here->second.candidates.empty()) continue;
    SizeResult size{problem.tokens, {}};
    for (const Trial& trial : trials) {
      const auto index = state.space.find(trial.candidate.name);
      if (index && state.broken.count(*index) != 0) continue;
      const auto source = sources.find(trial.candidate.name);
      if (source != sources.end() && source->second != trial.candidate.source_hash) continue;
      size.candidates.push_back(measured_of(trial));
    }
    if (!size.candidates.empty()) sizes.push_back(std::move(size));
  }
  return sizes;
}

std::vector<SizeResult> TuneRun::results(const FamilyState& state) const {
  std::vector<SizeResult> sizes;
  for (const auto& [tokens, size] : state.results) sizes.push_back(size);
  return sizes;
}

}  // namespace arbiter::tuning
