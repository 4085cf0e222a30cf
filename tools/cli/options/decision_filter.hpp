// --pattern, --dtype, --world, --hidden, --mode: which decisions a command shows. The same words everywhere.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "arbiter/db/database.hpp"
#include "options/options.hpp"

namespace arbiter::cli {

/// An empty list admits everything.
struct DecisionFilter {
  std::vector<std::string> patterns;
  std::vector<std::string> dtypes;
  std::vector<int> worlds;
  std::vector<int> hiddens;
  std::vector<Mode> modes;

  bool admits(const Decision&) const;
  /// They know bytes and ranks, not dtypes, hidden sizes or modes.
  bool admits(const NcclChoice&) const;
};

void declare_decision_filter(Options&);
/// Throws what names the valid spellings.
DecisionFilter read_decision_filter(const Options&);

/// Leaves what the filter admits in each of the lists. If that is nothing at all, says what there was.
void keep_admitted(std::span<std::vector<Decision>* const> lists, const DecisionFilter&);

}  // namespace arbiter::cli
