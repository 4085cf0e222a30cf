#include "text/bench_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>
#include <set>

#include "text/candidates.hpp"
#include "text/print.hpp"
#include "text/table.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

std::string text_of(const llvm::json::Object& object, const char* key) {
  return object.getString(key).value_or("").str();
}

std::optional<double> median_of(const llvm::json::Object* result) {
  return result == nullptr ? std::nullopt : result->getNumber("median_us");
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
  return fmt::format("{} {}, hidden {}, {} ranks, {}", text_of(row, "pattern"), text_of(row, "dtype"),
                     row.getInteger("hidden").value_or(0), row.getInteger("world").value_or(0), text_of(row, "mode"));
}

double time_of(const llvm::json::Object* results, const std::string& name) {
  return results == nullptr ? 0 : median_of(results->getObject(name)).value_or(0);
}

/// "nccl": what auto is compared with. The fastest of NCCL's, of those that were timed, unless one was asked for.
double reference_of(const llvm::json::Object* results, const std::string& reference, bool any) {
  double best = time_of(results, reference);
  for (const char* other : {"nccl_symmetric", "nccl_registered"}) {
    const double us = any ? time_of(results, other) : 0;
    if (us > 0 && (best <= 0 || us < best)) best = us;
  }
  return best;
}

/// auto, what it chose, and how that compares.
void print_choices(const std::vector<const llvm::json::Object*>& rows, const std::string& reference, bool any,
                   const TerminalStyle& style) {
  std::vector<std::string> families, names;
  std::set<std::string> rules;
  for (const llvm::json::Object* row : rows) {
    const llvm::json::Object* results = row->getObject("results");
    const llvm::json::Object* automatic = results == nullptr ? nullptr : results->getObject("auto");
    names.push_back(automatic == nullptr ? "-" : text_of(*automatic, "chosen"));
    families.push_back(split_candidate(names.back()).algorithm);
    rules.insert(automatic == nullptr ? "-" : text_of(*automatic, "rule"));
  }
  const std::vector<Cell> cells = family_cells(families);
  const ParameterColumn parameters = parameter_column(names);
  if (rules.size() == 1) print("%s", wrapped("  rule: " + *rules.begin(), style.columns, 4).c_str());
  if (!parameters.legend.empty()) {
    print("%s", wrapped("  " + parameters.legend, style.columns, 4).c_str());
  }
  std::vector<std::string> header{"tokens", "size", "auto us", "chosen by auto"};
  if (!parameters.title.empty()) header.push_back(parameters.title);
  if (rules.size() > 1) header.emplace_back("rule");
  if (!reference.empty()) {
    const std::string name = family_cells({reference}).front().brief;
    header.insert(header.end(), {name + " us", any ? "vs NCCL" : "vs " + name});
  }
  Table table(header);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const llvm::json::Object* results = rows[i]->getObject("results");
    const double own = time_of(results, "auto");
    std::vector<Cell> row{std::to_string(rows[i]->getInteger("tokens").value_or(0)),
                          format_bytes(static_cast<std::uint64_t>(rows[i]->getInteger("bytes").value_or(0))),
                          own > 0 ? format_microseconds(own) : "-", cells[i]};
    row[3].strong = true;
    if (!parameters.title.empty()) row.emplace_back(parameters.cells[i]);
    if (rules.size() > 1) {
      const llvm::json::Object* automatic = results == nullptr ? nullptr : results->getObject("auto");
      row.emplace_back(automatic == nullptr ? "-" : text_of(*automatic, "rule"));
    }
    if (!reference.empty()) {
      const double first = time_of(results, reference);
      row.emplace_back(first > 0 ? format_microseconds(first) : "-");
      row.emplace_back(ratio_text(reference_of(results, reference, any), own));
    }
    table.add_cells(std::move(row));
  }
  table.print(style, 2);
}

/// Everything that was timed, as many columns at a time as there is room for.
void print_others(const std::vector<const llvm::json::Object*>& rows, const std::vector<std::string>& columns,
                  const TerminalStyle& style) {
  const std::vector<Cell> names = family_cells(columns);
  const auto room = static_cast<std::size_t>(std::max(style.columns, 40));
  for (std::size_t begin = 0; begin < columns.size();) {
    std::vector<std::string> header{"tokens"};
    std::size_t used = 10, end = begin;
    for (; end < columns.size(); ++end) {
      const std::string& name = names[end].brief.empty() ? names[end].text : names[end].brief;
      if (end > begin && used + 2 + name.size() > room) break;
      used += 2 + name.size();
      header.push_back(name);
    }
    Table table(header);
    for (const llvm::json::Object* row : rows) {
      const llvm::json::Object* results = row->getObject("results");
      double fastest = 0;
      for (const std::string& column : columns) {
        const double us = time_of(results, column);
        if (us > 0 && (fastest == 0 || us < fastest)) fastest = us;
      }
      std::vector<Cell> cells{std::to_string(row->getInteger("tokens").value_or(0))};
      for (std::size_t c = begin; c < end; ++c) {
        const double us = time_of(results, columns[c]);
        cells.emplace_back(us > 0 ? format_microseconds(us) : "-", "", us > 0 && us == fastest);
      }
      table.add_cells(std::move(cells));
    }
    print("%s", begin == 0 ? "\n  us of each in the same minutes\n" : "\n");
    table.print(style, 2);
    begin = end;
  }
}

void print_group(const std::vector<const llvm::json::Object*>& rows, const std::vector<std::string>& against,
                 const TerminalStyle& style) {
  const std::vector<std::string> columns = columns_of(rows, against);
  // A ratio says something beside NCCL, or beside what was asked for; not beside one algorithm among many.
  const bool ratio_shown = !columns.empty() && (!against.empty() || columns.front().starts_with("nccl"));
  print_choices(rows, ratio_shown ? columns.front() : "", ratio_shown && against.empty(), style);
  if (columns.size() > (ratio_shown ? 1U : 0U)) print_others(rows, columns, style);
  std::map<std::string, std::string> missing;
  for (const llvm::json::Object* row : rows) {
    const llvm::json::Object* results = row->getObject("results");
    for (const std::string& column : columns) {
      const llvm::json::Object* result = results == nullptr ? nullptr : results->getObject(column);
      if (result != nullptr && !median_of(result)) missing[column] = text_of(*result, "unavailable");
    }
  }
  for (const auto& [name, reason] : missing) {
    print("%s", wrapped("  " + name + ": " + reason, style.columns, 4).c_str());
  }
}

/// "1.2-3.7x over NCCL at 12 sizes": all rows together; "" without NCCL.
std::string summary_of(const llvm::json::Array& rows) {
  std::vector<double> ratios;
  for (const llvm::json::Value& value : rows) {
    const llvm::json::Object* row = value.getAsObject();
    const llvm::json::Object* results = row == nullptr ? nullptr : row->getObject("results");
    const double own = time_of(results, "auto"), nccl = reference_of(results, "nccl", true);
    if (own > 0 && nccl > 0) ratios.push_back(nccl / own);
  }
  return ratios.empty() ? "" : "auto: " + ratio_range(ratios) + " at " + plural(ratios.size(), "size");
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
  const TerminalStyle style = TerminalStyle::of_stdout();
  if (const std::string summary = summary_of(*rows); !summary.empty()) print("%s\n", summary.c_str());
  for (const std::string& name : order) {
    print("%s", ("\n" + wrapped(name, style.columns, 2)).c_str());
    print_group(groups[name], against, style);
  }
}

}  // namespace arbiter::cli
