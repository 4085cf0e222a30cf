// One command of `arbiter`: what it takes, and what it does. Each lives in its own command_<name>.cpp.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "options/options.hpp"

namespace arbiter::cli {

/// Exit codes of the program.
inline constexpr int exit_success = 0;
inline constexpr int exit_failure = 1;
inline constexpr int exit_usage = 2;
inline constexpr int exit_interrupted = 130;  ///< by Ctrl-C, as shells have it

struct Command {
  std::string_view name;
  std::string_view summary;  ///< one line, behind the name in the overview
  /// What the command takes and what people are told about it: parsed, printed by --help, completed by the shells and
  /// written into the manual page.
  Options (*options)();
  /// `options` are parsed. Returns an exit code; throws UsageError or InvalidArgument for wrong usage (exit code 2) and
  /// anything else for a failure (exit code 1).
  int (*run)(const Options& options);
};

/// Every command, in the order of the overview.
std::span<const Command> commands();

/// Throws UnknownCommand naming the nearest.
const Command& find_command(const std::string& name);

Options doctor_options();
Options tune_options();
Options show_options();
Options inspect_options();
Options bench_options();
Options verify_options();
Options catalogue_options();
Options render_options();
Options compile_options();
Options cache_options();
Options merge_options();
Options diff_options();
Options export_options();
Options import_options();
Options snapshot_options();
Options history_options();
Options forget_options();
Options report_options();
Options run_options();
Options completion_options();
Options man_options();

int run_doctor(const Options& options);
int run_tune(const Options& options);
int run_show(const Options& options);
int run_inspect(const Options& options);
int run_bench(const Options& options);
int run_verify(const Options& options);
int run_catalogue(const Options& options);
int run_render(const Options& options);
int run_compile(const Options& options);
int run_cache(const Options& options);
int run_merge(const Options& options);
int run_diff(const Options& options);
int run_export(const Options& options);
int run_import(const Options& options);
int run_snapshot(const Options& options);
int run_history(const Options& options);
int run_forget(const Options& options);
int run_report(const Options& options);
int run_run(const Options& options);
int run_completion(const Options& options);
int run_man(const Options& options);

}  // namespace arbiter::cli
