#include "bootstrap/slurm_lists.hpp"

#include <charconv>

namespace arbiter {

std::string slurm_first_node(std::string_view list) {
  // Several brackets may follow each other: "rack[1-2]node[01-16]" begins with rack1node01.
  std::string name;
  while (!list.empty() && list.front() != ',') {
    if (list.front() != '[') {
      name += list.front();
      list.remove_prefix(1);
      continue;
    }
    const std::size_t close = list.find(']');
    if (close == std::string_view::npos) return {};
    const std::string_view inside = list.substr(1, close - 1);
    const std::string_view first = inside.substr(0, inside.find_first_of("-,"));
    if (first.empty()) return {};
    name += first;
    list.remove_prefix(close + 1);
  }
  return name;
}

std::optional<int> slurm_tasks_of_node(std::string_view list, int node) {
  const auto take_number = [&list]() -> std::optional<int> {
    int value = 0;
    const auto [end, error] = std::from_chars(list.data(), list.data() + list.size(), value);
    if (error != std::errc() || value < 1) return std::nullopt;
    list.remove_prefix(static_cast<std::size_t>(end - list.data()));
    return value;
  };
  int first = 0;
  while (!list.empty()) {
    const std::optional<int> tasks = take_number();
    if (!tasks) return std::nullopt;
    int nodes = 1;
    if (list.starts_with("(x")) {
      list.remove_prefix(2);
      const std::optional<int> repeated = take_number();
      if (!repeated || !list.starts_with(")")) return std::nullopt;
      list.remove_prefix(1);
      nodes = *repeated;
    }
    if (node < first + nodes) return tasks;
    first += nodes;
    if (list.starts_with(",")) {
      list.remove_prefix(1);
    } else if (!list.empty()) {
      return std::nullopt;
    }
  }
  return std::nullopt;
}

}  // namespace arbiter
