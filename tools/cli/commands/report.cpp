// arbiter report: everything in a database that a person would rather see than read, on one page.
#include <algorithm>
#include <cstdio>
#include <deque>
#include <string>
#include <vector>

#include "arbiter/db/contents.hpp"
#include "commands/command.hpp"
#include "options/database.hpp"
#include "options/options.hpp"
#include "report/bench_part.hpp"
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
      "arbiter report cluster.db --output report.html\n"
      "arbiter report before.db after.db -o both.html\n"
      "arbiter bench --db cluster.db --json > bench.json && arbiter report bench.json");
  options
      .words("[FILE] [OTHER]",
             "FILE: the same as --db FILE, or what arbiter bench --json printed. OTHER: another one, beside it.", 2)
      .files();
  declare_database(options, "work database to read; of a snapshot only one size of each interval can be drawn");
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
  std::vector<std::string> files = options.words();
  const bool named = !files.empty();
  files.resize(std::max<std::size_t>(1, files.size()));
  files.front() = database_path(options, named ? files.front() : "").string();
  std::deque<Contents> contents;  // what the parts point into
  std::vector<ReportPart> parts;
  for (const std::string& file : files) {
    if (is_bench_file(file)) {
      parts.push_back(bench_part(file));
      continue;
    }
    contents.push_back(read_contents(file));
    for (ReportPart& part : report_parts(contents.back(), filter, file)) parts.push_back(std::move(part));
    mention_kernels(file);
  }
  const std::string page = report_page(report_data(parts));
  write_output(output, page);
  if (options.has("json")) {
    print_json([&](llvm::json::OStream& json) {
      json.attribute("schema", json_schema);
      write_text(json, "file", output);
      write_field(json, "bytes", page.size());
    });
  } else if (output != "-") {
    print("%s: %s; open it in a browser\n", output.c_str(), format_bytes(page.size()).c_str());
  }
  return exit_success;
}

}  // namespace arbiter::cli
