// What a tune knows about one family: its candidates, what was measured, and the kernels it has loaded.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "arbiter/tuner/tune.hpp"
#include "search.hpp"

namespace arbiter::tuning {

struct FamilyState {
  FamilyState(ProblemFamily the_family, std::vector<std::int64_t> the_sizes, const std::vector<CandidateSpec>& specs)
      : family(std::move(the_family)), sizes(std::move(the_sizes)), space(specs) {}

  ProblemFamily family;
  std::vector<std::int64_t> sizes;  ///< ascending
  SearchSpace space;
  std::map<std::int64_t, Screened> screened;   ///< by tokens
  std::map<std::int64_t, SizeResult> results;  ///< by tokens; only what was measured with full effort
  std::set<std::size_t> broken;                ///< does not compile, is wrong, or hangs: not tried again at other sizes
  std::size_t kernels_loaded = 0;

  /// The winner at the measured size nearest to `tokens` (by ratio): what an unfused candidate is built from.
  std::optional<Candidate> winner_near(std::int64_t tokens, const ChoiceRules&) const;

  /// Loaded candidates, most recently used first.
  std::list<std::pair<std::size_t, std::unique_ptr<RunnableCandidate>>> loaded;
};

}  // namespace arbiter::tuning
