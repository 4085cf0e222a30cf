// Which candidates are worth compiling and timing. Pure: equal on all ranks.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/runtime/candidate.hpp"

namespace arbiter::tuning {

/// The candidates of a family, as points on the axes of their algorithm.
class SearchSpace {
 public:
  explicit SearchSpace(const std::vector<CandidateSpec>&);

  std::size_t size() const noexcept { return specs_.size(); }
  const CandidateSpec& spec(std::size_t index) const { return specs_[index]; }
  const std::string& name(std::size_t index) const { return names_[index]; }
  std::optional<std::size_t> find(std::string_view name) const;
  /// Index of the new or existing entry. For unfused candidates, which depend on what won elsewhere.
  std::size_t add(const CandidateSpec&);

  /// Candidates of the same algorithm (and the same exchange, if unfused) one step away on one axis, then those one
  /// step away on two: constraints often tie two axes together.
  std::vector<std::size_t> adjacent(std::size_t index) const;

  /// All candidates, in an order that covers every algorithm early: per algorithm the first listed (the catalogue's
  /// default), then always the one farthest from those already taken; algorithms take turns.
  std::vector<std::size_t> spread() const;

  /// Number of the candidate's algorithm; equal for candidates that adjacent() may connect.
  std::size_t group(std::size_t index) const { return groups_[index]; }
  std::size_t group_count() const noexcept { return group_names_.size(); }

 private:
  /// Steps between two candidates of one group, counted over the values in use on each axis; and on how many axes.
  int steps(std::size_t a, std::size_t b, int* axes) const;
  void locate() const;
  void place(std::size_t index);

  std::vector<CandidateSpec> specs_;
  std::vector<std::string> names_;
  std::vector<std::size_t> groups_;
  std::vector<std::string> group_names_;
  std::vector<std::map<std::string, long, std::less<>>> values_;  ///< per candidate: axis to value
  mutable std::vector<std::vector<int>> positions_;  ///< per candidate and axis: index among the values in use
};

/// What screening at one size found.
using Screened = std::map<std::size_t, double>;  ///< candidate to microseconds; infinity if it cannot be used

/// Candidates to screen first at a size, given what its measured neighbours found: everything within 1.5 times a
/// neighbour's best, best first, and the best of each algorithm that came within 3 times. At most `limit`.
std::vector<std::size_t> suggested(const SearchSpace&, std::span<const Screened* const> neighbours, std::size_t limit);

/// Indices of a list of `count` sizes, coarse to fine: the first, the middle, the last, the quarters, ... The last
/// comes after the middle because large messages take longest to try things on, and then have a neighbour to learn
/// from.
std::vector<std::size_t> coarse_to_fine(std::size_t count);

}  // namespace arbiter::tuning
