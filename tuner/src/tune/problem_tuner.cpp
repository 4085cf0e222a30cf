// Which candidates of a problem are screened, and in which order.
#include "tune/problem_tuner.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "arbiter/error.hpp"
#include "oracle/random.hpp"
#include "oracle/seed.hpp"
#include "tune/measured.hpp"
#include "tune/outcome.hpp"
#include "tune/stopwatch.hpp"

namespace arbiter::tuning {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr std::size_t most_loaded = 128;  // kernels kept per family; loading one again costs a cache read
constexpr std::size_t always_tried = 4;   // a decision needs something to decide between
constexpr std::size_t from_neighbours = 12;
constexpr double contender = 1.02;  // a pruned candidate that comes this close to the best was pruned wrongly

/// Is `spec` the plain allreduce `plain` with other kernels around it?
bool built_from(const CandidateSpec& spec, const CandidateSpec& plain) {
  return spec.kernel == plain.kernel && spec.max_blocks == plain.max_blocks && spec.nccl == plain.nccl &&
         spec.forced == plain.forced;
}

}  // namespace

bool is_nccl(const CandidateSpec& spec) noexcept { return spec.backend() == Backend::nccl; }

std::optional<Candidate> FamilyState::winner_near(std::int64_t tokens, const ChoiceRules& rules,
                                                  bool exact_only) const {
  const SizeResult* nearest = nullptr;
  double best = infinity;
  for (const auto& [size, result] : results) {
    const double distance = std::fabs(std::log(static_cast<double>(size) / static_cast<double>(tokens)));
    if (result.candidates.empty() || distance >= best) continue;
    best = distance;
    nearest = &result;
  }
  if (nearest == nullptr) return std::nullopt;
  std::vector<Measured> candidates = nearest->candidates;
  if (exact_only) {
    std::erase_if(candidates, [](const Measured& m) { return m.candidate.numerics == Numerics::fp8_transport; });
  }
  const std::optional<Choice> choice = choose(candidates, std::nullopt, rules);
  return choice ? std::optional(candidates[choice->index].candidate) : std::nullopt;
}

ProblemTuner::ProblemTuner(TuneContext& context, FamilyState& state, Verifier& verifier, std::int64_t tokens,
                           const std::vector<CandidateSpec>& best_plain)
    : context_(context),
      state_(state),
      verifier_(verifier),
      tokens_(tokens),
      best_plain_(best_plain),
      screened_(state.screened[tokens]),
      known_(state.known[tokens]) {
  problem_.pattern = state.family.pattern;
  problem_.dtype = state.family.dtype;
  problem_.hidden = state.family.hidden;
  problem_.tokens = tokens;
  problem_.world = context.group.size();
  problem_.mode = state.family.mode;
  // Between problems only: within one, what is being timed refers to its candidate.
  while (state.loaded.size() > most_loaded) state.loaded.pop_back();
  if (!best_plain.empty()) {
    for (const CandidateSpec& spec : context.options.source.enumerate(context.group, state.family, best_plain)) {
      if (!spec.fused()) state.space.add(spec);
    }
  }
}

void ProblemTuner::explore(double explore_until_s) {
  const bool visited = state_.results.count(tokens_) != 0;
  if (!visited && context_.options.resume && adopt()) {
    ++context_.result.resumed;
    return;
  }
  const bool anchor = state_.results.size() < static_cast<std::size_t>(context_.options.effort.anchors);
  const int limit = anchor ? context_.options.effort.anchor_candidates : context_.options.effort.candidates;
  if (!make_tensors()) return;
  screened_.clear();  // what is known comes back from known_, without being measured
  state_.cut_short.erase(tokens_);
  search(seeds(), static_cast<std::size_t>(limit), explore_until_s, true);
  if (context_.result.cancelled) return;  // a resumed run goes on from the trials that are finished
  std::vector<Trial> also_measured;
  const std::vector<std::size_t> chosen = finalists(also_measured);
  measure_finalists(chosen, context_.options.effort.final_samples, std::move(also_measured));
  if (!visited) ++context_.result.measured;
  account();
  teach_model();
}

