// The decisions of a file as tables, and what it serves to programs that use only NCCL.
#pragma once

#include <string>
#include <vector>

#include "arbiter/db/contents.hpp"
#include "text/terminal.hpp"

namespace arbiter::cli {

/// "1.2-3.7x over NCCL, 17 decisions, 2 and 4 ranks on NVIDIA H200": what a file amounts to.
std::string headline(const Contents& contents, const DecisionSet& set);

/// A table for every pattern, dtype, hidden size, number of ranks and mode; then NCCL's own configurations.
std::string show_tables(const Contents& contents, const std::vector<DecisionSet>& sets, const TerminalStyle& style);

}  // namespace arbiter::cli
