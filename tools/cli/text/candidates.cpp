#include "text/candidates.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "arbiter/generator/joined.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

using Parameters = std::vector<std::pair<std::string, std::string>>;

/// "threads=256,vectors=1 + threads=512" -> those of the exchange, and "epilogue threads" of what runs behind it.
Parameters parameters_of(const std::string& name) {
  const std::string text = split_candidate(name).parameters;
  const bool unfused = name.find('+') != std::string::npos;
  const std::size_t plus = text.find(" + ");
  Parameters parameters;
  const auto read = [&](const std::string& part, const std::string& prefix) {
    for (std::size_t start = 0; start < part.size();) {
      const std::size_t comma = std::min(part.find(',', start), part.size());
      const std::string one = part.substr(start, comma - start);
      const std::size_t equals = std::min(one.find('='), one.size());
      parameters.emplace_back(prefix + one.substr(0, equals), one.substr(std::min(equals + 1, one.size())));
      start = comma + 1;
    }
  };
  if (plus != std::string::npos) {
    read(text.substr(0, plus), "");
    read(text.substr(plus + 3), "epilogue ");
  } else {
    read(text, unfused && name.find(':') > name.find('+') ? "epilogue " : "");
  }
  return parameters;
}

const std::string* value_of(const Parameters& parameters, const std::string& axis) {
  for (const auto& [name, value] : parameters) {
    if (name == axis) return &value;
  }
  return nullptr;
}

bool is_nccl(const std::string& name) { return name.starts_with("nccl/"); }

}  // namespace

std::vector<Cell> family_cells(const std::vector<std::string>& families) {
  std::map<std::string, std::set<std::string>> backends;  // of each algorithm
  const auto split = [](const std::string& family) {
    const std::size_t slash = family.find('/');
    const std::string backend = slash == std::string::npos ? "" : family.substr(0, slash);
    return std::pair(backend, slash == std::string::npos ? family : family.substr(slash + 1));
  };
  for (const std::string& family : families) {
    const auto [backend, rest] = split(family);
    backends[rest.substr(0, rest.find('+'))].insert(backend);
  }
  std::vector<Cell> cells;
  for (const std::string& family : families) {
    const auto [backend, rest] = split(family);
    const std::string algorithm = rest.substr(0, rest.find('+'));
    std::string brief = family;
    if (backend == "nccl") {
      brief = algorithm == "classic" ? "nccl" + rest.substr(algorithm.size()) : family;
    } else if (backends[algorithm].size() == 1) {
      brief = rest;
    }
    cells.emplace_back(family, brief);
  }
  return cells;
}

ParameterColumn parameter_column(const std::vector<std::string>& names) {
  std::vector<Parameters> all;
  std::vector<std::string> axes;
  for (const std::string& name : names) {
    all.push_back(parameters_of(name));
    if (is_nccl(name)) continue;  // "ring/32/ll128" explains itself
    for (const auto& [axis, value] : all.back()) {
      if (std::find(axes.begin(), axes.end(), axis) == axes.end()) axes.push_back(axis);
    }
  }
  // An axis that an algorithm has nowhere says nothing about the others; one that only some of its candidates have
  // does.
  const auto differs = [&](const std::string& axis) {
    std::set<std::string> values;
    std::map<std::string, std::pair<bool, bool>> seen;  // of an algorithm: with the axis, without it
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (is_nccl(names[i])) continue;
      const std::string* value = value_of(all[i], axis);
      if (value != nullptr) values.insert(*value);
      auto& [with, without] = seen[split_candidate(names[i]).algorithm];
      (value != nullptr ? with : without) = true;
    }
    return values.size() > 1 || std::any_of(seen.begin(), seen.end(), [](const auto& algorithm) {
             return algorithm.second.first && algorithm.second.second;
           });
  };
  std::vector<std::string> differ, common;
  for (const std::string& axis : axes) {
    if (differs(axis)) {
      differ.push_back(axis);
      continue;
    }
    const auto holder = std::find_if(
        all.begin(), all.end(), [&](const Parameters& parameters) { return value_of(parameters, axis) != nullptr; });
    common.push_back(axis + "=" + *value_of(*holder, axis));
  }
  ParameterColumn column;
  bool any = false;
  for (std::size_t i = 0; i < names.size(); ++i) {
    std::string cell;
    if (is_nccl(names[i])) {
      cell = joined(all[i], "/", [](const auto& parameter) { return parameter.second; });
    } else if (!all[i].empty()) {
      cell = joined(differ, "/", [&](const std::string& axis) {
        const std::string* value = value_of(all[i], axis);
        return value == nullptr ? std::string("-") : *value;
      });
      while (cell.ends_with("/-")) cell.resize(cell.size() - 2);
    }
    any = any || !cell.empty();
    column.cells.push_back(cell.empty() ? "-" : cell);
  }
  if (any) column.title = differ.size() == 1 ? differ.front() : "params";
  if (differ.size() > 1) column.legend = fmt::format("params: {}", joined(differ, "/"));
  if (!common.empty()) column.legend += (column.legend.empty() ? "with " : "; all with ") + joined(common, ", ");
  return column;
}

std::string ratio_text(double nccl_us, double us) {
  return nccl_us > 0 && us > 0 ? fmt::format("{:.2f}x", nccl_us / us) : "-";
}

std::string ratio_range(const std::vector<double>& ratios) {
  if (ratios.empty()) return "";
  const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
  const std::string low = fmt::format("{:.1f}", *least);
  const std::string high = fmt::format("{:.1f}", *most);
  return (low == high ? low : low + "-" + high) + "x over NCCL";
}

}  // namespace arbiter::cli
