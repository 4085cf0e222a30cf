// The best candidates of a problem, measured together: a second look at those that came close, then the finalists.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "arbiter/error.hpp"
#include "oracle/seed.hpp"
#include "tune/measured.hpp"
#include "tune/problem_tuner.hpp"

namespace arbiter::tuning {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double near_best = 1.10;  // worth a second look before the finalists are picked
constexpr int second_look_rounds = 2;

}  // namespace

/// Makes an entry for a candidate that was screened on an earlier visit or by an earlier run. False if it does not run
/// any more. It needs no `running` row: it has survived this problem before, and its outcome must not be lost.
bool ProblemTuner::ensure_timed(std::size_t index) {
  if (entries_.count(index) != 0) return timing_->entry(entries_.at(index)).ok();
  RunnableCandidate* candidate = load(index);
  std::string failure = candidate == nullptr ? "it cannot be loaded" : "";
  TrialStatus status = TrialStatus::failed;
  const Subject subject = candidate == nullptr ? Subject{} : subject_of(*candidate);
  if (failure.empty() && state_.verified.count({tokens_, index}) == 0) {
    const Verification verification = verify(subject);
    if (!verification.ok()) {
      status = verification.status;
      failure = verification.reason;
    } else {
      state_.verified.emplace(tokens_, index);
      state_.errors[{tokens_, index}] = verification.relative_error;
    }
  }
  if (failure.empty()) {
    const std::size_t entry = time(subject, 0);
    if (timing_->entry(entry).ok()) {
      entries_[index] = entry;
      return true;
    }
    failure = timing_->entry(entry).failure;
    status = timing_->entry(entry).status;
  }
  screened_[index] = infinity;
  count_screened_out(index, false);
  exclude(index, failure);
  if (candidate == nullptr) return false;
  const Trial trial = trial_of(index, status, failure, {});
  note_failure(index, trial);
  context_.ledger.record({trial});
  remember(trial);
  return false;
}

