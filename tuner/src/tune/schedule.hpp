// Which problem is measured next. Pure: equal on all ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "tune/family_state.hpp"

namespace arbiter::tuning {

/// One size of one family.
struct Step {
  std::size_t family = 0;
  std::int64_t tokens = 0;
};

/// The sizes of a family, ascending: those asked for, or the grid. Throws InvalidArgument when none is left.
std::vector<std::int64_t> sizes_of(const ProblemFamily&, const std::vector<std::int64_t>& asked);

/// All sizes, coarse to fine over all families together, so that whenever the time is spent, every family is covered
/// evenly; at each level plain families come before the fused ones that build on them. `plain`: by family.
std::vector<Step> grid_steps(std::span<const std::unique_ptr<FamilyState>>, const std::vector<bool>& plain);

/// A change of winner between two neighbouring measured sizes.
struct Crossover {
  std::int64_t below = 0, above = 0;
  std::int64_t middle() const noexcept;  ///< the size that halves it, by ratio
};

/// The widest change of winner that is worth halving: with a size in between, and `above` more than `ratio` times
/// `below`; and not one between two candidates that tie at both sizes, because it does not matter where that is. Sizes
/// whose middle is in `tried` are left out: they could not be measured.
std::optional<Crossover> widest_crossover(std::span<const SizeWinner>, double ratio,
                                          const std::set<std::int64_t>& tried, const ChoiceRules& = {});

}  // namespace arbiter::tuning
