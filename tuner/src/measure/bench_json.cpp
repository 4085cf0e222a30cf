#include <llvm/Support/JSON.h>
#include <llvm/Support/raw_ostream.h>

#include <cmath>

#include "arbiter/tuner/bench.hpp"
#include "measure/json_text.hpp"

namespace arbiter {

using namespace tuning;

namespace {

void write_result(llvm::json::OStream& json, const BenchResult& result) {
  if (!result.time) {
    write_text(json, "unavailable", result.unavailable);
    return;
  }
  json.attribute("median_us", json_number(result.time->median_us));
  json.attribute("ci_low_us", json_number(result.time->ci_low_us));
  json.attribute("ci_high_us", json_number(result.time->ci_high_us));
  write_text(json, "chosen", result.chosen);
  if (!result.rule.empty()) write_text(json, "rule", result.rule);
  write_field(json, "samples", result.time->samples);
  if (result.time->bimodal) json.attribute("bimodal", true);
}

void write_row(llvm::json::OStream& json, const BenchRow& row) {
  const Problem& problem = row.problem;
  write_text(json, "mode", to_string(problem.mode));
  json.attribute("world", problem.world);
  write_text(json, "dtype", to_string(problem.dtype));
  write_text(json, "pattern", problem.pattern);
  json.attribute("hidden", problem.hidden);
  json.attribute("tokens", problem.tokens);
  json.attribute("bytes", problem.bytes());
  json.attributeObject("results", [&] {
    for (const auto& entry : row.results) {
      json.attributeObject(entry.first, [&] { write_result(json, entry.second); });
    }
  });
}

}  // namespace

std::string bench_json(const Environment& environment, const std::vector<BenchRow>& rows, const std::string& command) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  llvm::json::OStream json(stream, 1);
  json.object([&] {
    json_report_head(json, command, environment);
    json.attributeArray("rows", [&] {
      for (const BenchRow& row : rows) json.object([&] { write_row(json, row); });
    });
  });
  json.flush();
  stream << '\n';
  stream.flush();
  return text;
}

}  // namespace arbiter
