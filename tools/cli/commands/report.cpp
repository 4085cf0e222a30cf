// arbiter report: everything in a database that a person would rather see than read, on one page.
#include <cstdio>
#include <string>

#include "arbiter/db/contents.hpp"
#include "commands/command.hpp"
#include "options/database.hpp"
#include "options/options.hpp"
#include "report/data.hpp"
#include "text/environment.hpp"
#include "text/files.hpp"
#include "text/json.hpp"
#include "text/print.hpp"
#include "text/text.hpp"

namespace arbiter::cli {

Options report_options() {
  Options options(
      "report",
      "Writes one self-contained HTML page: latency curves of every family of candidates with their\n"
      "confidence bands, who wins where over tokens and hidden size, the decisions, the environment and the\n"
      "runs. It opens without a network, in light and dark, and can be printed. The same database gives the\n"
      "same bytes.",
      "arbiter report --db cluster.db --output report.html");
  declare_database(options, "work database to read; of a snapshot only the ends of intervals can be drawn");
  options.output("write here (default: report.html); - is standard output");
  declare_environment_filter(options);
  options.flag("json", "report what was written, for programs; see docs/cli.md");
  return options;
}

int run_report(const Options& options) {
  const std::string output = options.text("output", "report.html");
  if (options.has("json") && output == "-") {
    throw UsageError("--json reports what was written to a file: it needs --output FILE");
  }
  const EnvironmentFilter filter = read_environment_filter(options);
  const std::filesystem::path file = database_path(options);
  const std::string page = report_page(report_data(read_contents(file), filter, file.string()));
  mention_kernels(file);
  write_output(output, page);
  if (options.has("json")) {
    print_json([&](llvm::json::OStream& json) {
      json.attribute("schema", json_schema);
      write_text(json, "file", output);
      json.attribute("bytes", static_cast<std::int64_t>(page.size()));
    });
  } else if (output != "-") {
    print("%s: %s; open it in a browser\n", output.c_str(), format_bytes(page.size()).c_str());
  }
  return exit_success;
}

}  // namespace arbiter::cli
