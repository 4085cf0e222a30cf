#include "problem_tuner.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "arbiter/error.hpp"
#include "random.hpp"
#include "seed.hpp"

namespace arbiter::tuning {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr std::size_t most_loaded = 128;  // kernels kept per family; loading one again costs a cache read
constexpr double hopeless = 4;            // times slower than the best: not timed any further
constexpr double launch_bound_us = 25;    // below this, an estimate says more about the host than about the kernel
constexpr double near_best = 1.10;        // worth a second look before the finalists are picked

/// Candidates that launch the same grid of the same kernel at this size are one candidate.
std::string launch_key(const RunnableCandidate& candidate, std::int64_t tokens) {
  CandidateSpec spec = candidate.spec();
  if (!spec.kernel) return spec.name();
  spec.max_blocks = 0;
  return spec.name() + " x" + std::to_string(candidate.geometry(tokens).blocks);
}

int blocks_of(const RunnableCandidate& candidate, std::int64_t tokens) {
  return candidate.spec().kernel ? static_cast<int>(candidate.geometry(tokens).blocks) : 0;
}

}  // namespace

std::optional<Candidate> FamilyState::winner_near(std::int64_t tokens, const ChoiceRules& rules) const {
  const SizeResult* nearest = nullptr;
  double best = infinity;
  for (const auto& [size, result] : results) {
    const double distance = std::fabs(std::log(static_cast<double>(size) / static_cast<double>(tokens)));
    if (result.candidates.empty() || distance >= best) continue;
    best = distance;
    nearest = &result;
  }
  if (nearest == nullptr) return std::nullopt;
  return nearest->candidates[choose(nearest->candidates, std::nullopt, rules)->index].candidate;
}

ProblemTuner::ProblemTuner(TuneContext& context, FamilyState& state, Verifier& verifier, std::int64_t tokens,
                           const std::vector<CandidateSpec>& best_plain)
    : context_(context),
      state_(state),
      verifier_(verifier),
      tokens_(tokens),
      best_plain_(best_plain),
      screened_(state.screened[tokens]) {
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
      if (spec.epilogue) state.space.add(spec);
    }
  }
}

void ProblemTuner::run(double explore_until_s) {
  if (context_.options.resume && resume()) {
    ++context_.result.resumed;
    return;
  }
  timing_.emplace(context_.group, state_.family, tokens_, context_.options.measure);
  const bool anchor = state_.results.size() < static_cast<std::size_t>(context_.options.effort.anchors);
  const int limit = anchor ? context_.options.effort.anchor_candidates : context_.options.effort.candidates;
  explore(static_cast<std::size_t>(limit), explore_until_s);
  measure_finalists();
  std::size_t unseen = 0;
  for (std::size_t i = 0; i < state_.space.size(); ++i) unseen += screened_.count(i) == 0 ? 1 : 0;
  context_.result.never_tried += unseen;
  ++context_.result.measured;
}

/// Takes over the finished trials of an earlier run. False if the problem has to be measured.
bool ProblemTuner::resume() {
  previous_ = context_.ledger.previous(problem_);
  std::size_t done = 0, usable = 0;
  SizeResult size{tokens_, {}};
  for (const Trial& trial : previous_) {
    const bool has_samples = !trial.samples_us.empty();
    if (trial.status == TrialStatus::done) ++done;
    if (has_samples && (trial.status == TrialStatus::done || trial.status == TrialStatus::pruned)) ++usable;
  }
  // All finalists of the earlier run are there, or all candidates that ran at all.
  const auto finalists = static_cast<std::size_t>(context_.options.effort.finalists);
  if (done == 0 || done < std::min(finalists, usable)) return false;
  for (const Trial& trial : previous_) {
    const std::optional<std::size_t> index = state_.space.find(trial.candidate.name);
    if (!index) continue;
    if (trial.status == TrialStatus::done || trial.status == TrialStatus::pruned) {
      if (!trial.samples_us.empty()) screened_[*index] = median(trial.samples_us);
    }
    if (trial.status != TrialStatus::done) continue;
    // A kernel whose source changed since is another kernel: then this problem is measured again.
    const RunnableCandidate* candidate = load(*index);
    if (candidate == nullptr || candidate->record().source_hash != trial.candidate.source_hash) {
      screened_.clear();
      return false;
    }
    size.candidates.push_back({trial.candidate, trial.blocks, summarise(trial.samples_us, seed_of(problem_, 0))});
  }
  if (size.candidates.empty()) {
    screened_.clear();
    return false;
  }
  state_.results[tokens_] = std::move(size);
  return true;
}

