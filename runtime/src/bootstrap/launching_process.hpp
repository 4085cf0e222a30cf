// Which process started this rank: the one thing that all ranks of a job on one node have in common where the launcher
// gives the job no name.
#pragma once

#include <span>
#include <string>

namespace arbiter {

/// The nearest ancestor that is no rank itself: a daemon of a launcher that is known by name, or a process without
/// these variables, or with other values of them. So shells and other wrappers between the launcher and the rank are
/// looked through. Unlike every other process that ever ran on this host; empty where it cannot be told (a rank in a
/// process namespace of its own).
std::string launching_process(std::span<const char* const> rank_variables);

}  // namespace arbiter
