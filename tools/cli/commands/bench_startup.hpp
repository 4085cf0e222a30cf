// arbiter bench --startup: where the time from the start of a process to its first call goes.
#pragma once

#include <string>

#include "commands/bench_setup.hpp"
#include "options/problem.hpp"
#include "ranks/session.hpp"

namespace arbiter::cli {

/// Starts this program again, first with an empty cache and then with the one that filled, and prints both.
int run_startup(const SessionOptions& session, bool as_json);

/// On every rank of such a process: begins as an engine would, one step after the other. Rank 0's result has the times
/// of the slowest rank.
std::string probe_startup(const RankContext&, const BenchSetup&, const Problems&);

}  // namespace arbiter::cli
