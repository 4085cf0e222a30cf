#include "tune/schedule.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "arbiter/error.hpp"

namespace arbiter::tuning {

std::vector<std::int64_t> sizes_of(const ProblemFamily& family, const std::vector<std::int64_t>& asked) {
  if (asked.empty()) return token_grid(family.max_tokens);
  std::vector<std::int64_t> sizes;
  for (const std::int64_t tokens : asked) {
    if (tokens < 1) throw InvalidArgument(fmt::format("tokens = {}; expected at least 1", tokens));
    if (tokens <= family.max_tokens) sizes.push_back(tokens);
  }
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  if (sizes.empty()) {
    throw InvalidArgument(fmt::format("none of the sizes to measure is at most max_tokens = {}", family.max_tokens));
  }
  return sizes;
}

std::vector<Step> grid_steps(std::span<const std::unique_ptr<FamilyState>> states, const std::vector<bool>& plain) {
  std::vector<std::size_t> order;
  for (const bool first : {true, false}) {
    for (std::size_t i = 0; i < states.size(); ++i) {
      if (plain[i] == first) order.push_back(i);
    }
  }
  std::vector<Step> steps;
  std::vector<std::vector<std::size_t>> levels;
  std::size_t longest = 0;
  for (const auto& state : states) {
    levels.push_back(coarse_to_fine(state->sizes.size()));
    longest = std::max(longest, state->sizes.size());
  }
  for (std::size_t level = 0; level < longest; ++level) {
    for (const std::size_t i : order) {
      if (level < levels[i].size()) steps.push_back({i, states[i]->sizes[levels[i][level]]});
    }
  }
  return steps;
}

std::int64_t Crossover::middle() const noexcept { return std::max(below + 1, boundary(below, above)); }

namespace {

/// Would the winner of another size do as well here?
bool ties_at(const SizeWinner& here, const SizeWinner& other, const ChoiceRules& rules) {
  return std::any_of(here.size->candidates.begin(), here.size->candidates.end(), [&](const Measured& measured) {
    return measured.candidate.name == other.measured().candidate.name &&
           !beats(here.measured().summary, measured.summary, rules);
  });
}

}  // namespace

std::optional<Crossover> widest_crossover(std::span<const SizeWinner> winners, double ratio,
                                          const std::set<std::int64_t>& tried, const ChoiceRules& rules) {
  std::optional<Crossover> widest;
  double most = ratio;
  for (std::size_t i = 0; i + 1 < winners.size(); ++i) {
    if (winners[i].measured().candidate.name == winners[i + 1].measured().candidate.name) continue;
    if (ties_at(winners[i], winners[i + 1], rules) && ties_at(winners[i + 1], winners[i], rules)) continue;
    const Crossover crossover{winners[i].tokens, winners[i + 1].tokens};
    if (crossover.above - crossover.below < 2 || tried.count(crossover.middle()) != 0) continue;
    const double gap = static_cast<double>(crossover.above) / static_cast<double>(crossover.below);
    if (gap <= most) continue;
    most = gap;
    widest = crossover;
  }
  return widest;
}

}  // namespace arbiter::tuning
