#include <llvm/Support/JSON.h>
#include <llvm/Support/raw_ostream.h>

#include "arbiter/error.hpp"
#include "arbiter/tuner/conformance.hpp"
#include "measure/json_text.hpp"

namespace arbiter {

using namespace tuning;

namespace {

void write_case(llvm::json::OStream& json, const CaseResult& item) {
  write_text(json, "area", item.area);
  write_text(json, "backend", to_string(item.backend));
  write_text(json, "algorithm", item.algorithm);
  write_text(json, "pattern", item.pattern);
  write_text(json, "dtype", to_string(item.dtype));
  json.attribute("world", item.world);
  json.attribute("hidden", item.hidden);
  json.attribute("tokens", item.tokens);
  write_text(json, "status", to_string(item.status));
  write_text(json, "reason", item.reason);
  json.attribute("cpu_only", item.cpu_only);
  write_text(json, "detail", item.detail);
  write_text(json, "candidate", item.candidate);
}

}  // namespace

std::string conformance_json(const std::vector<ConformanceReport>& reports, const std::string& command) {
  if (reports.empty()) throw InvalidArgument("no conformance report to write; expected at least one");
  const auto total = [&](CaseStatus status) {
    std::size_t count = 0;
    for (const ConformanceReport& report : reports) count += report.count(status);
    return static_cast<std::int64_t>(count);
  };
  std::string text;
  llvm::raw_string_ostream stream(text);
  llvm::json::OStream json(stream, 1);
  json.object([&] {
    json_report_head(json, command, reports.front().environment);
    json.attribute("passed", total(CaseStatus::passed));
    json.attribute("failed", total(CaseStatus::failed));
    json.attribute("skipped", total(CaseStatus::skipped));
    json.attributeArray("cases", [&] {
      for (const ConformanceReport& report : reports) {
        for (const CaseResult& item : report.cases) json.object([&] { write_case(json, item); });
      }
    });
  });
  json.flush();
  stream << '\n';
  stream.flush();
  return text;
}

}  // namespace arbiter
