#include "conformance/pairwise.hpp"

#include <algorithm>

namespace arbiter::tuning {
namespace {

using Parts = std::vector<std::size_t>;

/// Numbers every (axis, choice), so that a pair of them has a number too.
struct Numbering {
  std::vector<std::size_t> first;  ///< of each axis
  std::size_t count = 0;

  explicit Numbering(const std::vector<std::size_t>& sizes) {
    for (const std::size_t size : sizes) {
      first.push_back(count);
      count += size;
    }
  }
  Parts singles(const Choice& row) const {
    Parts parts;
    for (std::size_t axis = 0; axis < row.size(); ++axis) parts.push_back(first[axis] + row[axis]);
    return parts;
  }
  Parts pairs(const Choice& row) const {
    const Parts each = singles(row);
    Parts parts;
    for (std::size_t a = 0; a < each.size(); ++a) {
      for (std::size_t b = a + 1; b < each.size(); ++b) parts.push_back(each[a] * count + each[b]);
    }
    return parts;
  }
};

/// Greedy: again and again the row with the most parts that no earlier row has. The search goes on behind the row that
/// was taken last, which keeps rows apart.
std::vector<Choice> cover(const std::vector<Choice>& rows, const std::vector<Parts>& parts, std::size_t part_count) {
  std::vector<bool> missing(part_count, false);
  for (const Parts& of_row : parts) {
    for (const std::size_t part : of_row) missing[part] = true;
  }
  std::vector<Choice> taken;
  for (std::size_t start = 0;;) {
    std::size_t best = 0, best_count = 0;
    for (std::size_t i = 0; i < rows.size() && best_count < parts[0].size(); ++i) {
      const Parts& candidate = parts[(start + i) % rows.size()];
      const auto found = static_cast<std::size_t>(
          std::count_if(candidate.begin(), candidate.end(), [&](std::size_t part) { return missing[part]; }));
      if (found <= best_count) continue;
      best = (start + i) % rows.size();
      best_count = found;
    }
    if (best_count == 0) return taken;
    for (const std::size_t part : parts[best]) missing[part] = false;
    taken.push_back(rows[best]);
    start = best + 1;
  }
}

}  // namespace

std::vector<Choice> all_choices(const std::vector<std::size_t>& sizes,
                                const std::function<bool(const Choice&)>& possible) {
  std::vector<Choice> rows;
  if (std::find(sizes.begin(), sizes.end(), 0U) != sizes.end()) return rows;
  Choice row(sizes.size(), 0);
  while (true) {
    if (possible(row)) rows.push_back(row);
    std::size_t axis = sizes.size();
    while (axis > 0 && ++row[axis - 1] == sizes[axis - 1]) row[--axis] = 0;
    if (axis == 0) return rows;
  }
}

std::vector<Choice> covering_pairs(const std::vector<std::size_t>& sizes,
                                   const std::function<bool(const Choice&)>& possible) {
  const std::vector<Choice> rows = all_choices(sizes, possible);
  const Numbering numbering(sizes);
  std::vector<Parts> parts;
  for (const Choice& row : rows) parts.push_back(numbering.pairs(row));
  return cover(rows, parts, numbering.count * numbering.count);
}

std::vector<Choice> covering_each(const std::vector<std::size_t>& sizes,
                                  const std::function<bool(const Choice&)>& possible) {
  const std::vector<Choice> rows = all_choices(sizes, possible);
  const Numbering numbering(sizes);
  std::vector<Parts> parts;
  for (const Choice& row : rows) parts.push_back(numbering.singles(row));
  return cover(rows, parts, numbering.count);
}

}  // namespace arbiter::tuning
