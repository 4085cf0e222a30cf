// What the ranks of a tune hand to the process that prints.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arbiter/runtime/group.hpp"
#include "arbiter/tuner/tune.hpp"
#include "ranks/session.hpp"

namespace arbiter::cli {

/// What the leader of a world hands over. Two documents: the environment, and what was done.
std::string tune_documents(const Group&, const TuneResult&);

/// What was done in all worlds of a session, one document each.
struct TuneRuns {
  std::string environment;
  std::vector<std::string> documents;
  bool cancelled = false;
  std::int64_t decisions = 0;
  std::vector<std::string> undecided;
};

TuneRuns tune_runs(const SessionResult&);

}  // namespace arbiter::cli
