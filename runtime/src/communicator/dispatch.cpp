#include "communicator/dispatch.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "arbiter/db/family_text.hpp"
#include "arbiter/generator/joined.hpp"

namespace arbiter {

void FamilyTable::append(std::int64_t tokens_max, RunnableCandidate& candidate, Explanation explanation,
                         CallCounter& served, CallCounter& padded) {
  intervals_.push_back({tokens_max, &candidate, &served, &padded});
  explanations_.push_back(std::move(explanation));
}

std::size_t FamilyTable::index(std::int64_t tokens) const noexcept {
  // A handful of intervals: the last one catches everything, so the search cannot run over the end.
  std::size_t found = 0;
  while (found + 1 < intervals_.size() && intervals_[found].tokens_max < tokens) ++found;
  return found;
}

const FamilyTable& DispatchTable::put(FamilyTable table) {
  const ProblemFamily& family = table.family();
  for (FamilyTable& known : tables_) {
    const ProblemFamily& other = known.family();
    if (other.pattern == family.pattern && other.dtype == family.dtype && other.hidden == family.hidden &&
        other.mode == family.mode) {
      return known = std::move(table);
    }
  }
  return tables_.emplace_back(std::move(table));
}

const FamilyTable* DispatchTable::find(std::string_view pattern, Dtype dtype, int hidden, Mode mode) const noexcept {
  const FamilyTable* other_mode = nullptr;
  for (const FamilyTable& table : tables_) {
    const ProblemFamily& family = table.family();
    if (family.hidden != hidden || family.dtype != dtype || family.pattern != pattern) continue;
    if (family.mode == mode) return &table;
    other_mode = &table;
  }
  return other_mode;
}

const FamilyTable* DispatchTable::covering(std::string_view pattern, Dtype dtype, std::int64_t elements,
                                           Mode mode) const noexcept {
  const FamilyTable* best = nullptr;
  for (const FamilyTable& table : tables_) {
    const ProblemFamily& family = table.family();
    if (family.dtype != dtype || table.max_elements() < elements || family.pattern != pattern) continue;
    const bool better_mode = best != nullptr && family.mode == mode && best->family().mode != mode;
    const bool worse_mode = best != nullptr && family.mode != mode && best->family().mode == mode;
    if (best == nullptr || better_mode || (!worse_mode && table.max_elements() < best->max_elements())) best = &table;
  }
  return best;
}

std::string DispatchTable::describe() const {
  if (tables_.empty()) return "nothing";
  return joined(tables_, "; ", [](const FamilyTable& table) {
    const ProblemFamily& family = table.family();
    return fmt::format("{} up to {} tokens ({})", family_text(family), family.max_tokens, to_string(family.mode));
  });
}

}  // namespace arbiter
