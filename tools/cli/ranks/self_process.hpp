// This program, started again as a process of its own.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <vector>

namespace arbiter::cli {

/// Runs this program with `arguments`, `variables` added to its environment, and returns what it prints to standard
/// output. Standard error is shared. Throws Error when it ends with anything but success.
std::string run_self(const std::vector<std::string>& arguments, const std::map<std::string, std::string>& variables);

/// When this process started, as near as a program can tell: before main().
std::chrono::steady_clock::time_point process_start() noexcept;

}  // namespace arbiter::cli
