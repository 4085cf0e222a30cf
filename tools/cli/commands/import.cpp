// arbiter import: an export in JSON lines becomes a database, or part of one.
#include <filesystem>
#include <sstream>

#include "arbiter/db/contents.hpp"
#include "arbiter/tuner/recompute.hpp"
#include "commands/command.hpp"
#include "options/database.hpp"
#include "options/options.hpp"
#include "text/files.hpp"
#include "text/merge_report.hpp"

namespace arbiter::cli {

Options import_options() {
  Options options("import",
                  "Reads what `arbiter export` wrote. Into a new database: exactly that, decisions included. Into one\n"
                  "that has something: merged, as by `arbiter merge`. A line that is not understood is named, and\n"
                  "nothing is written then.",
                  "arbiter import --db copy.db measurements.jsonl\n"
                  "ssh node1 arbiter export --db arbiter.db | arbiter import --db cluster.db -");
  declare_database(options, "work database to add to");
  options.words("FILE", "FILE: JSON lines; - is standard input.", 1)
      .files()
      .flag("json", "for programs; see docs/cli.md");
  return options;
}

int run_import(const Options& options) {
  if (options.words().empty()) throw UsageError("no FILE: name the file to import, or - for standard input");

  const std::string& file = options.words().front();
  const std::filesystem::path destination = database_path(options);
  std::istringstream text(read_input(file));
  // Parsed as a whole before the database is opened, and perhaps made.
  const Contents contents = parse_jsonl(text, file == "-" ? "standard input" : file);
  const MergeReport report =
      WorkDatabase::open(destination).import(contents, [](WorkDatabase& database, const Environment& environment) {
        recompute_decisions(database, environment);
      });
  print_report(report, destination, options.has("json"));
  return exit_success;
}

}  // namespace arbiter::cli