void ProblemTuner::narrow(std::int64_t below, std::int64_t above) {
  if (context_.options.resume && adopt()) {
    ++context_.result.resumed;
    return;
  }
  if (!make_tensors()) return;
  std::vector<std::size_t> order;
  const auto add = [&](std::size_t index) {
    if (std::find(order.begin(), order.end(), index) == order.end()) order.push_back(index);
  };
  for (const std::int64_t side : {below, above}) {
    for (const Measured& measured : state_.results.at(side).candidates) {
      if (const auto index = state_.space.find(measured.candidate.name)) add(*index);
    }
  }
  for (const std::size_t index : incumbents()) add(index);
  search(order, order.size(), infinity, false);
  if (context_.result.cancelled) return;
  std::vector<Trial> also_measured;
  const std::vector<std::size_t> chosen = finalists(also_measured);
  measure_finalists(chosen, context_.options.effort.final_samples, std::move(also_measured));
  ++context_.result.measured;
  teach_model();
}

void ProblemTuner::measure_again(int times) {
  std::vector<std::size_t> chosen;
  for (const Measured& measured : state_.results.at(tokens_).candidates) {
    if (const auto index = state_.space.find(measured.candidate.name)) chosen.push_back(*index);
  }
  if (make_tensors()) measure_finalists(std::move(chosen), times * context_.options.effort.final_samples, {});
}

/// False, on every rank, if one has no memory for this size: it is left out, and the others are measured.
bool ProblemTuner::make_tensors() {
  const Stopwatch watch(context_.result.times.tensors);
  try {
    timing_.emplace(context_.group, state_.family, tokens_, context_.options.measure, &verifier_);
    return true;
  } catch (const Unavailable& error) {  // on every rank, in its own words
    const std::string reason = context_.group.bootstrap().broadcast(std::string(error.what()), 0);
    state_.obstacle = problem_.name() + " was not measured: " + reason;
    context_.result.notes.push_back(state_.obstacle);
    state_.results.try_emplace(tokens_, SizeResult{tokens_, {}});
    return false;
  }
}

/// Takes over the finished trials of an earlier run. False if the problem has to be measured, or only partly was.
bool ProblemTuner::adopt() {
  for (Trial& trial : context_.ledger.previous(problem_)) remember(trial);
  bool finished = true;
  SizeResult size{tokens_, {}};
  for (const auto& [key, trial] : known_) {
    if (is_to_be_repeated(trial)) finished = false;
    // Finalists are recorded together: either all of them are done, or none is.
    if (trial.status != TrialStatus::done) continue;
    const std::optional<std::size_t> index = state_.space.find(trial.candidate.name);
    if (!index) continue;
    // A kernel whose source changed since is another kernel: then this problem is measured again.
    const RunnableCandidate* candidate = load(*index);
    if (candidate == nullptr || candidate->record().source_hash != trial.candidate.source_hash) {
      finished = false;
      continue;
    }
    size.candidates.push_back(measured_of(trial));
  }
  if (!finished || size.candidates.empty()) return false;
  for (const auto& [key, trial] : known_) {
    const std::optional<std::size_t> index = state_.space.find(trial.candidate.name);
    if (!index) continue;
    if (is_broken(trial)) state_.broken.insert(*index);
    if (trial.status != TrialStatus::done && trial.status != TrialStatus::pruned) continue;
    screened_[*index] = trial.samples_us.empty() ? infinity : median(trial.samples_us);
  }
  state_.results[tokens_] = std::move(size);
  teach_model();
  return true;
}

/// Not to be tried again.
bool ProblemTuner::is_broken(const Trial& trial) const {
  if (is_to_be_repeated(trial)) return false;
  return trial.status == TrialStatus::wrong || trial.status == TrialStatus::failed ||
         trial.status == TrialStatus::crashed;
}

/// It says nothing about the candidate: everything ended at once, or the machine had not what it needed.
bool ProblemTuner::is_to_be_repeated(const Trial& trial) const {
  const bool of_this_run = repeated_.count(trial.candidate.name) != 0;
  if (trial.status == TrialStatus::failed) return is_passing(trial.reason) && !of_this_run;
  // "two processes ended": how earlier versions said so.
  return trial.status == TrialStatus::crashed &&
         (trial.reason == crashed_with_command || trial.reason == "two processes ended during this trial");
}