/// The best few, after a second and interleaved look at those that came close; NCCL's best; the incumbents.
/// `also_measured` receives what the second look found about the others.
std::vector<std::size_t> ProblemTuner::finalists(std::vector<Trial>& also_measured) {
  const auto wanted = static_cast<std::size_t>(context_.options.effort.finalists);
  std::vector<std::size_t> close = best_screened(2 * wanted + 2);
  if (close.empty()) return {};
  const double best = screened_.at(close.front());
  std::erase_if(close, [&](std::size_t index) { return screened_.at(index) > near_best * best; });
  std::vector<std::size_t> looked_at;
  if (close.size() > wanted) {
    std::vector<std::size_t> which;
    for (const std::size_t index : close) {
      if (!ensure_timed(index)) continue;
      timing_->take_samples(entries_.at(index));
      which.push_back(entries_.at(index));
      looked_at.push_back(index);
    }
    sample(which, second_look_rounds, seed_of(problem_, context_.options.seed), Timing::Recheck::no);
    for (const std::size_t index : looked_at) {
      timing_->release(entries_.at(index));
      std::vector<double> samples = timing_->take_samples(entries_.at(index));
      const bool ok = timing_->entry(entries_.at(index)).ok();
      screened_[index] = ok ? median(samples) : infinity;
      also_measured.push_back(ok ? trial_of(index, TrialStatus::pruned, "screened", std::move(samples))
                                 : trial_of(index, timing_->entry(entries_.at(index)).status,
                                            timing_->entry(entries_.at(index)).failure, {}));
      if (!ok) {
        count_screened_out(index, false);
        exclude(index, also_measured.back().reason);
        note_failure(index, also_measured.back());
      }
    }
  }
  std::vector<std::size_t> chosen = best_screened(wanted);
  const auto add = [&](std::size_t index) {
    if (std::find(chosen.begin(), chosen.end(), index) == chosen.end()) chosen.push_back(index);
  };
  // Whoever wins with 8-bit values on the links needs somebody beside it who serves without.
  if (std::any_of(chosen.begin(), chosen.end(), [&](std::size_t index) { return !is_exact(index); })) {
    for (const std::size_t index : best_screened(wanted, true)) add(index);
  }
  // An algorithm that ties with the best belongs to the tie, although another has more variants among the fastest few.
  const ChoiceRules& rules = context_.options.rules;
  std::set<std::size_t> algorithms;
  for (const std::size_t index : chosen) algorithms.insert(state_.space.group(index));
  for (const std::size_t index : best_screened(screened_.size())) {
    if (screened_.at(index) * (1 - rules.gain - rules.precision) > screened_.at(chosen.front())) break;
    if (algorithms.insert(state_.space.group(index)).second) add(index);
  }
  std::optional<std::size_t> nccl;
  for (const auto& [index, us] : screened_) {
    if (!is_nccl(state_.space.spec(index)) || !std::isfinite(us)) continue;
    if (!nccl || us < screened_.at(*nccl)) nccl = index;
  }
  if (nccl) add(*nccl);
  // For programs that use only NCCL (nccl_choices): what it takes by itself, and the best that a table can say.
  std::optional<std::size_t> own, complete;
  for (const auto& [index, us] : screened_) {
    const CandidateSpec& spec = state_.space.spec(index);
    if (spec.nccl != NcclKind::classic || !spec.fused() || !std::isfinite(us)) continue;
    std::optional<std::size_t>& best_of = spec.forced.complete() ? complete : own;
    if (spec.forced.forces() && !spec.forced.complete()) continue;
    if (!best_of || us < screened_.at(*best_of)) best_of = index;
  }
  if (own) add(*own);
  if (complete) add(*complete);
  // What was decided before, here or at the next size, defends its place.
  const auto incumbent = [&](std::size_t index) {
    const auto at = screened_.find(index);
    if (at != screened_.end() && at->second <= near_best * best) add(index);
  };
  for (const std::size_t index : incumbents()) incumbent(index);
  if (const auto neighbour = state_.winner_near(tokens_, context_.options.rules)) {
    if (const auto index = state_.space.find(neighbour->name)) incumbent(*index);
  }
  return chosen;
}

/// More samples, in turns, for those that are too near to each other to be told apart, until they can be, or until it
/// is known precisely enough that they are equal.
void ProblemTuner::settle_near_ties(const std::vector<std::size_t>& chosen, int samples) {
  const SearchEffort& effort = context_.options.effort;
  const int replays = std::max(context_.options.measure.replays, 1);
  const std::optional<Candidate> incumbent =
      previous_candidate(context_.ledger.previous_decisions(), state_.family, context_.group.size(), tokens_);
  for (int round = 0; !context_.should_stop(); ++round) {
    std::vector<std::size_t> entries;
    std::vector<Measured> measured;
    for (const std::size_t index : chosen) {
      const std::size_t entry = entries_.at(index);
      if (!timing_->entry(entry).ok()) continue;
      entries.push_back(entry);
      measured.push_back(measured_of(trial_of(index, TrialStatus::done, "", timing_->entry(entry).samples_us)));
    }
    const NextSamples next = next_samples(measured, incumbent, {samples, effort.tie_samples, effort.verdict_samples},
                                          context_.options.rules);
    if (next.which.empty()) return;
    if (round == 0) ++context_.result.near_ties;
    std::vector<std::size_t> again;
    for (const std::size_t each : next.which) again.push_back(entries[each]);
    sample(again, std::max(1, (next.samples + replays - 1) / replays),
           seed_of(problem_, context_.options.seed + 2 + static_cast<std::uint64_t>(round)), Timing::Recheck::yes);
  }
}

