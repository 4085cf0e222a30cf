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

/// "pattern: allreduce; dtype: bf16; hidden: 4096, 8192; world: 2, 4; mode: graph": for who filtered all away.
std::string what_is_there(std::span<const Decision* const>);

}  // namespace arbiter::cli
