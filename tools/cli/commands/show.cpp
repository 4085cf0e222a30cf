// arbiter show: the decisions of a work database or a snapshot, and what it serves to programs that use only NCCL.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "arbiter/db/contents.hpp"
#include "arbiter/db/database.hpp"
#include "arbiter/db/json.hpp"
#include "arbiter/generator/catalogue.hpp"
#include "arbiter/generator/joined.hpp"
#include "commands/command.hpp"
#include "options/database.hpp"
#include "options/names.hpp"
#include "options/options.hpp"
#include "text/environment.hpp"
#include "text/measured.hpp"
#include "text/print.hpp"
#include "text/show_plot.hpp"
#include "text/show_tables.hpp"

namespace arbiter::cli {
namespace {

struct Filter {
  std::vector<std::string> patterns;
  std::vector<std::string> dtypes;
  std::vector<int> worlds;
  std::vector<int> hiddens;
  std::vector<Mode> modes;
  EnvironmentFilter environment;
};

template <typename List, typename Value>
bool admits(const List& list, const Value& value) {
  return list.empty() || std::find(list.begin(), list.end(), value) != list.end();
}

bool admits(const Filter& filter, const Decision& decision) {
  return admits(filter.patterns, decision.pattern) && admits(filter.worlds, decision.world) &&
         admits(filter.dtypes, std::string(to_string(decision.dtype))) && admits(filter.hiddens, decision.hidden) &&
         admits(filter.modes, decision.mode);
}

/// They know bytes and ranks, not dtypes, hidden sizes or modes.
bool admits(const Filter& filter, const NcclChoice& choice) {
  return admits(filter.patterns, std::string("allreduce")) && admits(filter.worlds, choice.world);
}

/// "pattern: allreduce; dtype: bf16; hidden: 4096, 8192; world: 2, 4; mode: graph"
std::string what_is_there(const std::vector<DecisionSet>& sets) {
  std::set<std::string> patterns, dtypes, modes;
  std::set<int> hiddens, worlds;
  for (const DecisionSet& set : sets) {
    for (const Decision& decision : set.decisions) {
      patterns.insert(decision.pattern);
      dtypes.emplace(to_string(decision.dtype));
      modes.emplace(to_string(decision.mode));
      hiddens.insert(decision.hidden);
      worlds.insert(decision.world);
    }
  }
  std::vector<std::string> parts;
  const auto add = [&](const char* name, const auto& values) {
    parts.push_back(fmt::format("{}: {}", name, joined(values, ", ")));
  };
  add("pattern", patterns);
  add("dtype", dtypes);
  add("hidden", hiddens);
  add("world", worlds);
  add("mode", modes);
  return joined(parts, "; ");
}

/// If the filter leaves nothing, says what there is.
std::vector<DecisionSet> load(const std::filesystem::path& file, const Filter& filter) {
  std::vector<DecisionSet> sets = read_decisions(file);
  std::erase_if(sets, [&](const DecisionSet& set) { return !filter.environment.admits(set.environment); });
  const std::string there = what_is_there(sets);
  const auto any = [&] {
    return std::any_of(sets.begin(), sets.end(), [](const DecisionSet& set) { return !set.decisions.empty(); });
  };
  const bool some = any();
  for (DecisionSet& set : sets) {
    std::erase_if(set.decisions, [&](const Decision& decision) { return !admits(filter, decision); });
    std::erase_if(set.nccl, [&](const NcclChoice& choice) { return !admits(filter, choice); });
  }
  if (some && !any()) print_error("nothing matches. There are decisions for %s\n", there.c_str());
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
  options.list("pattern", "NAME", "only these patterns")
      .choices(pattern_names())
      .list("dtype", "NAME", "only these: bf16, fp16, fp32")
      .choices(dtype_names())
      .list("world", "N", "only these numbers of ranks")
      .list("hidden", "H", "only these hidden sizes")
      .list("mode", "NAME", "only these: graph, eager")
      .choices(mode_names());
  declare_environment_filter(options);
  options.flag("plot", "draw the curves of all candidate families in the terminal, instead of the table");
  options.flag("json", "for programs; see docs/cli.md");
  return options;
}

int run_show(const Options& options) {
  Filter filter;
  for (const std::string& pattern : options.texts("pattern")) {
    filter.patterns.push_back(Catalogue::builtin().pattern(pattern).name);
  }
  for (const std::string& dtype : options.texts("dtype")) filter.dtypes.emplace_back(to_string(parse_dtype(dtype)));
  filter.worlds = options.integers("world", 1, 1 << 16, {});
  filter.hiddens = options.integers("hidden", 1, 1 << 20, {});
  for (const std::string& mode : options.texts("mode")) filter.modes.push_back(parse_mode(mode));
  filter.environment = read_environment_filter(options);

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