/// Candidates to screen first, best guess first.
std::vector<std::size_t> ProblemTuner::seeds() const {
  std::vector<std::size_t> order;
  const auto add = [&](std::size_t index) {
    if (std::find(order.begin(), order.end(), index) == order.end()) order.push_back(index);
  };
  // NCCL is always measured, and so is the best plain allreduce with the epilogue behind it: totals are compared.
  std::set<std::size_t> groups;
  for (std::size_t i = 0; i < state_.space.size(); ++i) {
    const CandidateSpec& spec = state_.space.spec(i);
    const bool unfused = spec.epilogue && std::any_of(best_plain_.begin(), best_plain_.end(), [&](const auto& plain) {
                           return state_.space.name(i).starts_with(plain.name() + "+");
                         });
    if ((spec.backend() == Backend::nccl || unfused) && groups.insert(state_.space.group(i)).second) add(i);
  }
  for (const Decision& decision : context_.ledger.previous_decisions()) {
    if (!belongs(decision, state_.family, context_.group.size())) continue;
    if (tokens_ < decision.tokens_min || decision.tokens_max < tokens_) continue;
    if (const auto index = state_.space.find(decision.candidate.name)) add(*index);
  }
  std::vector<const Screened*> neighbours;
  const auto above = state_.screened.upper_bound(tokens_);
  if (above != state_.screened.end() && !above->second.empty()) neighbours.push_back(&above->second);
  auto below = state_.screened.find(tokens_);
  if (below != state_.screened.begin()) neighbours.push_back(&std::prev(below)->second);
  for (const std::size_t index : suggested(state_.space, neighbours, 12)) add(index);

  const std::vector<std::size_t> spread = state_.space.spread();
  if (state_.results.size() < static_cast<std::size_t>(context_.options.effort.anchors) || neighbours.empty()) {
    for (const std::size_t index : spread) add(index);
    return order;
  }
  // Algorithms that no neighbour has seen get their default tried.
  for (std::size_t i = 0; i < std::min(spread.size(), state_.space.group_count()); ++i) add(spread[i]);
  // Something that nothing suggests, so that a mistake made early can still be found.
  Random random(seed_of(problem_, context_.options.seed));
  for (int i = 0; i < 2 && !spread.empty(); ++i) add(spread[random.below(spread.size())]);
  return order;
}

void ProblemTuner::explore(std::size_t limit, double explore_until_s) {
  const auto may_go_on = [&] {
    if (tried_ >= limit || context_.should_stop()) return false;
    // A few are always tried: a decision needs something to decide between.
    return tried_ < 4 || context_.ledger.signals().elapsed_s < explore_until_s;
  };
  for (const std::size_t index : seeds()) {
    if (!may_go_on()) return;
    screen(index);
  }
  double best = infinity;
  for (;;) {
    const std::vector<std::size_t> leaders = best_screened(1);
    if (leaders.empty() || screened_.at(leaders.front()) > 0.99 * best) return;
    best = screened_.at(leaders.front());
    for (const std::size_t index : state_.space.adjacent(leaders.front())) {
      if (screened_.count(index) != 0) continue;
      if (!may_go_on()) return;
      screen(index);
    }
  }
}

RunnableCandidate* ProblemTuner::load(std::size_t index) {
  auto& loaded = state_.loaded;
  for (auto it = loaded.begin(); it != loaded.end(); ++it) {
    if (it->first != index) continue;
    loaded.splice(loaded.begin(), loaded, it);
    return loaded.front().second.get();
  }
  if (state_.kernels_loaded >= static_cast<std::size_t>(context_.options.effort.compiles)) return nullptr;
  ++state_.kernels_loaded;
  ++context_.result.kernels_loaded;
  LoadResult result = context_.options.source.load(context_.group, state_.space.spec(index), state_.family);
  if (!result.candidate) {
    state_.broken.insert(index);
    ++context_.result.failed;
    context_.result.notes.push_back(state_.space.name(index) + " cannot be loaded: " + result.reason);
    return nullptr;
  }
  // The workspace grows once per candidate, to what its largest size needs. No graph is alive here.
  try {
    const WorkspaceNeeds needs = result.candidate->needs(state_.sizes.back());
    context_.group.reserve(needs.push_bytes, needs.staging_bytes);
  } catch (const Poisoned&) {
    throw;
  } catch (const Error& error) {
    state_.broken.insert(index);
    ++context_.result.failed;
    context_.result.notes.push_back(state_.space.name(index) + " has no workspace: " + error.what());
    return nullptr;
  }
  loaded.emplace_front(index, std::move(result.candidate));
  return loaded.front().second.get();
}