/// A candidate of this size was screened, and is a finalist or not: it counts once, however often it is visited.
void ProblemTuner::count_screened_out(std::size_t index, bool out) {
  if (out && state_.screened_out.emplace(tokens_, index).second) ++context_.result.pruned;
  if (!out && state_.screened_out.erase({tokens_, index}) != 0) --context_.result.pruned;
}

/// What the search left out, and why.
void ProblemTuner::account() {
  TuneResult& result = context_.result;
  const std::vector<std::size_t> leaders = best_screened(1);
  if (leaders.empty()) return;
  const double best = screened_.at(leaders.front());
  std::size_t by_model = 0, never = 0;
  for (std::size_t i = 0; i < state_.space.size(); ++i) {
    if (screened_.count(i) != 0) continue;
    ++(state_.model.hopeless(i, state_.space.group(i), state_.bytes(tokens_), best) ? by_model : never);
  }
  // A later visit of the same size knows better, and replaces what was counted.
  auto& [pruned_before, never_before] = state_.left_out[tokens_];
  result.model_pruned += by_model - pruned_before;
  result.never_tried += never - never_before;
  pruned_before = by_model;
  never_before = never;
  result.model_controls += controls_.size();
  for (const std::size_t index : controls_) {
    const auto at = screened_.find(index);
    if (at == screened_.end() || at->second > contender * best) continue;
    ++result.model_regrets;
    result.notes.push_back(state_.space.name(index) + " on " + problem_.name() +
                           ": the cost model would have pruned it, and it came within 2% of the best");
  }
}

/// Only when the size is done, so that nothing depends on the order in which its candidates were measured.
void ProblemTuner::teach_model() {
  TuneResult& result = context_.result;
  std::vector<CostObservation> observations;
  for (const auto& [index, us] : screened_) observations.push_back({index, state_.space.group(index), us});
  const std::size_t checked = state_.model.checked();
  const std::optional<CostMiss> worst = state_.model.observe(state_.bytes(tokens_), observations);
  result.model_predictions += state_.model.checked() - checked;
  if (!worst || std::fabs(std::log(worst->ratio)) <= std::fabs(std::log(result.model_worst_ratio))) return;
  result.model_worst_ratio = worst->ratio;
  result.model_worst = state_.space.name(worst->candidate) + " on " + problem_.name();
}

/// Who may not be left out: what was decided before for this size.
std::vector<std::size_t> ProblemTuner::incumbents() const {
  std::vector<std::size_t> order;
  for (const Decision& decision : context_.ledger.previous_decisions()) {
    if (!belongs(decision, state_.family, context_.group.size())) continue;
    if (tokens_ < decision.tokens_min || decision.tokens_max < tokens_) continue;
    if (const auto index = state_.space.find(decision.candidate.name)) order.push_back(*index);
  }
  return order;
}

/// Candidates to screen first, best guess first.
std::vector<std::size_t> ProblemTuner::seeds() {
  std::vector<std::size_t> order;
  const auto add = [&](std::size_t index) {
    if (std::find(order.begin(), order.end(), index) == order.end()) order.push_back(index);
  };
  std::vector<const Screened*> neighbours;
  const auto above = state_.screened.upper_bound(tokens_);
  if (above != state_.screened.end() && !above->second.empty()) neighbours.push_back(&above->second);
  const auto here = state_.screened.find(tokens_);
  if (here != state_.screened.begin()) neighbours.push_back(&std::prev(here)->second);

  // NCCL is always measured, and so is the best plain allreduce with the epilogue behind it: totals are compared.
  for (std::size_t i = 0; i < state_.space.size(); ++i) {
    if (is_protected(i)) add(i);
  }
  for (const Screened* screened : neighbours) {
    std::optional<std::size_t> nccl;
    for (const auto& [index, us] : *screened) {
      if (is_nccl(state_.space.spec(index)) && std::isfinite(us) && (!nccl || us < screened->at(*nccl))) nccl = index;
    }
    if (nccl) add(*nccl);
  }
  for (const std::size_t index : incumbents()) add(index);
  for (const std::size_t index : suggested(state_.space, neighbours, from_neighbours)) add(index);

  const std::vector<std::size_t> spread = state_.space.spread();
  if (state_.results.size() < static_cast<std::size_t>(context_.options.effort.anchors) || neighbours.empty()) {
    for (const std::size_t index : spread) add(index);
    return order;
  }
  // Algorithms that no neighbour has seen get their default tried.
  for (std::size_t i = 0; i < std::min(spread.size(), state_.space.group_count()); ++i) add(spread[i]);
  // Something that nothing suggests, pruned or not, so that a mistake made early, or by the model, can still be found.
  Random random(seed_of(problem_, context_.options.seed));
  for (int i = 0; i < 2 && !spread.empty(); ++i) {
    const std::size_t index = spread[random.below(spread.size())];
    if (std::find(order.begin(), order.end(), index) != order.end()) continue;
    add(index);
    controls_.insert(index);
  }
  return order;
}

