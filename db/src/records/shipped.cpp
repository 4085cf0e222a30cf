#include "records/shipped.hpp"

#include <sstream>

#include "arbiter/db/contents.hpp"

namespace arbiter {

const std::vector<DecisionSet>& shipped_decisions() {
  static const std::vector<DecisionSet> sets = [] {
    std::vector<DecisionSet> all;
    for (const auto& [name, text] : shipped_files()) {
      std::istringstream stream{std::string(text)};
      Contents contents = parse_jsonl(stream, "db/defaults/" + name);
      for (auto& [key, environment] : contents.environments) {
        all.push_back({std::move(environment), std::move(contents.decisions[key]), std::move(contents.nccl[key])});
      }
    }
    return all;
  }();
  return sets;
}

}  // namespace arbiter
