#include "tune/search.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <set>

namespace arbiter::tuning {
namespace {

constexpr long unlimited_blocks = std::numeric_limits<int>::max();

}  // namespace

SearchSpace::SearchSpace(const std::vector<CandidateSpec>& specs) {
  for (const CandidateSpec& spec : specs) add(spec);
}

std::optional<std::size_t> SearchSpace::find(std::string_view name) const {
  const auto found = std::find(names_.begin(), names_.end(), name);
  if (found == names_.end()) return std::nullopt;
  return static_cast<std::size_t>(found - names_.begin());
}

std::size_t SearchSpace::add(const CandidateSpec& spec) {
  std::string name = spec.name();
  if (const auto existing = find(name)) return *existing;
  specs_.push_back(spec);
  names_.push_back(std::move(name));
  place(specs_.size() - 1);
  return specs_.size() - 1;
}

void SearchSpace::place(std::size_t index) {
  const CandidateSpec& spec = specs_[index];
  std::map<std::string, long, std::less<>> values;
  std::string group(to_string(spec.backend()));
  group += "/" + spec.algorithm();
  if (!spec.fused()) {
    // An unfused candidate varies in the kernels around its exchange, which was chosen where it was tuned.
    CandidateSpec exchange = spec;
    exchange.prologue.reset();
    exchange.epilogue.reset();
    group = exchange.name() + " unfused";
    for (const auto& part : {spec.prologue, spec.epilogue}) {
      if (!part) continue;
      const std::string before = part == spec.prologue ? "prologue " : "";
      for (const auto& [axis, value] : part->parameters) values[before + axis] = value;
    }
  } else if (spec.kernel) {
    for (const auto& [axis, value] : spec.kernel->parameters) values[axis] = value;
    values["blocks"] = spec.max_blocks == 0 ? unlimited_blocks : spec.max_blocks;
  } else if (spec.nccl == NcclKind::classic) {
    values["algo"] = static_cast<long>(spec.forced.algorithm);
    values["proto"] = static_cast<long>(spec.forced.protocol);
    values["channels"] = spec.forced.channels;
  }
  const auto found = std::find(group_names_.begin(), group_names_.end(), group);
  groups_.push_back(static_cast<std::size_t>(found - group_names_.begin()));
  if (found == group_names_.end()) group_names_.push_back(group);
  values_.push_back(std::move(values));
}

void SearchSpace::locate() const {
  if (positions_.size() == specs_.size()) return;
  std::vector<std::map<std::string, std::set<long>, std::less<>>> used(group_count());
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    for (const auto& [axis, value] : values_[i]) used[groups_[i]][axis].insert(value);
  }
  positions_.clear();
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    std::vector<int>& position = positions_.emplace_back();
    for (const auto& [axis, value] : values_[i]) {
      const std::set<long>& values = used[groups_[i]][axis];
      position.push_back(static_cast<int>(std::distance(values.begin(), values.find(value))));
    }
  }
}

int SearchSpace::steps(std::size_t a, std::size_t b, int* axes) const {
  int total = 0;
  *axes = 0;
  for (std::size_t axis = 0; axis < positions_[a].size(); ++axis) {
    const int difference = std::abs(positions_[a][axis] - positions_[b][axis]);
    total += difference;
    if (difference != 0) ++*axes;
  }
  return total;
}

std::vector<std::size_t> SearchSpace::adjacent(std::size_t index) const {
  locate();
  std::vector<std::size_t> along_one, along_two;
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    if (i == index || groups_[i] != groups_[index]) continue;
    int axes = 0;
    const int distance = steps(index, i, &axes);
    if (distance == 1) along_one.push_back(i);
    if (distance == 2 && axes == 2) along_two.push_back(i);
  }
  along_one.insert(along_one.end(), along_two.begin(), along_two.end());
  return along_one;
}

std::vector<std::size_t> SearchSpace::spread() const {
  locate();
  std::vector<std::vector<std::size_t>> orders(group_count());
  for (std::size_t group = 0; group < group_count(); ++group) {
    std::vector<std::size_t> left;
    for (std::size_t i = 0; i < specs_.size(); ++i) {
      if (groups_[i] == group) left.push_back(i);
    }
    std::vector<int> distance(left.size(), std::numeric_limits<int>::max());
    while (!left.empty()) {
      const auto farthest = std::max_element(distance.begin(), distance.end()) - distance.begin();
      const std::size_t taken = left[static_cast<std::size_t>(farthest)];
      orders[group].push_back(taken);
      left.erase(left.begin() + farthest);
      distance.erase(distance.begin() + farthest);
      for (std::size_t i = 0; i < left.size(); ++i) {
        int axes = 0;
        distance[i] = std::min(distance[i], steps(taken, left[i], &axes));
      }
    }
  }
  std::vector<std::size_t> order;
  for (std::size_t turn = 0; order.size() < specs_.size(); ++turn) {
    for (const std::vector<std::size_t>& group : orders) {
      if (turn < group.size()) order.push_back(group[turn]);
    }
  }
  return order;
}

std::vector<std::size_t> suggested(const SearchSpace& space, std::span<const Screened* const> neighbours,
                                   std::size_t limit) {
  // Rank candidates by how close they came at the neighbour where they did best.
  std::map<std::size_t, double> ratio;
  for (const Screened* screened : neighbours) {
    double best = std::numeric_limits<double>::infinity();
    for (const auto& [index, us] : *screened) best = std::min(best, us);
    for (const auto& [index, us] : *screened) {
      if (!std::isfinite(us)) continue;
      const auto [at, inserted] = ratio.emplace(index, us / best);
      if (!inserted) at->second = std::min(at->second, us / best);
    }
  }
  std::vector<std::pair<double, std::size_t>> order;
  for (const auto& [index, value] : ratio) order.emplace_back(value, index);
  std::sort(order.begin(), order.end());

  std::vector<std::size_t> close, best_of_group;
  std::set<std::size_t> seen;
  for (const auto& [value, index] : order) {
    const bool first_of_group = seen.insert(space.group(index)).second;
    if (first_of_group && value <= 3) {
      best_of_group.push_back(index);
    } else if (value <= 1.5) {
      close.push_back(index);
    }
  }
  best_of_group.insert(best_of_group.end(), close.begin(), close.end());
  if (best_of_group.size() > limit) best_of_group.resize(limit);
  return best_of_group;
}

std::vector<std::size_t> coarse_to_fine(std::size_t count) {
  std::vector<std::size_t> order;
  if (count == 0) return order;
  std::vector<bool> taken(count, false);
  const auto take = [&](std::size_t index) {
    if (!taken[index]) order.push_back(index);
    taken[index] = true;
  };
  take(0);
  take(count / 2);
  take(count - 1);
  for (std::size_t step = count; step > 1; step = (step + 1) / 2) {
    for (std::size_t i = step / 2; i < count; i += step) take(i);
  }
  for (std::size_t i = 0; i < count; ++i) take(i);
  return order;
}

}  // namespace arbiter::tuning