bool ProblemTuner::already_failed(const Candidate& candidate) const {
  return std::any_of(previous_.begin(), previous_.end(), [&](const Trial& trial) {
    const bool bad = trial.status == TrialStatus::crashed || trial.status == TrialStatus::wrong ||
                     trial.status == TrialStatus::failed;
    return bad && trial.candidate == candidate;
  });
}

Trial ProblemTuner::trial_of(std::size_t index, TrialStatus status, const std::string& reason,
                             std::vector<double> samples) {
  Trial trial;
  trial.problem = problem_;
  const RunnableCandidate* candidate = load(index);
  trial.candidate = candidate->record();
  trial.blocks = blocks_of(*candidate, tokens_);
  trial.status = status;
  trial.reason = reason;
  trial.samples_us = std::move(samples);
  if (const auto entry = entries_.find(index); entry != entries_.end()) {
    trial.calls_per_sample = timing_->entry(entry->second).calls;
  }
  return trial;
}

void ProblemTuner::screen(std::size_t index) {
  if (screened_.count(index) != 0) return;
  screened_[index] = infinity;
  if (state_.broken.count(index) != 0) return;
  RunnableCandidate* candidate = load(index);
  if (candidate == nullptr) return;
  const auto [launch, fresh] = launches_.emplace(launch_key(*candidate, tokens_), index);
  if (!fresh) {
    screened_.erase(index);  // it is that other candidate
    return;
  }
  if (already_failed(candidate->record())) {
    state_.broken.insert(index);
    context_.result.notes.push_back(state_.space.name(index) + " is skipped: an earlier run of " + problem_.name() +
                                    " did not survive it or found it wrong");
    return;
  }

  const std::vector<std::size_t> leaders = best_screened(1);
  const std::string best_name = leaders.empty() ? "" : state_.space.name(leaders.front());
  const double best = leaders.empty() ? 0 : screened_.at(leaders.front());
  if (context_.report) context_.report(state_.space.name(index), best_name, best);
  ++tried_;
  ++context_.result.trials;
  context_.ledger.begin(problem_, candidate->record());

  const Subject subject = subject_of(*candidate);
  const Verification verification = verifier_.verify_before_timing(subject, tokens_);
  if (!verification.ok()) {
    state_.broken.insert(index);
    return decide_screened(index, verification.status, verification.reason, infinity);
  }
  const bool always = state_.space.spec(index).backend() == Backend::nccl;
  const double give_up = best > launch_bound_us && !always ? hopeless * best : 0;
  const std::size_t entry = timing_->add(subject, give_up);
  entries_[index] = entry;
  const bool too_slow = !timing_->entry(entry).ok() && give_up > 0 && timing_->entry(entry).estimate_us > give_up;
  if (!too_slow) timing_->sample({&entry, 1}, 1, context_.options.seed);
  timing_->release(entry);
  const Timing::Entry& timed = timing_->entry(entry);
  if (too_slow) return decide_screened(index, TrialStatus::pruned, timed.failure, infinity);
  if (!timed.ok()) {
    state_.broken.insert(index);
    return decide_screened(index, TrialStatus::failed, timed.failure, infinity);
  }
  decide_screened(index, TrialStatus::pruned, "screened", median(timed.samples_us));
}

void ProblemTuner::decide_screened(std::size_t index, TrialStatus status, const std::string& reason, double us) {
  screened_[index] = us;
  TuneResult& result = context_.result;
  if (status == TrialStatus::wrong) ++result.wrong;
  if (status == TrialStatus::failed) ++result.failed;
  if (status == TrialStatus::pruned) ++result.pruned;
  if (status == TrialStatus::wrong || status == TrialStatus::failed) {
    result.notes.push_back(state_.space.name(index) + " on " + problem_.name() + ": " + std::string(to_string(status)) +
                           ": " + reason);
  }
  std::vector<double> samples;
  if (const auto entry = entries_.find(index); entry != entries_.end() && status == TrialStatus::pruned) {
    samples = timing_->take_samples(entry->second);
  }
  context_.ledger.finish(trial_of(index, status, reason, std::move(samples)));
}

std::vector<std::size_t> ProblemTuner::best_screened(std::size_t count) const {
  std::vector<std::size_t> order;
  for (const auto& [index, us] : screened_) {
    if (std::isfinite(us)) order.push_back(index);
  }
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::make_pair(screened_.at(a), a) < std::make_pair(screened_.at(b), b);
  });
  if (order.size() > count) order.resize(count);
  return order;
}

