// Rows of choices that together contain every pair of choices of any two axes: far fewer than all combinations, and
// what depends on two parts of a kernel at once is still met.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

namespace arbiter::tuning {

using Choice = std::vector<std::size_t>;  ///< one index per axis

/// `sizes[i]` choices on axis i. `possible` tells which rows exist; pairs that no possible row contains are left out.
/// A pure function of its arguments.
std::vector<Choice> covering_pairs(const std::vector<std::size_t>& sizes,
                                   const std::function<bool(const Choice&)>& possible);

/// Rows that contain every single choice at least once, each axis going through its own choices in turn.
std::vector<Choice> covering_each(const std::vector<std::size_t>& sizes,
                                  const std::function<bool(const Choice&)>& possible);

/// All possible rows.
std::vector<Choice> all_choices(const std::vector<std::size_t>& sizes,
                                const std::function<bool(const Choice&)>& possible);

}  // namespace arbiter::tuning
