// Running another program with a time limit.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace arbiter {

struct ProcessResult {
  int exit_code = 0;       ///< 128 + signal if a signal ended it
  bool timed_out = false;  ///< it and its children were killed
  std::string output;      ///< standard output and error together, at most 1 MiB
};

/// Run `arguments[0]` (an absolute path) in `folder`, which receives a file "output.log" with its output and is its
/// TMPDIR. Standard input is empty. Throws Unavailable if the program cannot be started.
ProcessResult run_process(const std::vector<std::string>& arguments, const std::filesystem::path& folder,
                          std::chrono::milliseconds limit);

/// The absolute path of an executable: `name` itself if it contains a slash, otherwise the first in $PATH.
std::optional<std::string> find_program(const std::string& name);

}  // namespace arbiter
