#include "shipped.hpp"

#include <sstream>

#include "arbiter/db/contents.hpp"

namespace arbiter {

const std::vector<DecisionSet>& shipped_decisions() {
  static const std::vector<DecisionSet> sets = [] {
    std::vector<DecisionSet> all;
    for (const auto& [name, text] : shipped_files()) {
      std::istringstream stream{std::string(text)};
      Contents contents = parse_jsonl(stream, "db/defaults/" + name);
      for (auto& [key, decisions] : contents.decisions) {
        all.push_back({std::move(contents.environments.at(key)), std::move(decisions)});
      }
    }
    return all;
  }();
  return sets;
}

}  // namespace arbiter
