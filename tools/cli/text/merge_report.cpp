#include "text/merge_report.hpp"

#include <cstdio>
#include <string>

#include "text/json.hpp"
#include "text/print.hpp"
#include "text/text.hpp"

namespace arbiter::cli {

void print_report(const MergeReport& report, const std::filesystem::path& database, bool as_json) {
  const std::vector<DecisionSet> sets = read_decisions(database);
  std::size_t decisions = 0;
  for (const DecisionSet& set : sets) decisions += set.decisions.size();
  if (!as_json) {
    if (report == MergeReport{}) {
      print("%s: everything was there already; %s\n", database.c_str(), plural(decisions, "decision").c_str());
      return;
    }
    print("%s: added %s, %s and %s", database.c_str(), plural(report.runs, "run").c_str(),
          plural(report.trials, "trial").c_str(), plural(report.samples, "sample").c_str());
    if (report.updated != 0) print(", updated %s", plural(report.updated, "record").c_str());
    print("; %s in %s\n", plural(decisions, "decision").c_str(), plural(sets.size(), "environment").c_str());
    return;
  }
  print_json([&](llvm::json::OStream& json) {
    json.attribute("schema", json_schema);
    write_text(json, "database", database.string());
    json.attributeObject("added", [&] {
      write_field(json, "environments", report.environments);
      write_field(json, "runs", report.runs);
      write_field(json, "problems", report.problems);
      write_field(json, "candidates", report.candidates);
      write_field(json, "trials", report.trials);
      write_field(json, "samples", report.samples);
    });
    write_field(json, "updated", report.updated);
    write_field(json, "decisions", decisions);
  });
}

}  // namespace arbiter::cli
