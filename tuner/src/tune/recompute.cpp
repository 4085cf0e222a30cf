#include "arbiter/tuner/recompute.hpp"

#include <algorithm>
#include <map>
#include <tuple>

#include "arbiter/tuner/nccl_choices.hpp"
#include "tune/measured.hpp"

namespace arbiter {
namespace {

/// What was measured at one size, summarised exactly as the tuner does it.
SizeResult measured_at(const WorkDatabase& database, const Environment& environment, const Problem& problem) {
  SizeResult size{problem.tokens, {}};
  for (const Trial& trial : database.deciding_trials(environment, problem)) {
    size.candidates.push_back(tuning::measured_of(trial));
  }
  return size;
}

}  // namespace

void recompute_decisions(WorkDatabase& database, const Environment& environment, const ChoiceRules& rules) {
  std::map<std::tuple<Mode, int, Dtype, std::string, int>, std::vector<Problem>> families;
  for (Problem& problem : database.problems(environment)) {
    if (problem.in_place) continue;  // decisions are about calls out of place
    families[{problem.mode, problem.world, problem.dtype, problem.pattern, problem.hidden}].push_back(
        std::move(problem));
  }
  std::vector<Decision> decisions;
  for (const auto& [key, problems] : families) {
    const Problem& any = problems.front();
    const ProblemFamily family{any.pattern, any.dtype, any.hidden, 1, any.mode};
    std::vector<SizeResult> sizes;
    for (const Problem& problem : problems) sizes.push_back(measured_at(database, environment, problem));
    const std::vector<Decision> decided = decide(family, any.world, sizes, {}, rules);
    decisions.insert(decisions.end(), decided.begin(), decided.end());
  }
  database.replace_decisions(environment, decisions);
  database.replace_nccl_choices(environment, nccl_choices(database, environment, rules));
}

void recompute_decisions(WorkDatabase& database, const Environment& environment) {
  recompute_decisions(database, environment, {});
}

}  // namespace arbiter