/// The best few, after a second and interleaved look at those that came close; NCCL's best; the incumbents.
std::vector<std::size_t> ProblemTuner::finalists() {
  const auto wanted = static_cast<std::size_t>(context_.options.effort.finalists);
  std::vector<std::size_t> close = best_screened(2 * wanted + 2);
  if (close.empty()) return {};
  const double best = screened_.at(close.front());
  std::erase_if(close, [&](std::size_t index) { return screened_.at(index) > near_best * best; });
  if (close.size() > wanted) {
    std::vector<std::size_t> which;
    for (const std::size_t index : close) which.push_back(entries_.at(index));
    timing_->sample(which, 2, seed_of(problem_, context_.options.seed));
    for (const std::size_t index : close) {
      timing_->release(entries_.at(index));
      const std::vector<double> samples = timing_->take_samples(entries_.at(index));
      screened_[index] = timing_->entry(entries_.at(index)).ok() ? median(samples) : infinity;
    }
  }
  std::vector<std::size_t> chosen = best_screened(wanted);
  const auto add = [&](std::size_t index) {
    if (std::find(chosen.begin(), chosen.end(), index) == chosen.end()) chosen.push_back(index);
  };
  std::optional<std::size_t> nccl;
  for (const auto& [index, us] : screened_) {
    if (state_.space.spec(index).backend() != Backend::nccl || !std::isfinite(us)) continue;
    if (!nccl || us < screened_.at(*nccl)) nccl = index;
  }
  if (nccl) add(*nccl);
  const auto incumbent = [&](const std::string& name) {
    const std::optional<std::size_t> index = state_.space.find(name);
    if (!index || screened_.count(*index) == 0) return;
    if (screened_.at(*index) <= near_best * best) add(*index);
  };
  for (const Decision& decision : context_.ledger.previous_decisions()) {
    if (belongs(decision, state_.family, context_.group.size()) && decision.tokens_min <= tokens_ &&
        tokens_ <= decision.tokens_max) {
      incumbent(decision.candidate.name);
    }
  }
  if (const auto neighbour = state_.winner_near(tokens_, context_.options.rules)) incumbent(neighbour->name);
  return chosen;
}

void ProblemTuner::measure_finalists() {
  std::vector<std::size_t> chosen = finalists();
  SizeResult size{tokens_, {}};
  if (!chosen.empty()) {
    if (context_.report) {
      context_.report("finalists", state_.space.name(chosen.front()), screened_.at(chosen.front()));
    }
    std::vector<std::size_t> which;
    for (const std::size_t index : chosen) which.push_back(entries_.at(index));
    const int replays = std::max(context_.options.measure.replays, 1);
    const int rounds = std::max(1, (context_.options.effort.final_samples + replays - 1) / replays);
    timing_->sample(which, rounds, seed_of(problem_, context_.options.seed + 1));
  }
  // NCCL first, then from best to worst: whatever a kill leaves behind is worth keeping.
  std::stable_sort(chosen.begin(), chosen.end(), [&](std::size_t a, std::size_t b) {
    const bool a_nccl = state_.space.spec(a).backend() == Backend::nccl;
    const bool b_nccl = state_.space.spec(b).backend() == Backend::nccl;
    return a_nccl != b_nccl ? a_nccl : screened_.at(a) < screened_.at(b);
  });
  for (const std::size_t index : chosen) {
    const Timing::Entry& entry = timing_->entry(entries_.at(index));
    const bool ok = entry.ok();
    const std::string failure = entry.failure;
    std::vector<double> samples = timing_->take_samples(entries_.at(index));
    Trial trial =
        trial_of(index, ok ? TrialStatus::done : TrialStatus::failed, failure, ok ? samples : decltype(samples){});
    // Screening committed `running` before the first launch; this row was not open while four candidates were timed,
    // so that a killed run does not blame all of them.
    context_.ledger.begin(problem_, trial.candidate);
    context_.ledger.finish(trial);
    if (ok) {
      screened_[index] = median(samples);
      size.candidates.push_back({trial.candidate, trial.blocks, summarise(samples, seed_of(problem_, 0))});
      if (size.candidates.back().summary.bimodal) {
        context_.result.notes.push_back(state_.space.name(index) + " on " + problem_.name() +
                                        ": the samples fall into two groups");
      }
    } else {
      ++context_.result.failed;
      state_.broken.insert(index);
      context_.result.notes.push_back(state_.space.name(index) + " on " + problem_.name() + ": failed: " + failure);
    }
  }
  state_.results[tokens_] = std::move(size);
}

}  // namespace arbiter::tuning
