// arbiter show: the decisions of a work database or a snapshot, and what it serves to programs that use only NCCL.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "arbiter/db/contents.hpp"
#include "arbiter/db/database.hpp"
#include "arbiter/db/json.hpp"
#include "commands/command.hpp"
#include "options/database.hpp"
#include "options/decision_filter.hpp"
#include "options/options.hpp"
#include "text/environment.hpp"
#include "text/measured.hpp"
#include "text/print.hpp"
#include "text/show_plot.hpp"
#include "text/show_tables.hpp"

namespace arbiter::cli {
namespace {

struct Filter {
  DecisionFilter decision;
  EnvironmentFilter environment;
};

/// If the filter leaves nothing, says what there is.
std::vector<DecisionSet> load(const std::filesystem::path& file, const Filter& filter) {
  std::vector<DecisionSet> sets = read_decisions(file);
  std::erase_if(sets, [&](const DecisionSet& set) { return !filter.environment.admits(set.environment); });
  std::vector<std::vector<Decision>*> lists;
  for (DecisionSet& set : sets) {
    lists.push_back(&set.decisions);
    std::erase_if(set.nccl, [&](const NcclChoice& choice) { return !filter.decision.admits(choice); });
  }
  keep_admitted(lists, filter.decision);
  // GPUs first: who has both in one file asks about those.
  std::stable_partition(sets.begin(), sets.end(),
                        [](const DecisionSet& set) { return set.environment.device != "cpu"; });
  return sets;
}

/// The promised shape holds one environment; a file with more is narrowed by --device or --environment.
void print_as_json(const Contents& contents, const std::vector<DecisionSet>& sets) {
  const Measurements measurements(contents, sets.front().environment.key());
  const auto of = [&](const Decision& decision) { return measurements.of(decision); };
  std::fputs(decisions_json(sets.front(), of).c_str(), stdout);
  std::vector<const Environment*> environments;
  for (const DecisionSet& set : sets) environments.push_back(&set.environment);
  mention_others(environments);
}

}  // namespace

Options show_options() {
  Options options("show",
                  "Prints the decisions of a work database or a snapshot: for every interval of tokens, the candidate\n"
                  "that won, its median time and the size it was timed at (the largest measured of the interval), how\n"
                  "many times as fast as NCCL that is, and the runner-up. Then the configurations that the NCCL tuner\n"
                  "plugin serves to programs that use only NCCL.",
                  "arbiter show cluster.db --pattern allreduce --world 4\n"
                  "arbiter show --db cluster.db --pattern allreduce --world 4 --hidden 8192 --plot");
  declare_database_word(options, "work database or snapshot to read");
  declare_decision_filter(options);
  declare_environment_filter(options);
  options.flag("plot", "draw the curves of all candidate families in the terminal, instead of the table");
  options.flag("json", "for programs; see docs/cli.md");
  return options;
}

int run_show(const Options& options) {
  const Filter filter{read_decision_filter(options), read_environment_filter(options)};

  if (options.has("json") && options.has("plot")) throw UsageError("--json and --plot exclude each other");

  const std::filesystem::path file = database_path(options);
  const std::vector<DecisionSet> sets = load(file, filter);
  mention_kernels(file);
  if (sets.empty()) {
    throw DatabaseError(file.string() + " has no decisions" +
                        (filter.environment.device.empty() && filter.environment.key.empty()
                             ? "; make some with: arbiter tune --db " + file.string()
                             : " for this device or environment"));
  }
  if (options.has("json")) {
    print_as_json(read_contents(file), sets);
  } else if (options.has("plot")) {
    print_plots(read_contents(file), sets);
  } else {
    // Escaped by Table and wrapped(); print() would show the colours.
    std::fputs(show_tables(read_contents(file), sets, TerminalStyle::of_stdout()).c_str(), stdout);
  }
  return exit_success;
}

}  // namespace arbiter::cli
