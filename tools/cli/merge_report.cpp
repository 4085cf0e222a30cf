#include "merge_report.hpp"

#include <cstdio>
#include <string>

#include "json.hpp"

namespace arbiter::cli {

void print_report(const MergeReport& report, const std::filesystem::path& database, bool as_json) {
  const std::vector<DecisionSet> sets = read_decisions(database);
  std::size_t decisions = 0;
  for (const DecisionSet& set : sets) decisions += set.decisions.size();
  if (!as_json) {
    if (report == MergeReport{}) {
      std::printf("%s: everything was there already; %zu decisions\n", database.c_str(), decisions);
      return;
    }
    std::printf("%s: added %zu runs, %zu trials and %zu samples", database.c_str(), report.runs, report.trials,
                report.samples);
    if (report.updated != 0) std::printf(", updated %zu runs and trials", report.updated);
    std::printf("; %zu decisions in %zu environments\n", decisions, sets.size());
    return;
  }
  print_json([&](llvm::json::OStream& json) {
    json.attribute("schema", json_schema);
    write_text(json, "database", database.string());
    json.attributeObject("added", [&] {
      json.attribute("environments", static_cast<std::int64_t>(report.environments));
      json.attribute("runs", static_cast<std::int64_t>(report.runs));
      json.attribute("problems", static_cast<std::int64_t>(report.problems));
      json.attribute("candidates", static_cast<std::int64_t>(report.candidates));
      json.attribute("trials", static_cast<std::int64_t>(report.trials));
      json.attribute("samples", static_cast<std::int64_t>(report.samples));
    });
    json.attribute("updated", static_cast<std::int64_t>(report.updated));
    json.attribute("decisions", static_cast<std::int64_t>(decisions));
  });
}

}  // namespace arbiter::cli
