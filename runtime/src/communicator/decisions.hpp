// Where a communicator's decisions come from: given by the caller, or read by rank 0 and sent to everyone.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "arbiter/communicator.hpp"
#include "arbiter/db/kernels.hpp"

namespace arbiter {

struct LoadedDecisions {
  std::vector<DecisionSet> sets;
  std::shared_ptr<const KernelSet> kernels = std::make_shared<const KernelSet>();  ///< that came with them
  std::string kernels_note;  ///< how many kernels the database carries and why they are not loaded; empty if they are
  std::string source;        ///< "given by the caller", "/path/to.db", or empty: none
  std::string problem;       ///< why a database that was named could not be used; empty if it could
};

/// Collective. A database that cannot be read is no error: the heuristic works without it. Throws Disagreement when
/// the callers' decisions differ between ranks.
LoadedDecisions load_decisions(Bootstrap&, const CommunicatorOptions&);

}  // namespace arbiter
