// Which prepared candidate serves a call: flat tables of intervals. Lookups take no lock and allocate nothing.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/runtime/candidate.hpp"
#include "communicator/counters.hpp"
#include "communicator/quick_check.hpp"

namespace arbiter {

/// Candidates of one family, for every token count from 1 to family.max_tokens.
class FamilyTable {
 public:
  FamilyTable(ProblemFamily family, Pattern pattern)
      : family_(std::move(family)),
        pattern_(std::move(pattern)),
        plain_(family_.pattern == "allreduce"),
        quick_(pattern_, family_.dtype, family_.hidden) {}

  /// Intervals in order, without gaps, the first beginning at 1. Candidate and counters must outlive the table.
  void append(std::int64_t tokens_max, RunnableCandidate&, Explanation, CallCounter& served, CallCounter& padded);

  struct Interval {
    std::int64_t tokens_max;
    RunnableCandidate* candidate;
    CallCounter* served;
    CallCounter* padded;  ///< of calls that go through an aligned copy
  };
  /// `tokens` between 1 and family().max_tokens.
  const Interval& interval(std::int64_t tokens) const noexcept { return intervals_[index(tokens)]; }
  const Explanation& explanation(std::int64_t tokens) const noexcept { return explanations_[index(tokens)]; }

  const ProblemFamily& family() const noexcept { return family_; }
  const Pattern& pattern() const noexcept { return pattern_; }
  /// A plain allreduce: a message of any count of elements.
  bool plain() const noexcept { return plain_; }
  const QuickCheck& quick() const noexcept { return quick_; }
  std::int64_t max_elements() const noexcept { return family_.max_tokens * family_.hidden; }
  std::size_t intervals() const noexcept { return intervals_.size(); }
  std::int64_t tokens_max(std::size_t interval) const noexcept { return intervals_[interval].tokens_max; }

 private:
  std::size_t index(std::int64_t tokens) const noexcept;

  ProblemFamily family_;
  Pattern pattern_;
  bool plain_;
  QuickCheck quick_;
  std::vector<Interval> intervals_;
  std::vector<Explanation> explanations_;
};

class DispatchTable {
 public:
  /// Replaces a table of the same pattern, dtype, hidden size and mode, in its place: tables never move.
  const FamilyTable& put(FamilyTable);

  /// The table of exactly this family; one of the other mode if this mode was not prepared. Null if there is none.
  const FamilyTable* find(std::string_view pattern, Dtype, int hidden, Mode) const noexcept;

  /// For a flat pattern: the smallest table of this dtype that covers `elements`, preferably of this mode. Null if
  /// there is none.
  const FamilyTable* covering(std::string_view pattern, Dtype, std::int64_t elements, Mode) const noexcept;

  const std::deque<FamilyTable>& tables() const noexcept { return tables_; }
  /// "allreduce bf16 hidden=8192 up to 1024 tokens (graph); ..." for messages.
  std::string describe() const;

 private:
  std::deque<FamilyTable> tables_;
};

}  // namespace arbiter
