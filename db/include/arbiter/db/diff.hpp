// Which decisions differ between two databases, and by how much time.
#pragma once

#include <optional>
#include <vector>

#include "arbiter/db/contents.hpp"

namespace arbiter {

/// An interval of tokens that is decided by one candidate before and by another, or none, after.
struct DecisionChange {
  Decision decision;  ///< family and interval; the other fields are not set
  std::optional<Candidate> before, after;
  /// The largest size in the interval at which both were measured, and their times there; 0 if there is none. A time is
  /// taken from the database that decided later (`after`), or, for a candidate that was not measured there, from the
  /// other one.
  std::int64_t tokens = 0;
  double before_us = 0, after_us = 0;
  KernelUse before_use{}, after_use{};  ///< as the decisions say
};

/// In the order of DecisionSet::decisions. The environments may differ: they are compared by what they decide.
std::vector<DecisionChange> diff(const Contents& before, const std::string& environment_before, const Contents& after,
                                 const std::string& environment_after);

}  // namespace arbiter
