// From decisions to a plan: which candidate serves which token counts of a family, and which rule said so.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arbiter/runtime/candidate.hpp"
#include "communicator/heuristic.hpp"

namespace arbiter {

struct PlannedInterval {
  std::int64_t tokens_min = 0;  ///< inclusive
  std::int64_t tokens_max = 0;  ///< inclusive
  CandidateSpec spec;
  Rule rule = Rule::fallback;
  std::string reason;
  std::optional<Decision> decision;
  /// Of the decision, if it was recorded: what the candidate's kernels may use at most, once they are compiled.
  KernelUse timed{};
};

/// Candidates that could not be loaded on some rank, by refusal_key(), with the reason.
using Refusals = std::map<std::string, std::string>;
std::string refusal_key(const CandidateSpec&, const ProblemFamily&);
/// Of a decision alone: its kernels are there, but not as they were timed. Other ways to the same candidate stay open.
std::string refusal_key(const CandidateSpec&, const ProblemFamily&, const KernelUse& timed);

/// A decision that was not used, and why: for the log.
struct IgnoredDecision {
  std::string decision;
  std::string reason;
};

/// Source hashes are asked for repeatedly; rendering once is enough.
class SourceHashes {
 public:
  explicit SourceHashes(const GroupCapabilities& group) : group_(group) {}
  const std::string& of(const CandidateSpec&);

 private:
  const GroupCapabilities& group_;
  std::map<std::string, std::string> known_;
};

/// Resolves one family at a time. Pure in its arguments, so equal on all ranks for equal decisions and refusals.
class Resolver {
 public:
  /// `sets` and `shipped` must outlive it. `shipped` is asked after everything else that was measured, wherever the
  /// hardware is the same.
  Resolver(const GroupCapabilities&, std::span<const DecisionSet> sets, ChoicePolicy,
           std::span<const DecisionSet> shipped = {});

  /// Intervals that cover 1..max_tokens without gaps, in order, neighbours different.
  /// Throws Unsupported when nothing at all can serve the family.
  std::vector<PlannedInterval> plan(const ProblemFamily&, const Refusals&);

  /// Decisions that plan() met and did not use, each once.
  const std::vector<IgnoredDecision>& ignored() const noexcept { return ignored_; }

 private:
  /// A set of which at least one decision may be used here; or, if shipped, one that has the present hardware.
  struct Usable {
    const DecisionSet* set;
    double distance;
    std::string differences;  // if shipped; empty: none
    bool shipped;
  };
  struct Accepted {
    CandidateSpec spec;
    std::string differences;  // of the environments, in what touches the candidate; empty: none
    std::string note;         // what the reason must say about it; empty: nothing
    KernelUse timed;          // what its kernels may use; not recorded: nothing is known, or they are of other rows
  };
  using Layer = std::vector<PlannedInterval>;

  void add_environment(const DecisionSet&);
  static void sort_nearest_first(std::vector<Usable>&);
  bool concerns(const Decision&, const ProblemFamily&) const;
  std::vector<int> other_hidden_sizes(const std::vector<Usable>&, const ProblemFamily&) const;
  std::optional<Accepted> accept(const Usable&, const Decision&, const ProblemFamily&, const Refusals&);
  Layer decisions_layer(const Usable&, const ProblemFamily&, const Refusals&);
  Layer nearest_layer(const Usable&, const ProblemFamily&, int hidden, const Refusals&);
  void add_measured(std::vector<Layer>&, const std::vector<Usable>&, const ProblemFamily&, const Refusals&);
  /// Why this device, build or group cannot run it; empty if it can.
  std::string obstacle(const CandidateSpec&) const;
  Layer pinned_layer(const ProblemFamily&, const Refusals&);
  Layer kind_layer(const ProblemFamily&, const Refusals&, std::string* why_not) const;
  Layer heuristic_layer(const ProblemFamily&, const Refusals&, std::string* why_not) const;
  void ignore(const Decision&, const std::string& reason);

  const GroupCapabilities& group_;
  ChoicePolicy policy_;
  std::vector<Usable> environments_;
  std::vector<Usable> shipped_;
  SourceHashes hashes_;
  std::vector<IgnoredDecision> ignored_;
};

/// For every token count of 1..tokens_max, the first layer that covers it. Neighbours with the same candidate and rule
/// are joined. Token counts that no layer covers are left out.
std::vector<PlannedInterval> overlay(const std::vector<std::vector<PlannedInterval>>& layers, std::int64_t tokens_max);

}  // namespace arbiter
