#include "text/bench_table.hpp"

#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>
#include <set>

#include "text/print.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

std::string text_of(const llvm::json::Object& object, const char* key) {
  return object.getString(key).value_or("").str();
}

std::optional<double> median_of(const llvm::json::Object* result) {
  if (result == nullptr) return std::nullopt;
  const auto median = result->getNumber("median_us");
  return median ? std::optional<double>(*median) : std::nullopt;
}

/// NCCL first, then by name: what people compare with.
std::vector<std::string> columns_of(const std::vector<const llvm::json::Object*>& rows,
                                    const std::vector<std::string>& against) {
  if (!against.empty()) return against;
  std::set<std::string> names;
  for (const llvm::json::Object* row : rows) {
    const llvm::json::Object* results = row->getObject("results");
    if (results == nullptr) continue;
    for (const auto& [name, result] : *results) {
      if (median_of(result.getAsObject())) names.insert(name.str());
    }
  }
  names.erase("auto");
  std::vector<std::string> columns(names.begin(), names.end());
  std::stable_partition(columns.begin(), columns.end(),
                        [](const std::string& name) { return name.starts_with("nccl"); });
  return columns;
}

std::string heading(const llvm::json::Object& row) {
  return text_of(row, "pattern") + " " + text_of(row, "dtype") + ", hidden " +
         std::to_string(row.getInteger("hidden").value_or(0)) + ", " +
         std::to_string(row.getInteger("world").value_or(0)) + " ranks, " + text_of(row, "mode");
}

void print_group(const std::vector<const llvm::json::Object*>& rows, const std::vector<std::string>& against) {
  const std::vector<std::string> columns = columns_of(rows, against);
  std::vector<std::string> header{"tokens", "size", "auto us", "chosen by auto", "rule"};
  for (const std::string& column : columns) header.push_back(column);
  // A ratio says something beside NCCL, or beside what was asked for; not beside one algorithm among many.
  const bool ratio_shown = !columns.empty() && (!against.empty() || columns.front() == "nccl");
  if (ratio_shown) header.push_back("vs " + columns.front());
  header.emplace_back("parameters of the choice");
  Table table(header);
  std::map<std::string, std::string> missing;
  for (const llvm::json::Object* row : rows) {
    const llvm::json::Object* results = row->getObject("results");
    const llvm::json::Object* automatic = results == nullptr ? nullptr : results->getObject("auto");
    const auto own = median_of(automatic);
    const CandidateText chosen = split_candidate(automatic == nullptr ? "-" : text_of(*automatic, "chosen"));
    std::vector<std::string> cells{std::to_string(row->getInteger("tokens").value_or(0)),
                                   format_bytes(static_cast<std::uint64_t>(row->getInteger("bytes").value_or(0))),
                                   own ? format_microseconds(*own) : "-", chosen.algorithm,
                                   automatic == nullptr ? "-" : text_of(*automatic, "rule")};
    for (const std::string& column : columns) {
      const llvm::json::Object* result = results == nullptr ? nullptr : results->getObject(column);
      const auto median = median_of(result);
      cells.push_back(median ? format_microseconds(*median) : "-");
      if (!median && result != nullptr) missing[column] = text_of(*result, "unavailable");
    }
    if (ratio_shown) {
      const auto first = median_of(results == nullptr ? nullptr : results->getObject(columns.front()));
      char ratio[32] = "-";
      if (own && first && *own > 0) std::snprintf(ratio, sizeof ratio, "%.2fx", *first / *own);
      cells.emplace_back(ratio);
    }
    cells.push_back(chosen.parameters);
    table.add(cells);
  }
  table.print();
  for (const auto& [name, reason] : missing) print("%s: %s\n", name.c_str(), reason.c_str());
}

}  // namespace

void print_bench_table(const llvm::json::Object& document, const std::vector<std::string>& against) {
  const llvm::json::Array* rows = document.getArray("rows");
  if (rows == nullptr) return;
  std::vector<std::string> order;
  std::map<std::string, std::vector<const llvm::json::Object*>> groups;
  for (const llvm::json::Value& value : *rows) {
    const llvm::json::Object* row = value.getAsObject();
    if (row == nullptr) continue;
    const std::string name = heading(*row);
    if (!groups.contains(name)) order.push_back(name);
    groups[name].push_back(row);
  }
  for (const std::string& name : order) {
    print("\n%s\n", name.c_str());
    print_group(groups[name], against);
  }
}

}  // namespace arbiter::cli
