// arbiter forget: measurements that should not have been taken.
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "arbiter/db/database.hpp"
#include "arbiter/tuner/recompute.hpp"
#include "commands/command.hpp"
#include "options/database.hpp"
#include "options/options.hpp"
#include "text/json.hpp"
#include "text/print.hpp"

namespace arbiter::cli {
namespace {

/// The one run whose id starts with `start`.
const RunHistory& find_run(const std::vector<RunHistory>& history, const std::string& start,
                           const std::filesystem::path& database) {
  const RunHistory* found = nullptr;
  for (const RunHistory& entry : history) {
    if (entry.run.id == start) return entry;
    if (!entry.run.id.starts_with(start)) continue;
    if (found != nullptr) throw UsageError("several runs start with '" + start + "'; give more of the id");
    found = &entry;
  }
  if (found == nullptr) {
    throw UsageError("no run starts with '" + start + "'; see the runs with: arbiter history --db " +
                     database.string());
  }
  return *found;
}

}  // namespace

Options forget_options() {
  Options options("forget",
                  "Drops a run and its measurements from a work database, and decides anew from what is left: for a\n"
                  "run on a machine that was busy, too hot, or not the one it was thought to be. There is no way back\n"
                  "but a copy: arbiter export writes one.",
                  "arbiter forget --db cluster.db 3f2a  # the run's id in: arbiter history --db cluster.db");
  options.words("RUN", "RUN: the run's id, or the first characters of it, as `arbiter history` prints it.", 1);
  declare_database(options, "work database to change");
  options.flag("json", "for programs; see docs/cli.md");
  return options;
}

int run_forget(const Options& options) {
  if (options.words().empty() || options.words().front().empty()) throw UsageError("no RUN: name the run to forget");

  const std::filesystem::path path = database_path(options);
  const std::vector<RunHistory> history = read_history(path);
  mention_kernels(path);
  const RunHistory& entry = find_run(history, options.words().front(), path);
  WorkDatabase::open(path).forget(entry.run.id, [](WorkDatabase& database, const Environment& environment) {
    recompute_decisions(database, environment);
  });
  std::size_t decisions = 0;
  for (const DecisionSet& set : read_decisions(path)) decisions += set.decisions.size();
  if (options.has("json")) {
    print_json([&](llvm::json::OStream& json) {
      json.attribute("schema", json_schema);
      write_text(json, "run", entry.run.id);
      write_field(json, "trials", entry.trials);
      write_field(json, "samples", entry.samples);
      write_field(json, "decisions", decisions);
    });
  } else {
    print("%s: forgot run %s (%s): %zu trials, %zu samples; %zu decisions are left\n", path.c_str(),
          entry.run.id.c_str(), entry.run.host.c_str(), entry.trials, entry.samples, decisions);
  }
  return exit_success;
}

}  // namespace arbiter::cli