/// An earlier visit measured just these together: nothing new would come of it.
bool ProblemTuner::take_known_finalists(const std::vector<std::size_t>& chosen) {
  const auto at = state_.results.find(tokens_);
  if (at == state_.results.end() || at->second.candidates.empty()) return false;
  return std::all_of(chosen.begin(), chosen.end(), [&](std::size_t index) {
    return std::any_of(at->second.candidates.begin(), at->second.candidates.end(),
                       [&](const Measured& measured) { return measured.candidate.name == state_.space.name(index); });
  });
}

/// A device was lost while finalists were timed: whose block it was in must not be measured again.
void ProblemTuner::blame_lost_device(const std::vector<std::size_t>& chosen) {
  std::vector<Trial> blamed;
  for (const std::size_t index : chosen) {
    const Timing::Entry& entry = timing_->entry(entries_.at(index));
    if (!entry.ok()) blamed.push_back(trial_of(index, TrialStatus::crashed, entry.failure, {}));
  }
  context_.ledger.record(blamed);
}

void ProblemTuner::measure_finalists(std::vector<std::size_t> chosen, int samples, std::vector<Trial> also_measured) {
  const double began = context_.ledger.signals().elapsed_s;
  std::erase_if(chosen, [&](std::size_t index) { return !ensure_timed(index); });
  if (chosen.empty() ||
      (also_measured.empty() && samples <= context_.options.effort.final_samples && take_known_finalists(chosen))) {
    state_.results.try_emplace(tokens_, SizeResult{tokens_, {}});
    return;
  }
  if (context_.report) {
    const auto best = std::min_element(chosen.begin(), chosen.end(),
                                       [&](std::size_t a, std::size_t b) { return screened_.at(a) < screened_.at(b); });
    context_.report("finalists", state_.space.name(*best), screened_.at(*best));
  }
  std::vector<std::size_t> which;
  for (const std::size_t index : chosen) {
    timing_->take_samples(entries_.at(index));
    which.push_back(entries_.at(index));
  }
  const int replays = std::max(context_.options.measure.replays, 1);
  try {
    sample(which, std::max(1, (samples + replays - 1) / replays), seed_of(problem_, context_.options.seed + 1),
           Timing::Recheck::yes);
    settle_near_ties(chosen, samples);
  } catch (const DeviceError&) {
    blame_lost_device(chosen);
    throw;
  }

  SizeResult size{tokens_, {}};
  std::vector<Trial> trials;
  for (const std::size_t index : chosen) {
    count_screened_out(index, false);
    const Timing::Entry& entry = timing_->entry(entries_.at(index));
    const bool ok = entry.ok();
    const std::string failure = entry.failure;
    std::vector<double> us = timing_->take_samples(entries_.at(index));
    if (!ok) us.clear();
    timing_->release(entries_.at(index));
    trials.push_back(trial_of(index, entry.status, failure, std::move(us)));
    const Trial& trial = trials.back();
    if (!ok) {
      exclude(index, failure);
      screened_[index] = infinity;
      note_failure(index, trial);
      continue;
    }
    screened_[index] = median(trial.samples_us);
    size.candidates.push_back(measured_of(trial));
    if (size.candidates.back().summary.bimodal) {
      context_.result.notes.push_back(state_.space.name(index) + " on " + problem_.name() +
                                      ": the samples fall into two groups");
    }
  }
  for (Trial& trial : also_measured) {
    const Trial* before = known(trial.candidate);
    const bool more_is_known = before != nullptr && before->status == TrialStatus::done;
    const bool finalist = std::any_of(trials.begin(), trials.end(),
                                      [&](const Trial& other) { return other.candidate == trial.candidate; });
    if (!finalist && !more_is_known) trials.push_back(std::move(trial));
  }
  context_.ledger.record(trials);
  for (const Trial& trial : trials) remember(trial);
  if (!size.candidates.empty() || state_.results.count(tokens_) == 0) state_.results[tokens_] = std::move(size);
  finals_seconds_ = context_.ledger.signals().elapsed_s - began;
}

}  // namespace arbiter::tuning
