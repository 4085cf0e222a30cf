// The built-in choice, for whole ranges of message sizes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "arbiter/runtime/candidate.hpp"

namespace arbiter {

/// What may be chosen.
struct ChoicePolicy {
  Backend backend = Backend::automatic;
  NumericsPolicy numerics = NumericsPolicy::any;
  std::string candidate{};  ///< use this one wherever it can be; empty: none is pinned
};

/// From `tokens_min` up to the next entry's.
struct HeuristicStep {
  std::int64_t tokens_min = 1;
  CandidateSpec spec;
  std::string reason;
};

/// Steps that cover every token count from 1 on, out of candidates that `policy` allows and `usable` accepts. Empty if
/// there is none; then `why_not` says why. Equal on all ranks for equal arguments.
std::vector<HeuristicStep> heuristic_steps(const GroupCapabilities&, const ProblemFamily&, const ChoicePolicy&,
                                           const std::function<bool(const CandidateSpec&)>& usable,
                                           std::string* why_not);

}  // namespace arbiter
