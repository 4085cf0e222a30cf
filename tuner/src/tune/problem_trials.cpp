// One candidate on one problem: loaded, written down as running, verified, timed, written down with its outcome.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "arbiter/error.hpp"
#include "tune/outcome.hpp"
#include "tune/problem_tuner.hpp"
#include "tune/stopwatch.hpp"

namespace arbiter::tuning {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double launch_bound_us = 25;  // below this, an estimate says more about the host than about the kernel

/// Candidates that launch the same grid of the same kernel at this size are one candidate.
std::string launch_key(const RunnableCandidate& candidate, std::int64_t tokens) {
  CandidateSpec spec = candidate.spec();
  if (!spec.kernel) return spec.name();
  spec.max_blocks = 0;
  return fmt::format("{} x{}", spec.name(), candidate.geometry(tokens).blocks);
}

int blocks_of(const RunnableCandidate& candidate, std::int64_t tokens) {
  return candidate.spec().kernel ? static_cast<int>(candidate.geometry(tokens).blocks) : 0;
}

}  // namespace

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
  const Stopwatch watch(context_.result.times.load);
  context_.ahead.now(state_.space.spec(index));
  LoadResult result = context_.options.source.load(context_.group, state_.space.spec(index), state_.family);
  if (!result.candidate) {
    state_.broken.insert(index);
    ++context_.result.failed;
    state_.obstacle = state_.space.name(index) + " cannot be loaded: " + result.reason;
    context_.result.notes.push_back(state_.obstacle);
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
    state_.obstacle = state_.space.name(index) + " has no workspace: " + error.what();
    context_.result.notes.push_back(state_.obstacle);
    return nullptr;
  }
  loaded.emplace_front(index, std::move(result.candidate));
  return loaded.front().second.get();
}

const Trial* ProblemTuner::known(const Candidate& candidate) const {
  const auto found = known_.find({candidate.name, candidate.source_hash});
  return found == known_.end() ? nullptr : &found->second;
}

void ProblemTuner::remember(const Trial& trial) {
  known_.insert_or_assign({trial.candidate.name, trial.candidate.source_hash}, trial);
}

Trial ProblemTuner::trial_of(std::size_t index, TrialStatus status, const std::string& reason,
                             std::vector<double> samples) {
  Trial trial;
  trial.problem = problem_;
  const RunnableCandidate* candidate = load(index);
  trial.candidate = candidate->record();
  trial.blocks = blocks_of(*candidate, tokens_);
  trial.use = candidate->use();
  trial.status = status;
  trial.reason = reason;
  trial.samples_us = std::move(samples);
  // What its accuracy is belongs beside its time.
  const auto error = state_.errors.find({tokens_, index});
  if (status == TrialStatus::done && error != state_.errors.end() && error->second > 0) {
    trial.reason = fmt::format("relative L2 error {:.4f}", error->second);
  }
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
  const Trial* trial = known(candidate->record());
  if (trial != nullptr && !is_to_be_repeated(*trial)) return screen_known(index, *trial);

  const std::vector<std::size_t> leaders = best_screened(1);
  if (context_.report) {
    context_.report(state_.space.name(index), leaders.empty() ? "" : state_.space.name(leaders.front()),
                    leaders.empty() ? 0 : screened_.at(leaders.front()));
  }
  ++tried_;
  ++context_.result.trials;
  repeated_.insert(candidate->record().name);
  context_.ledger.begin(problem_, candidate->record());
  try {
    measure_screened(index, *candidate);
  } catch (const DeviceError& error) {
    // This process cannot go on, but it can still say who is to blame.
    context_.ledger.finish(trial_of(index, TrialStatus::crashed, error.what(), {}));
    throw;
  }
}

/// What an earlier visit or an earlier run found out.
void ProblemTuner::screen_known(std::size_t index, const Trial& trial) {
  switch (trial.status) {
    case TrialStatus::done:
    case TrialStatus::pruned:
      ++tried_;
      screened_[index] = trial.samples_us.empty() ? infinity : median(trial.samples_us);
      return;
    case TrialStatus::wrong:
    case TrialStatus::failed:
      ++tried_;
      break;
    case TrialStatus::crashed:
    case TrialStatus::running:
      break;
  }
  if (!state_.broken.insert(index).second) return;
  state_.obstacle = state_.space.name(index) + ": " + std::string(to_string(trial.status)) + ": " + trial.reason;
  context_.result.notes.push_back(state_.space.name(index) + " is skipped: an earlier run of " + problem_.name() +
                                  " did not survive it or found it wrong");
}

