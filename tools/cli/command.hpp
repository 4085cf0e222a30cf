// One command of `arbiter`: a name and a function. Each lives in its own command_<name>.cpp.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace arbiter::cli {

/// Exit codes of the program.
inline constexpr int exit_success = 0;
inline constexpr int exit_failure = 1;
inline constexpr int exit_usage = 2;

using Arguments = std::span<const std::string>;

/// `arguments` are what follows the command's name. Returns an exit code; throws UsageError or InvalidArgument for
/// wrong usage (exit code 2) and anything else for a failure (exit code 1).
using CommandFunction = int (*)(Arguments arguments);

int run_doctor(Arguments arguments);
int run_tune(Arguments arguments);
int run_show(Arguments arguments);
int run_bench(Arguments arguments);
int run_verify(Arguments arguments);
int run_render(Arguments arguments);
int run_compile(Arguments arguments);
int run_cache(Arguments arguments);
int run_merge(Arguments arguments);
int run_diff(Arguments arguments);
int run_export(Arguments arguments);
int run_import(Arguments arguments);
int run_snapshot(Arguments arguments);
int run_history(Arguments arguments);
int run_forget(Arguments arguments);

}  // namespace arbiter::cli
