#include "report/family_curves.hpp"

#include "arbiter/db/fields.hpp"

namespace arbiter::cli {
namespace {

/// Only the best of each family is summarised: that is what takes time.
FamilySize measured_size(const Contents& contents, const std::string& key, const ProblemTrials& trials,
                         bool intervals) {
  FamilySize size{trials.problem, trials.trials.size(), 0, nullptr, {}};
  std::map<std::string, const StoredTrial*> best;
  for (const auto& [candidate, trial] : trials.trials) {
    if (trial->status != TrialStatus::done) continue;
    ++size.timed;
    const double us = median(trial->samples_us);
    const auto [at, is_new] = size.families.try_emplace(family_name(*candidate), FamilyPoint{candidate, us, us, us});
    if (is_new || us < at->second.median_us) {
      at->second = {candidate, us, us, us};
      best[at->first] = trial;
    }
  }
  if (intervals) {
    for (auto& [family, point] : size.families) {
      const Summary summary = summary_of(trials.problem, *best.at(family));
      point.ci_low_us = summary.ci_low_us;
      point.ci_high_us = summary.ci_high_us;
    }
  }
  if (const Decision* decision = covering_decision(contents, key, trials.problem)) size.winner = &decision->candidate;
  return size;
}

FamilySize decided_size(const Decision& d) {
  FamilySize size{{d.pattern, d.dtype, d.hidden, timed_tokens(d), d.world, d.mode, false}, 0, 0, &d.candidate, {}};
  size.families[family_name(d.candidate)] = {&d.candidate, d.median_us, d.median_us, d.median_us};
  if (d.runner_up) {
    const double us = d.runner_up_median_us;
    size.families.try_emplace(family_name(*d.runner_up), FamilyPoint{&*d.runner_up, us, us, us});
  }
  return size;
}

}  // namespace

FamilyCurves family_curves(const Contents& contents, const std::string& environment, bool intervals) {
  FamilyCurves curves;
  for (const ProblemTrials& trials : problem_trials(contents, environment)) {
    if (!trials.problem.in_place) curves.sizes.push_back(measured_size(contents, environment, trials, intervals));
  }
  const auto decisions = contents.decisions.find(environment);
  curves.snapshot = curves.sizes.empty() && decisions != contents.decisions.end();
  if (curves.snapshot) {
    for (const Decision& decision : decisions->second) {
      curves.sizes.push_back(decided_size(decision));
      const bool alone = decision.tokens_min == decision.tokens_max;
      curves.sizes_known = curves.sizes_known && (alone || is_recorded(decision.measured_tokens));
    }
  }
  return curves;
}

}  // namespace arbiter::cli
