#include "options/decision_filter.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "arbiter/generator/catalogue.hpp"
#include "arbiter/generator/joined.hpp"
#include "options/names.hpp"
#include "text/print.hpp"

namespace arbiter::cli {
namespace {

template <typename List, typename Value>
bool among(const List& list, const Value& value) {
  return list.empty() || std::find(list.begin(), list.end(), value) != list.end();
}

/// "pattern: allreduce; dtype: bf16; hidden: 4096, 8192; world: 2, 4; mode: graph"
std::string what_is_there(std::span<std::vector<Decision>* const> lists) {
  std::set<std::string> patterns, dtypes, modes;
  std::set<int> hiddens, worlds;
  for (const std::vector<Decision>* list : lists) {
    for (const Decision& decision : *list) {
      patterns.insert(decision.pattern);
      dtypes.emplace(to_string(decision.dtype));
      modes.emplace(to_string(decision.mode));
      hiddens.insert(decision.hidden);
      worlds.insert(decision.world);
    }
  }
  std::vector<std::string> parts;
  const auto add = [&](const char* name, const auto& values) {
    parts.push_back(fmt::format("{}: {}", name, joined(values, ", ")));
  };
  add("pattern", patterns);
  add("dtype", dtypes);
  add("hidden", hiddens);
  add("world", worlds);
  add("mode", modes);
  return joined(parts, "; ");
}

}  // namespace

bool DecisionFilter::admits(const Decision& decision) const {
  return among(patterns, decision.pattern) && among(worlds, decision.world) &&
         among(dtypes, std::string(to_string(decision.dtype))) && among(hiddens, decision.hidden) &&
         among(modes, decision.mode);
}

bool DecisionFilter::admits(const NcclChoice& choice) const {
  return among(patterns, std::string("allreduce")) && among(worlds, choice.world);
}

void declare_decision_filter(Options& options) {
  options.list("pattern", "NAME", "only these patterns")
      .choices(pattern_names())
      .list("dtype", "NAME", "only these: bf16, fp16, fp32")
      .choices(dtype_names())
      .list("world", "N", "only these numbers of ranks")
      .list("hidden", "H", "only these hidden sizes")
      .list("mode", "NAME", "only these: graph, eager")
      .choices(mode_names());
}

DecisionFilter read_decision_filter(const Options& options) {
  DecisionFilter filter;
  for (const std::string& pattern : options.texts("pattern")) {
    filter.patterns.push_back(Catalogue::builtin().pattern(pattern).name);
  }
  for (const std::string& dtype : options.texts("dtype")) filter.dtypes.emplace_back(to_string(parse_dtype(dtype)));
  filter.worlds = options.integers("world", 1, 1 << 16, {});
  filter.hiddens = options.integers("hidden", 1, 1 << 20, {});
  for (const std::string& mode : options.texts("mode")) filter.modes.push_back(parse_mode(mode));
  return filter;
}

void keep_admitted(std::span<std::vector<Decision>* const> lists, const DecisionFilter& filter) {
  const auto empty = [](const std::vector<Decision>* list) { return list->empty(); };
  const bool nothing_before = std::all_of(lists.begin(), lists.end(), empty);
  const std::string there = what_is_there(lists);
  for (std::vector<Decision>* list : lists) {
    std::erase_if(*list, [&](const Decision& decision) { return !filter.admits(decision); });
  }
  if (nothing_before || !std::all_of(lists.begin(), lists.end(), empty)) return;
  print_error("nothing matches. There are decisions for %s\n", there.c_str());
}

}  // namespace arbiter::cli
