// Decisions as the tuner would store them, for the tests of those who serve them.
#pragma once

#include <cstdint>
#include <string_view>

#include "arbiter/error.hpp"
#include "arbiter/runtime/candidate.hpp"
#include "candidate/loaded_kernel.hpp"

namespace arbiter::test {

/// The first candidate of this algorithm, for the sizes from `first` to `last`.
inline Decision stored_decision(const GroupCapabilities& group, const ProblemFamily& family, std::int64_t first,
                                std::int64_t last, std::string_view algorithm) {
  Decision decision;
  decision.pattern = family.pattern;
  decision.dtype = family.dtype;
  decision.hidden = family.hidden;
  decision.world = group.size;
  decision.mode = family.mode;
  decision.tokens_min = first;
  decision.tokens_max = last;
  decision.median_us = 3.5;
  for (const CandidateSpec& spec : enumerate_candidates(group, family, {})) {
    if (spec.algorithm() != algorithm) continue;
    decision.candidate = {spec.backend(), spec.algorithm(), spec.name(), Numerics::rank_order_fp32,
                          candidate_source_hash(group, spec)};
    return decision;
  }
  throw InvalidArgument("no such algorithm here");
}

}  // namespace arbiter::test
