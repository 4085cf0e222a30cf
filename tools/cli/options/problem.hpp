// Which problems tune and bench work on: every combination of pattern, dtype, hidden size and mode.
#pragma once

#include <cstdint>
#include <vector>

#include "arbiter/communicator.hpp"
#include "options/options.hpp"

namespace arbiter::cli {

/// What is meant where nothing was typed.
struct ProblemDefaults {
  int hidden = 8192;  ///< elements
  std::int64_t max_tokens = 8192;
  std::vector<std::int64_t> tokens;  ///< sizes to look at; empty: the command's own grid
};

/// Sizes that suit a GPU or the CPU device, which is a thousand times slower; `quick`: few of them.
ProblemDefaults problem_defaults(DeviceKind device, bool quick);

/// Declares --pattern, --dtype, --hidden, --mode, --tokens, --max-tokens and --quick.
void declare_problem_options(Options& options);

struct Problems {
  std::vector<ProblemFamily> families;
  std::vector<std::int64_t> tokens;  ///< ascending; empty: the command's own grid up to max_tokens
};

/// Throws UsageError or InvalidArgument for names that do not exist, numbers out of range, and hidden sizes that are
/// not a multiple of the 16-byte vector.
Problems read_problems(const Options& options, DeviceKind device);

}  // namespace arbiter::cli