Verification ProblemTuner::verify(const Subject& subject) {
  const Stopwatch watch(context_.result.times.verify);
  return verifier_.verify_before_timing(subject, tokens_);
}

std::size_t ProblemTuner::time(Subject subject, double give_up_us) {
  const Stopwatch watch(context_.result.times.measure);
  return timing_->add(std::move(subject), give_up_us);
}

void ProblemTuner::sample(std::span<const std::size_t> entries, int rounds, std::uint64_t seed,
                          Timing::Recheck recheck) {
  TuneTimes& times = context_.result.times;
  const double verified = timing_->verify_seconds();
  {
    const Stopwatch watch(times.measure);
    timing_->sample(entries, rounds, seed, recheck);
  }
  times.measure -= timing_->verify_seconds() - verified;
  times.verify += timing_->verify_seconds() - verified;
}

void ProblemTuner::measure_screened(std::size_t index, RunnableCandidate& candidate) {
  const Subject subject = subject_of(candidate);
  const Verification verification = verify(subject);
  if (!verification.ok()) {
    exclude(index, verification.reason);
    return decide_screened(index, verification.status, verification.reason, infinity);
  }
  state_.verified.emplace(tokens_, index);
  state_.errors[{tokens_, index}] = verification.relative_error;
  const std::vector<std::size_t> leaders = best_screened(1, is_exact(index));
  const double best = leaders.empty() ? 0 : screened_.at(leaders.front());
  const bool comparable = best > launch_bound_us && !is_nccl(state_.space.spec(index));
  const double give_up = comparable ? context_.options.effort.give_up * best : 0;
  const std::size_t entry = time(subject, give_up);
  entries_[index] = entry;
  const bool too_slow = !timing_->entry(entry).ok() && give_up > 0 && timing_->entry(entry).estimate_us > give_up;
  // Once more behind the samples only for those that may win: they are sampled again.
  if (!too_slow) sample({&entry, 1}, 1, context_.options.seed, Timing::Recheck::no);
  timing_->release(entry);
  const Timing::Entry& timed = timing_->entry(entry);
  if (too_slow) return decide_screened(index, TrialStatus::pruned, timed.failure, infinity);
  if (!timed.ok()) {
    exclude(index, timed.failure);
    return decide_screened(index, timed.status, timed.failure, infinity);
  }
  decide_screened(index, TrialStatus::pruned, "screened", median(timed.samples_us));
}

/// From all sizes, unless the cause may pass, and may not touch another size.
void ProblemTuner::exclude(std::size_t index, const std::string& reason) {
  if (!is_passing(reason)) state_.broken.insert(index);
}

void ProblemTuner::note_failure(std::size_t index, const Trial& trial) {
  TuneResult& result = context_.result;
  if (trial.status == TrialStatus::wrong) ++result.wrong;
  if (trial.status == TrialStatus::failed) ++result.failed;
  state_.obstacle = state_.space.name(index) + " on " + problem_.name() + ": " + std::string(to_string(trial.status)) +
                    ": " + trial.reason;
  result.notes.push_back(state_.obstacle);
}

void ProblemTuner::decide_screened(std::size_t index, TrialStatus status, const std::string& reason, double us) {
  screened_[index] = us;
  std::vector<double> samples;
  if (const auto entry = entries_.find(index); entry != entries_.end() && status == TrialStatus::pruned) {
    samples = timing_->take_samples(entry->second);
  }
  const Trial trial = trial_of(index, status, reason, std::move(samples));
  if (status == TrialStatus::pruned) {
    count_screened_out(index, true);
  } else {
    note_failure(index, trial);
  }
  context_.ledger.finish(trial);
  remember(trial);
}

}  // namespace arbiter::tuning
