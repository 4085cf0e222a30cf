#include "text/measured.hpp"

#include <algorithm>

#include "arbiter/db/fields.hpp"
#include "arbiter/tuner/inspect.hpp"

namespace arbiter::cli {
namespace {

bool belongs_to(const Problem& problem, const Decision& family) {
  return problem.pattern == family.pattern && problem.dtype == family.dtype && problem.hidden == family.hidden &&
         problem.world == family.world && problem.mode == family.mode && !problem.in_place;
}

}  // namespace

Measurements::Measurements(const Contents& contents, const std::string& environment) {
  for (const ProblemTrials& trials : problem_trials(contents, environment)) {
    Size size{trials.problem, 0, {}};
    for (const auto& [candidate, trial] : trials.trials) {
      if (trial->status != TrialStatus::done) continue;
      size.timed.push_back(candidate->name);
      if (candidate->backend != Backend::nccl) continue;
      const double us = median(trial->samples_us);
      if (size.nccl_us == 0 || us < size.nccl_us) size.nccl_us = us;
    }
    times_.push_back(std::move(size));
  }
}

DecisionMeasurements Measurements::of(const Decision& decision) const {
  DecisionMeasurements found;
  for (const Size& size : times_) {
    const Problem& problem = size.problem;
    if (!belongs_to(problem, decision) || problem.tokens < decision.tokens_min ||
        problem.tokens > decision.tokens_max || problem.tokens < found.tokens ||
        std::find(size.timed.begin(), size.timed.end(), decision.candidate.name) == size.timed.end()) {
      continue;
    }
    found = {problem.tokens, problem.bytes(), size.nccl_us};
  }
  // Of a snapshot, what the decision itself says; of one from before that was recorded, where there is no choice.
  const bool alone = decision.tokens_min == decision.tokens_max;
  if (found.tokens == 0 && (is_recorded(decision.measured_tokens) || alone)) {
    Decision at = decision;
    at.tokens_max = timed_tokens(decision);
    found.tokens = at.tokens_max;
    found.bytes = at.bytes_max();
  }
  if (found.nccl_us == 0 && decision.candidate.backend == Backend::nccl) found.nccl_us = decision.median_us;
  if (found.nccl_us == 0 && decision.runner_up && decision.runner_up->backend == Backend::nccl) {
    found.nccl_us = decision.runner_up_median_us;
  }
  return found;
}

double Measurements::nccl_us(const Decision& family, std::int64_t tokens) const {
  for (const Size& size : times_) {
    if (belongs_to(size.problem, family) && size.problem.tokens == tokens) return size.nccl_us;
  }
  return 0;
}

std::int64_t Measurements::bytes_of(const NcclChoice& choice) const {
  std::int64_t most = 0;
  for (const Size& size : times_) {
    const Problem& problem = size.problem;
    const std::int64_t bytes = problem.bytes();
    if (problem.pattern != "allreduce" || problem.world != choice.world || bytes < choice.bytes_min ||
        bytes > choice.bytes_max ||
        std::find(size.timed.begin(), size.timed.end(), choice.candidate.name) == size.timed.end()) {
      continue;
    }
    most = std::max(most, bytes);
  }
  return most;
}

}  // namespace arbiter::cli
