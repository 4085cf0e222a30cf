// What a database says about single problems: every candidate that was tried, and why it did not win.
// Looks, and never decides: the decisions are those that are stored.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "arbiter/db/contents.hpp"
#include "arbiter/tuner/choose.hpp"

namespace arbiter {

/// How nccl-tests rates an allreduce (its doc/PERFORMANCE.md): bytes of one rank's message per second,
double algorithm_bandwidth(const Problem&, double microseconds) noexcept;
/// and that times 2(N-1)/N, what each rank must send and receive at least: comparable with the speed of a link.
double bus_bandwidth(const Problem&, double microseconds) noexcept;

/// The trial that counts for a candidate on a problem: the latest one (as for decisions) that has ended; one that is
/// still running only if there is no other. Points into the Contents.
struct LatestTrial {
  const Candidate* candidate = nullptr;
  const StoredTrial* trial = nullptr;
};

struct ProblemTrials {
  Problem problem;
  std::vector<LatestTrial> trials;  ///< ordered by the candidate's name
};

/// What was tried in one environment (a key), ordered by mode, world, dtype, pattern, hidden, tokens and in_place.
/// Empty for a snapshot, which keeps decisions only. Valid as long as the Contents are.
std::vector<ProblemTrials> problem_trials(const Contents&, const std::string& environment);

/// The decision of `environment` that covers the problem; null if there is none. Decisions are about calls out of
/// place.
const Decision* covering_decision(const Contents&, const std::string& environment, const Problem&);

/// Median and bootstrap interval, exactly as the tuner had them. The trial must be done.
Summary summary_of(const Problem&, const StoredTrial&);

/// A name that stays the same when parameters change: "trtllm/oneshot_push", "nccl/classic+epilogue". The unfused
/// candidates of a fused problem are families of their own.
std::string family_name(const Candidate&);

struct InspectedCandidate {
  LatestTrial latest;
  std::optional<Summary> summary;  ///< if it was timed, be it only while screening
  bool screened = false;           ///< its time is of screening alone: a few samples, not taken in turns with others
  bool winner = false;             ///< of the decision that covers the problem
  double slower_percent = 0;       ///< than the winner; negative if its median is lower; 0 without a time or a winner
  std::string verdict;             ///< one phrase for people: why it won or lost
};

struct Inspection {
  Problem problem;
  const Decision* decision = nullptr;  ///< null: nothing was decided here
  /// The winner, then finalists and then screened candidates by their median, then those that were not timed.
  std::vector<InspectedCandidate> candidates;
};

Inspection inspect(const Contents&, const std::string& environment, const ProblemTrials&, const ChoiceRules& = {});

}  // namespace arbiter
