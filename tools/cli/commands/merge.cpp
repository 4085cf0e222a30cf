// arbiter merge: one database from several.
#include <filesystem>
#include <vector>

#include "arbiter/db/contents.hpp"
#include "arbiter/tuner/recompute.hpp"
#include "commands/command.hpp"
#include "options/database.hpp"
#include "options/options.hpp"
#include "text/merge_report.hpp"

namespace arbiter::cli {

Options merge_options() {
  constexpr int most_sources = 10'000;
  Options options(
      "merge",
      "Adds the measurements of other work databases to one, which is made if it is not there, and decides\n"
      "anew from all of them. The result is the same in any order, and merging twice changes nothing.\n"
      "All or nothing: if one file cannot be merged, nothing is.",
      "arbiter merge --db cluster.db node1.db node2.db\n"
      "arbiter merge --db cluster.db node3.db --json");
  declare_database(options, "work database to add to");
  options
      .words("SOURCE...", "SOURCE: a work database. A snapshot has decisions only and cannot be merged.", most_sources)
      .files();
  options.flag("json", "for programs; see docs/cli.md");
  return options;
}

int run_merge(const Options& options) {
  if (options.words().empty()) throw UsageError("no SOURCE: name at least one database to merge");

  const std::filesystem::path destination = database_path(options);
  const std::vector<std::filesystem::path> sources(options.words().begin(), options.words().end());
  const MergeReport report = merge(destination, sources, [](WorkDatabase& database, const Environment& environment) {
    recompute_decisions(database, environment);
  });
  print_report(report, destination, options.has("json"));
  return exit_success;
}

}  // namespace arbiter::cli
