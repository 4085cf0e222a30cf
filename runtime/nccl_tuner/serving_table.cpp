#include "serving_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <tuple>

#include "arbiter/error.hpp"
#include "arbiter/generator/digest.hpp"
#include "arbiter/generator/joined.hpp"

namespace arbiter::nccl_plugin {
namespace {

/// "2.28.3" as numbers, so that 2.9 comes before 2.28.
std::vector<int> version_numbers(const std::string& text) {
  std::vector<int> numbers;
  const char* at = text.data();
  const char* end = at + text.size();
  while (at != end) {
    int value = 0;
    const auto [next, error] = std::from_chars(at, end, value);
    if (error != std::errc()) break;
    numbers.push_back(value);
    at = next == end ? end : next + 1;
  }
  return numbers;
}

auto machine(const Environment& e) {
  return std::tie(e.gpu_name, e.sm_count, e.topology, e.nodes, e.ranks_per_node, e.nccl_variables);
}

}  // namespace

const DecisionSet& choose_environment(const std::vector<DecisionSet>& sets, const std::string& environment) {
  const DecisionSet* chosen = nullptr;
  std::string keys;
  bool several = false;
  for (const DecisionSet& set : sets) {
    const std::string key = set.environment.key();
    if (set.nccl.empty() || !key.starts_with(environment)) continue;
    keys += "\n  " + key.substr(0, 12) + "  " + set.environment.gpu_name + ", NCCL " + set.environment.nccl_version;
    if (chosen == nullptr) {
      chosen = &set;
      continue;
    }
    several = several || machine(set.environment) != machine(chosen->environment);
    const auto age = [](const Environment& e) {
      return std::tuple(version_numbers(e.nccl_version), version_numbers(e.arbiter_version), e.key());
    };
    if (age(chosen->environment) < age(set.environment)) chosen = &set;
  }
  if (chosen == nullptr) {
    throw DatabaseError(environment.empty()
                            ? "it holds no NCCL configurations; tune plain allreduce on GPUs with NCCL, and make the "
                              "snapshot again"
                            : "it holds no NCCL configurations for an environment whose key begins with '" +
                                  environment + "' (ARBITER_ENVIRONMENT)");
  }
  if (several) {
    throw DatabaseError(
        "it was measured on several kinds of machines; say which one this is, by the start of its key "
        "in ARBITER_ENVIRONMENT:" +
        keys);
  }
  return *chosen;
}

ServingTable::ServingTable(const std::vector<DecisionSet>& sets, const std::string& environment, std::size_t ranks,
                           std::size_t nodes) {
  const DecisionSet& set = choose_environment(sets, environment);
  std::set<std::string> worlds;
  std::string text;
  for (const NcclChoice& choice : set.nccl) {
    const auto their_nodes = static_cast<std::size_t>(nodes_of(set.environment, choice.world));
    worlds.insert(fmt::format("{} on {}", choice.world, their_nodes));
    if (static_cast<std::size_t>(choice.world) != ranks || their_nodes != nodes) continue;
    const std::optional<NcclConfiguration> configuration = nccl_configuration(choice.candidate);
    if (!configuration) {
      throw DatabaseError("'" + choice.candidate.name + "' is not a configuration that this version of Arbiter knows");
    }
    // Sizes below the first interval, or between two, were not measured: NCCL chooses.
    const auto first = static_cast<std::uint64_t>(choice.bytes_min);
    if (first > 1 && (rows_.empty() || rows_.back().bytes_max + 1 < first)) rows_.push_back({first - 1, {}});
    rows_.push_back({static_cast<std::uint64_t>(choice.bytes_max), *configuration});
    text += fmt::format("{} {};", choice.bytes_max, configuration->text());
  }
  if (rows_.empty()) {
    throw DatabaseError(
        fmt::format("it holds nothing for {} ranks on {} nodes, only for these numbers of ranks on nodes: {}", ranks,
                    nodes, joined(worlds, ", ")));
  }
  source_ = set.environment.gpu_name + " with NCCL " + set.environment.nccl_version + ", digest " +
            sha256_hex(text).substr(0, 12);
}

const NcclConfiguration* ServingTable::find(std::uint64_t bytes) const noexcept {
  const auto row = std::lower_bound(rows_.begin(), rows_.end(), bytes,
                                    [](const Row& r, std::uint64_t b) { return r.bytes_max < b; });
  return row != rows_.end() && row->configuration.forces() ? &row->configuration : nullptr;
}

std::string ServingTable::describe() const {
  return fmt::format("{} intervals up to {} bytes, measured on {}", rows_.size(),
                     rows_.empty() ? 0 : rows_.back().bytes_max, source_);
}

ServingTable read_serving_table(const std::string& path, const std::string& environment, std::size_t ranks,
                                std::size_t nodes) {
  const std::string name = "'" + path + "': ";
  if (!read_history(path).empty()) {
    throw DatabaseError(name +
                        "it is a work database, which may change while the ranks read it; make a snapshot of it: "
                        "arbiter snapshot");
  }
  const std::vector<DecisionSet> sets = read_decisions(path);
  try {
    return {sets, environment, ranks, nodes};
  } catch (const DatabaseError& error) {
    throw DatabaseError(name + error.what());
  }
}

}  // namespace arbiter::nccl_plugin
