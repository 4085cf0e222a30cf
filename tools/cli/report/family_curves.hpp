// The best candidate of each family at each measured size: what curves are drawn from.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "arbiter/tuner/inspect.hpp"

namespace arbiter::cli {

/// The best candidate of a family on one problem. Points into the Contents.
struct FamilyPoint {
  const Candidate* candidate = nullptr;
  double median_us = 0;
  double ci_low_us = 0, ci_high_us = 0;  ///< equal to the median where only that is known
};

struct FamilySize {
  Problem problem;
  std::size_t tried = 0, timed = 0;             ///< candidates; 0 in a snapshot
  const Candidate* winner = nullptr;            ///< of the decision that covers it; null if there is none
  std::map<std::string, FamilyPoint> families;  ///< by family_name()
};

struct FamilyCurves {
  bool snapshot = false;          ///< no trials: only winners and runner-ups are known, at one size of an interval
  bool sizes_known = true;        ///< false of a snapshot that does not say which: then where intervals end
  std::vector<FamilySize> sizes;  ///< ordered by mode, world, dtype, pattern, hidden, tokens; never in place
};

/// Of the environment with this key. `intervals`: compute them, which takes a millisecond for every ten of them.
FamilyCurves family_curves(const Contents&, const std::string& environment, bool intervals);

}  // namespace arbiter::cli
