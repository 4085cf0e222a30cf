// arbiter export: a database as text.
#include <sstream>

#include "arbiter/db/contents.hpp"
#include "command.hpp"
#include "database_option.hpp"
#include "files.hpp"
#include "json.hpp"
#include "options.hpp"

namespace arbiter::cli {

int run_export(Arguments arguments) {
  Options options("export",
                  "Writes a work database or a snapshot as JSON lines: ordered, with everything in it, so that two\n"
                  "exports can be compared with diff, and an export can be imported again.",
                  "arbiter export --db cluster.db --output cluster.jsonl");
  declare_database(options, "work database or snapshot to read");
  options.value("output", "FILE", "write here (default: standard output)");
  options.flag("json", "report what was written, for programs; see docs/cli.md. With --output");
  if (!options.parse(arguments)) return exit_success;
  const std::string output = options.text("output");
  if (options.has("json") && (output.empty() || output == "-")) {
    throw UsageError("--json reports what was written to a file: it needs --output FILE");
  }
  const Contents contents = read_contents(database_path(options));
  std::ostringstream text;
  write_jsonl(text, contents);
  write_output(output, text.str());
  if (!options.has("json")) return exit_success;
  print_json([&](llvm::json::OStream& json) {
    json.attribute("schema", json_schema);
    write_text(json, "file", output);
    json.attribute("bytes", static_cast<std::int64_t>(text.str().size()));
  });
  return exit_success;
}

}  // namespace arbiter::cli
