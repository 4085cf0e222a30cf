// arbiter snapshot: the decisions of a work database as a file for every node.
#include <cstdio>
#include <filesystem>

#include "arbiter/runtime/decision_kernels.hpp"
#include "arbiter/runtime/kernel_cache.hpp"
#include "arbiter/variables.hpp"
#include "commands/command.hpp"
#include "options/database.hpp"
#include "options/options.hpp"
#include "text/json.hpp"
#include "text/print.hpp"
#include "text/text.hpp"

namespace arbiter::cli {

namespace {

DecisionKernels compile_kernels(const std::vector<DecisionSet>& sets) {
  const EnvironmentVariables variables = EnvironmentVariables::read();
  return compile_decision_kernels(sets, *make_kernel_cache(variables, true));
}

}  // namespace

Options snapshot_options() {
  Options options("snapshot",
                  "Writes the decisions of a work database, without the measurements, to FILE: small, read-only, and\n"
                  "the same bytes for the same decisions. It replaces an earlier snapshot as a whole, never another\n"
                  "kind of file. Give it to programs as ARBITER_DB.",
                  "arbiter snapshot cluster.db /shared/arbiter-h200.db\n"
                  "arbiter snapshot --db cluster.db --with-kernels /shared/arbiter-h200.db");
  declare_database(options, "work database to read");
  options.words("[DB] FILE", "FILE: where to write the snapshot. DB: the same as --db DB.", 2)
      .files()
      .flag("with-kernels",
            "also store the compiled kernels that the decisions need, for all ranks, so\n"
            "that a machine without NVRTC can run them; needs NVRTC here, but no GPU")
      .flag("json", "for programs; see docs/cli.md");
  return options;
}

int run_snapshot(const Options& options) {
  if (options.words().empty()) throw UsageError("no FILE: name the snapshot to write");

  const bool named = options.words().size() == 2;
  const std::filesystem::path source = database_path(options, named ? options.words().front() : "");
  const std::filesystem::path target = options.words().back();
  std::error_code error;
  if (std::filesystem::equivalent(source, target, error)) {
    throw DatabaseError("'" + target.string() +
                        "': the snapshot would replace the database itself. Choose another name");
  }
  const std::vector<DecisionSet> read = read_decisions(source);
  mention_kernels(source);
  DecisionKernels made;
  if (options.has("with-kernels")) made = compile_kernels(read);
  write_snapshot(target, read, made.kernels);
  for (const std::string& skipped : made.skipped) {
    print_error("arbiter: no kernel for a decision that will not be used: %s\n", skipped.c_str());
  }
  std::size_t decisions = 0;
  const std::vector<DecisionSet> sets = read_decisions(target);
  for (const DecisionSet& set : sets) decisions += set.decisions.size();
  const auto bytes = std::filesystem::file_size(target);
  if (options.has("json")) {
    print_json([&](llvm::json::OStream& json) {
      json.attribute("schema", json_schema);
      write_text(json, "snapshot", target.string());
      write_field(json, "bytes", bytes);
      write_field(json, "environments", sets.size());
      write_field(json, "decisions", decisions);
      write_field(json, "kernels", made.kernels.size());
    });
  } else {
    print("%s: %s in %s", target.c_str(), plural(decisions, "decision").c_str(),
          plural(sets.size(), "environment").c_str());
    if (options.has("with-kernels")) print(", %s", plural(made.kernels.size(), "kernel").c_str());
    print(", %s\n", format_bytes(bytes).c_str());
  }
  return exit_success;
}

}  // namespace arbiter::cli
