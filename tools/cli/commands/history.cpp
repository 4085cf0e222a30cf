// arbiter history: the runs in a database, where and when.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "arbiter/db/database.hpp"
#include "commands/command.hpp"
#include "options/database.hpp"
#include "options/options.hpp"
#include "text/json.hpp"
#include "text/print.hpp"
#include "text/table.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

std::string duration(const Run& run) {
  if (run.finished == 0) return "not finished";
  return format_seconds(static_cast<double>(run.finished) - static_cast<double>(run.started));
}

/// "steady", "clocks dropped"; "-" where neither is known.
std::string steadiness(const Run& run) {
  if (const std::string dropped = run.dropped(); !dropped.empty()) return dropped + " dropped";
  return run.sm_clock_start_mhz == 0 && run.power_start_watts == 0 ? "-" : "steady";
}

void print_as_json(const std::vector<RunHistory>& history) {
  print_json([&](llvm::json::OStream& json) {
    json.attribute("schema", json_schema);
    json.attributeArray("runs", [&] {
      for (const RunHistory& entry : history) {
        json.object([&] {
          const Run& run = entry.run;
          write_text(json, "id", run.id);
          write_text(json, "environment", entry.environment.key());
          write_text(json, "gpu_name", entry.environment.gpu_name);
          write_text(json, "host", run.host);
          write_text(json, "command", run.command);
          json.attribute("started", run.started);
          json.attribute("finished", run.finished);
          write_field(json, "trials", entry.trials);
          write_field(json, "done", entry.done);
          write_field(json, "samples", entry.samples);
          json.attribute("sm_clock_start_mhz", run.sm_clock_start_mhz);
          json.attribute("sm_clock_end_mhz", run.sm_clock_end_mhz);
          json.attribute("power_start_watts", run.power_start_watts);
          json.attribute("power_end_watts", run.power_end_watts);
          json.attribute("clocks_dropped", run.clocks_dropped);
          json.attribute("power_dropped", run.power_dropped());
        });
      }
    });
  });
}

}  // namespace

Options history_options() {
  Options options(
      "history",
      "Lists the runs whose measurements a work database holds, oldest first: when (UTC), where, for how\n"
      "long, and how many trials are left of it, and whether clocks or power dropped. The id is for `arbiter forget`.",
      "arbiter history --db cluster.db");
  declare_database_word(options, "work database to read");
  options.flag("json", "for programs; see docs/cli.md");
  return options;
}

int run_history(const Options& options) {
  const std::filesystem::path file = database_path(options);
  const std::vector<RunHistory> history = read_history(file);
  mention_kernels(file);
  if (options.has("json")) {
    print_as_json(history);
    return exit_success;
  }
  if (history.empty()) {
    print("no runs: it is a snapshot, or nothing was measured into it yet\n");
    return exit_success;
  }
  Table table({"started", "took", "host", "device", "environment", "trials done", "clocks, power", "run"});
  for (const RunHistory& entry : history) {
    table.add_cells({format_date(entry.run.started), duration(entry.run), entry.run.host, entry.environment.gpu_name,
                     Cell(entry.environment.key().substr(0, 12), entry.environment.key().substr(0, 8)),
                     fmt::format("{} of {}", entry.done, entry.trials), steadiness(entry.run),
                     Cell(entry.run.id, entry.run.id.substr(0, 8))});
  }
  table.print();
  return exit_success;
}

}  // namespace arbiter::cli
