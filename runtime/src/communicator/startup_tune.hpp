// Measuring at start: what it may cost, and where its results are kept.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>

#include "arbiter/communicator.hpp"

namespace arbiter {

/// What the starts of a communicator have left to spend, and whether earlier ones were asked.
struct StartupTune {
  std::chrono::milliseconds left{0};
  std::filesystem::path database;  ///< of rank 0; empty: what is measured is not kept
  bool recalled = false;
};

/// 0 where nothing is to be measured: no time or no tuner, or the choice is the user's already.
std::chrono::milliseconds startup_budget(const CommunicatorOptions&) noexcept;

/// What earlier starts have measured, as far as it can be believed: like compiled kernels, only what nobody but the
/// user and root can have written.
struct KeptDecisions {
  std::filesystem::path database;  ///< where a tune may write; empty: nowhere
  std::string bytes;               ///< its decisions, as read_decisions_from_bytes() takes them; empty: none
  std::string problem;             ///< why it is not used, or cannot be written; empty: nothing to say
};
/// Local. Makes the folder if it is not there. Never throws for what is in the file.
KeptDecisions kept_decisions(const EnvironmentVariables&);

}  // namespace arbiter
