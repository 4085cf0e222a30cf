#include "conformance/pairwise.hpp"

#include <gtest/gtest.h>

#include <set>
#include <tuple>

namespace arbiter::tuning {
namespace {

using Pair = std::tuple<std::size_t, std::size_t, std::size_t, std::size_t>;

std::set<Pair> pairs_in(const std::vector<Choice>& rows) {
  std::set<Pair> pairs;
  for (const Choice& row : rows) {
    for (std::size_t a = 0; a < row.size(); ++a) {
      for (std::size_t b = a + 1; b < row.size(); ++b) pairs.emplace(a, row[a], b, row[b]);
    }
  }
  return pairs;
}

bool anything(const Choice&) { return true; }

TEST(Pairwise, EveryPairIsThereInFewRows) {
  const std::vector<std::size_t> sizes{10, 3, 2, 2, 9, 3};
  const std::vector<Choice> rows = covering_pairs(sizes, anything);
  EXPECT_EQ(pairs_in(rows), pairs_in(all_choices(sizes, anything)));
  EXPECT_GE(rows.size(), 90U) << "two axes alone need as many";
  EXPECT_LE(rows.size(), 110U);
  EXPECT_EQ(all_choices(sizes, anything).size(), 10U * 3 * 2 * 2 * 9 * 3);
  EXPECT_EQ(rows, covering_pairs(sizes, anything)) << "equal on all ranks";
}

TEST(Pairwise, ImpossibleRowsAreNeverTakenAndTheRestIsStillCovered) {
  const std::vector<std::size_t> sizes{4, 4, 3};
  const auto possible = [](const Choice& row) { return (row[0] != 1 || row[1] != 2) && row[2] != 1; };
  const std::vector<Choice> rows = covering_pairs(sizes, possible);
  for (const Choice& row : rows) EXPECT_TRUE(possible(row));
  EXPECT_EQ(pairs_in(rows), pairs_in(all_choices(sizes, possible)));
  EXPECT_TRUE(covering_pairs(sizes, [](const Choice&) { return false; }).empty());
  EXPECT_TRUE(covering_pairs({3, 0}, anything).empty());
}

TEST(Pairwise, EveryChoiceIsThereInAsManyRowsAsTheLongestAxisHas) {
  const std::vector<std::size_t> sizes{5, 3, 9};
  const std::vector<Choice> rows = covering_each(sizes, anything);
  EXPECT_EQ(rows.size(), 9U);
  for (std::size_t axis = 0; axis < sizes.size(); ++axis) {
    std::set<std::size_t> seen;
    for (const Choice& row : rows) seen.insert(row[axis]);
    EXPECT_EQ(seen.size(), sizes[axis]);
  }
}

}  // namespace
}  // namespace arbiter::tuning