/// The first of every way to use NCCL, and of every way to put the pattern around the best plain allreduce.
bool ProblemTuner::is_protected(std::size_t index) const {
  const CandidateSpec& spec = state_.space.spec(index);
  const bool unfused = !spec.fused() && std::any_of(best_plain_.begin(), best_plain_.end(),
                                                    [&](const auto& plain) { return built_from(spec, plain); });
  if (!is_nccl(spec) && !unfused) return false;
  for (std::size_t i = 0; i < index; ++i) {
    if (state_.space.group(i) == state_.space.group(index)) return false;
  }
  return true;
}

bool ProblemTuner::pruned_by_model(std::size_t index) {
  const std::vector<std::size_t> leaders = best_screened(1, is_exact(index));
  const bool pruned =
      !leaders.empty() && !is_protected(index) &&
      state_.model.hopeless(index, state_.space.group(index), state_.bytes(tokens_), screened_.at(leaders.front()));
  if (controls_.count(index) == 0) return pruned;
  if (!pruned) controls_.erase(index);  // it says nothing about pruning
  return false;
}

void ProblemTuner::search(const std::vector<std::size_t>& order, std::size_t limit, double explore_until_s,
                          bool climb) {
  const auto may_go_on = [&] {
    if (tried_ >= limit || context_.should_stop()) return false;
    if (tried_ < always_tried || context_.ledger.signals().elapsed_s < explore_until_s) return true;
    state_.cut_short.insert(tokens_);
    return false;
  };
  compile_soon(order, limit);
  for (const std::size_t index : order) {
    if (climb && pruned_by_model(index)) continue;
    if (!may_go_on()) return;
    screen(index);
  }
  double best = infinity;
  while (climb) {
    const std::vector<std::size_t> leaders = best_screened(1);
    if (leaders.empty() || screened_.at(leaders.front()) > 0.99 * best) return;
    best = screened_.at(leaders.front());
    const std::vector<std::size_t> adjacent = state_.space.adjacent(leaders.front());
    compile_soon(adjacent, limit - std::min(limit, tried_));
    for (const std::size_t index : adjacent) {
      if (screened_.count(index) != 0 || pruned_by_model(index)) continue;
      if (!may_go_on()) return;
      screen(index);
    }
  }
}

/// The first `limit` of these that are not loaded yet, before whatever else waits to be compiled.
void ProblemTuner::compile_soon(std::span<const std::size_t> order, std::size_t limit) {
  std::vector<CandidateSpec> specs;
  for (const std::size_t index : order) {
    if (specs.size() >= limit) break;
    const bool loaded = std::any_of(state_.loaded.begin(), state_.loaded.end(),
                                    [&](const auto& candidate) { return candidate.first == index; });
    if (!loaded && screened_.count(index) == 0 && state_.broken.count(index) == 0) {
      specs.push_back(state_.space.spec(index));
    }
  }
  context_.ahead.soon(specs);
}

bool ProblemTuner::is_exact(std::size_t index) const {
  return numerics_of(context_.group.catalogue(), state_.space.spec(index)) != Numerics::fp8_transport;
}

std::vector<std::size_t> ProblemTuner::best_screened(std::size_t count, bool exact_only) const {
  std::vector<std::size_t> order;
  for (const auto& [index, us] : screened_) {
    if (std::isfinite(us) && (!exact_only || is_exact(index))) order.push_back(index);
  }
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::make_pair(screened_.at(a), a) < std::make_pair(screened_.at(b), b);
  });
  if (order.size() > count) order.resize(count);
  return order;
}

}  // namespace arbiter::tuning
