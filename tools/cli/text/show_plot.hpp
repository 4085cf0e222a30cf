// The curves behind decisions, drawn in the terminal.
#pragma once

#include <vector>

#include "arbiter/db/contents.hpp"

namespace arbiter::cli {

/// To standard output: one drawing for each family of problems with a decision in `sets`.
void print_plots(const Contents&, const std::vector<DecisionSet>& sets);

}  // namespace arbiter::cli
