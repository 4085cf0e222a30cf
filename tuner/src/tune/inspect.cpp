#include "arbiter/tuner/inspect.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <tuple>
#include <utility>

#include "oracle/seed.hpp"

namespace arbiter {
namespace {

std::string percent(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f%%", number);
  return text;
}

/// Trials that have ended come before one that runs; among equals the later one.
auto rank_of(const Contents& contents, const StoredTrial& trial) {
  const Run& run = contents.runs.at(trial.run).run;
  return std::make_tuple(trial.status != TrialStatus::running, trial.sequence, run.started, run.id);
}

Measured measured(const InspectedCandidate& candidate) {
  return {*candidate.latest.candidate, candidate.latest.trial->blocks, *candidate.summary, candidate.latest.trial->use};
}

std::string why_won(const InspectedCandidate& winner, const std::vector<Measured>& timed, const ChoiceRules& rules) {
  if (timed.size() == 1) return "winner: no other candidate was timed";
  const auto is_winner = [&](const std::optional<Choice>& choice) {
    return choice && timed[choice->index].candidate == *winner.latest.candidate;
  };
  const auto alone = choose(timed, std::nullopt, rules);
  const auto ties = std::count_if(timed.begin(), timed.end(), [&](const Measured& other) {
    return other.candidate != *winner.latest.candidate && !beats(*winner.summary, other.summary, rules);
  });
  if (is_winner(alone)) {
    if (ties == 0) return "winner: fastest beyond noise";
    return fmt::format("winner: fastest with {}{} within noise, by numerics, then blocks", ties,
                       (ties == 1 ? " other" : " others"));
  }
  if (is_winner(choose(timed, *winner.latest.candidate, rules))) {
    return "winner: within noise of the fastest, and decided before";
  }
  return "winner: decided by other measurements than these";
}

/// Why a candidate that is as fast as the winner, within noise, is not the winner.
std::string why_not_preferred(const InspectedCandidate& loser, const InspectedCandidate& winner) {
  const Numerics mine = loser.latest.candidate->numerics;
  const Numerics best = winner.latest.candidate->numerics;
  const int blocks = loser.latest.trial->blocks;
  const int best_blocks = winner.latest.trial->blocks;
  if (mine > best) return "less strict numerics: " + std::string(to_string(mine));
  if (mine == best && blocks > best_blocks) {
    return fmt::format("takes {} blocks, not {}", blocks, best_blocks);
  }
  if (mine == best && blocks == best_blocks && loser.slower_percent >= 0) return "slower by a hair";
  return "what was decided before is kept";
}

std::string why_lost(const InspectedCandidate& loser, const InspectedCandidate& winner, const ChoiceRules& rules) {
  if (beats(*winner.summary, *loser.summary, rules)) return "slower by " + percent(loser.slower_percent);
  if (beats(*loser.summary, *winner.summary, rules)) {
    return "faster by " + percent(-loser.slower_percent) + ": the decision comes from other measurements";
  }
  return "tie: " + why_not_preferred(loser, winner);
}

std::string why_screened_out(const InspectedCandidate& loser) {
  const std::string after = fmt::format(" after {} samples", loser.summary->samples);
  return "screened out: " +
         (loser.slower_percent < 0 ? "faster by " + percent(-loser.slower_percent)
                                   : "slower by " + percent(loser.slower_percent)) +
         after;
}

std::string why_untimed(const StoredTrial& trial) {
  const std::string reason = trial.reason.empty() ? "" : ": " + trial.reason;
  switch (trial.status) {
    case TrialStatus::running:
      return "not finished: it is being measured, or the process ended during it";
    case TrialStatus::wrong:
      return "wrong result" + reason;
    case TrialStatus::pruned:
      return "screened out" + reason;
    default:
      return std::string(to_string(trial.status)) + reason;
  }
}

}  // namespace

double algorithm_bandwidth(const Problem& problem, double microseconds) noexcept {
  return static_cast<double>(problem.bytes()) / (microseconds * 1e-6);
}

double bus_bandwidth(const Problem& problem, double microseconds) noexcept {
  const double ranks = problem.world;
  return algorithm_bandwidth(problem, microseconds) * 2 * (ranks - 1) / ranks;
}

std::vector<ProblemTrials> problem_trials(const Contents& contents, const std::string& environment) {
  std::map<std::pair<std::string, std::string>, const StoredTrial*> latest;
  for (const auto& [key, trial] : contents.trials) {
    if (trial.environment != environment) continue;
    const StoredTrial*& here = latest[{trial.problem, trial.candidate}];
    if (here == nullptr || rank_of(contents, *here) < rank_of(contents, trial)) here = &trial;
  }
  std::vector<ProblemTrials> problems;
  std::string key;
  for (const auto& [keys, trial] : latest) {
    if (problems.empty() || keys.first != key) problems.push_back({contents.problems.at(keys.first), {}});
    key = keys.first;
    problems.back().trials.push_back({&contents.candidates.at(keys.second), trial});
  }
  for (ProblemTrials& problem : problems) {
    std::sort(problem.trials.begin(), problem.trials.end(), [](const LatestTrial& a, const LatestTrial& b) {
      return std::tie(a.candidate->name, a.candidate->source_hash) <
             std::tie(b.candidate->name, b.candidate->source_hash);
    });
  }
  std::sort(problems.begin(), problems.end(), [](const ProblemTrials& a, const ProblemTrials& b) {
    const auto order = [](const Problem& p) {
      return std::tie(p.mode, p.world, p.dtype, p.pattern, p.hidden, p.tokens, p.in_place);
    };
    return order(a.problem) < order(b.problem);
  });
  return problems;
}

const Decision* covering_decision(const Contents& contents, const std::string& environment, const Problem& problem) {
  const auto found = contents.decisions.find(environment);
  if (found == contents.decisions.end() || problem.in_place) return nullptr;
  const ProblemFamily family{problem.pattern, problem.dtype, problem.hidden, problem.tokens, problem.mode};
  for (const Decision& decision : found->second) {
    if (belongs(decision, family, problem.world) && decision.tokens_min <= problem.tokens &&
        problem.tokens <= decision.tokens_max) {
      return &decision;
    }
  }
  return nullptr;
}

Summary summary_of(const Problem& problem, const StoredTrial& trial) {
  return summarise(trial.samples_us, tuning::seed_of(problem, 0));
}

std::string family_name(const Candidate& candidate) {
  const bool unfused = candidate.name.find('+') != std::string::npos;
  return std::string(to_string(candidate.backend)) + "/" + candidate.algorithm + (unfused ? "+epilogue" : "");
}

Inspection inspect(const Contents& contents, const std::string& environment, const ProblemTrials& tried,
                   const ChoiceRules& rules) {
  Inspection inspection{tried.problem, covering_decision(contents, environment, tried.problem), {}};
  std::vector<Measured> timed;
  for (const LatestTrial& latest : tried.trials) {
    InspectedCandidate candidate;
    candidate.latest = latest;
    candidate.winner = inspection.decision != nullptr && *latest.candidate == inspection.decision->candidate;
    if (latest.trial->status == TrialStatus::done) {
      candidate.summary = summary_of(tried.problem, *latest.trial);
      timed.push_back(measured(candidate));
    } else if (latest.trial->status == TrialStatus::pruned && !latest.trial->samples_us.empty()) {
      candidate.summary = summary_of(tried.problem, *latest.trial);
      candidate.screened = true;
    }
    inspection.candidates.push_back(std::move(candidate));
  }
  std::stable_sort(inspection.candidates.begin(), inspection.candidates.end(),
                   [](const InspectedCandidate& a, const InspectedCandidate& b) {
                     const auto order = [](const InspectedCandidate& c) {
                       return std::make_tuple(!c.winner, !c.summary, c.screened, c.summary ? c.summary->median_us : 0,
                                              c.latest.trial->status);
                     };
                     return order(a) < order(b);
                   });
  const bool decided = !inspection.candidates.empty() && inspection.candidates.front().winner &&
                       inspection.candidates.front().summary && !inspection.candidates.front().screened;
  for (InspectedCandidate& candidate : inspection.candidates) {
    if (!candidate.summary) {
      candidate.verdict = why_untimed(*candidate.latest.trial);
      continue;
    }
    if (!decided) {
      candidate.verdict = "timed; nothing was decided here";
      continue;
    }
    const InspectedCandidate& winner = inspection.candidates.front();
    candidate.slower_percent = 100 * (candidate.summary->median_us / winner.summary->median_us - 1);
    candidate.verdict = candidate.winner     ? why_won(candidate, timed, rules)
                        : candidate.screened ? why_screened_out(candidate)
                                             : why_lost(candidate, winner, rules);
    // A lossy candidate that was timed: its error.
    const StoredTrial& trial = *candidate.latest.trial;
    if (trial.status == TrialStatus::done && !trial.reason.empty()) candidate.verdict += "; " + trial.reason;
  }
  return inspection;
}

}  // namespace arbiter
