// What a tune knows about one family: its candidates, what was measured, and the kernels it has loaded.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "arbiter/tuner/tune.hpp"
#include "tune/cost_model.hpp"
#include "tune/search.hpp"

namespace arbiter::tuning {

/// Trials by name and source hash of the candidate.
using KnownTrials = std::map<std::pair<std::string, std::string>, Trial>;

struct FamilyState {
  FamilyState(ProblemFamily the_family, std::vector<std::int64_t> the_sizes, const std::vector<CandidateSpec>& specs)
      : family(std::move(the_family)), sizes(std::move(the_sizes)), space(specs) {}

  ProblemFamily family;
  std::vector<std::int64_t> sizes;  ///< ascending
  SearchSpace space;
  CostModel model;
  std::map<std::int64_t, Screened> screened;   ///< by tokens
  std::map<std::int64_t, SizeResult> results;  ///< by tokens; only what was measured with full effort
  std::map<std::int64_t, KnownTrials> known;   ///< by tokens: of this run, and with `resume` of earlier ones
  std::set<std::int64_t> cut_short;            ///< sizes whose search the budget ended
  std::set<std::pair<std::int64_t, std::size_t>> verified;        ///< tokens and candidate: found right by this process
  std::map<std::pair<std::int64_t, std::size_t>, double> errors;  ///< likewise: relative L2, of class fp8_transport
  std::set<std::pair<std::int64_t, std::size_t>> screened_out;    ///< likewise: screened by this run, and no finalist
  std::map<std::int64_t, std::pair<std::size_t, std::size_t>>
      left_out;                  ///< by tokens: pruned by the model, never tried
  std::set<std::size_t> broken;  ///< does not compile, is wrong, or hangs: not tried again at other sizes
  std::string obstacle;          ///< the last reason why something of it was not measured
  std::size_t kernels_loaded = 0;

  /// Bytes of one rank's message.
  double bytes(std::int64_t tokens) const {
    return static_cast<double>(tokens) * family.hidden * static_cast<double>(element_bytes(family.dtype));
  }

  /// The winner at the measured size nearest to `tokens` (by ratio): what an unfused candidate is built from.
  /// `exact_only`: of those that send no 8-bit values.
  std::optional<Candidate> winner_near(std::int64_t tokens, const ChoiceRules&, bool exact_only = false) const;

  /// Loaded candidates, most recently used first.
  std::list<std::pair<std::size_t, std::unique_ptr<RunnableCandidate>>> loaded;
};

}  // namespace arbiter::tuning
