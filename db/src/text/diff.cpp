#include "arbiter/db/diff.hpp"

#include <algorithm>
#include <limits>
#include <set>
#include <tuple>

#include "exports/curves.hpp"

namespace arbiter {
namespace {

using db::ProblemTimes;

auto family(const Decision& d) { return std::tie(d.mode, d.world, d.dtype, d.pattern, d.hidden); }

const std::vector<Decision>& decisions_of(const Contents& contents, const std::string& environment) {
  static const std::vector<Decision> none;
  const auto found = contents.decisions.find(environment);
  return found == contents.decisions.end() ? none : found->second;
}

const Decision* covering(const std::vector<Decision>& decisions, const Decision& like, std::int64_t tokens) {
  for (const Decision& decision : decisions) {
    if (family(decision) == family(like) && decision.tokens_min <= tokens && tokens <= decision.tokens_max) {
      return &decision;
    }
  }
  return nullptr;
}

std::optional<double> time_of(const std::vector<ProblemTimes>& all, const Decision& like, std::int64_t tokens,
                              const Candidate& candidate) {
  for (const ProblemTimes& times : all) {
    const Problem& p = times.problem;
    if (p.tokens != tokens || std::tie(p.mode, p.world, p.dtype, p.pattern, p.hidden) != family(like)) continue;
    // By name: another build of the same kernel is still what a person means by it.
    return db::fastest(times, [&](const Candidate& other) { return other.name == candidate.name; });
  }
  return std::nullopt;
}

void find_times(DecisionChange& change, const std::vector<ProblemTimes>& before,
                const std::vector<ProblemTimes>& after) {
  if (!change.before || !change.after) return;
  std::set<std::int64_t> sizes;
  for (const auto* all : {&before, &after}) {
    for (const ProblemTimes& times : *all) {
      const std::int64_t tokens = times.problem.tokens;
      if (change.decision.tokens_min <= tokens && tokens <= change.decision.tokens_max) sizes.insert(tokens);
    }
  }
  const auto time = [&](std::int64_t tokens, const Candidate& candidate) {
    const auto there = time_of(after, change.decision, tokens, candidate);
    return there ? there : time_of(before, change.decision, tokens, candidate);
  };
  for (auto tokens = sizes.rbegin(); tokens != sizes.rend(); ++tokens) {
    const auto old_us = time(*tokens, *change.before);
    const auto new_us = time(*tokens, *change.after);
    if (!old_us || !new_us) continue;
    change.tokens = *tokens;
    change.before_us = *old_us;
    change.after_us = *new_us;
    return;
  }
}

}  // namespace

std::vector<DecisionChange> diff(const Contents& before, const std::string& environment_before, const Contents& after,
                                 const std::string& environment_after) {
  const std::vector<Decision>& old_decisions = decisions_of(before, environment_before);
  const std::vector<Decision>& new_decisions = decisions_of(after, environment_after);
  const std::vector<ProblemTimes> old_times = db::problem_times(before, environment_before);
  const std::vector<ProblemTimes> new_times = db::problem_times(after, environment_after);

  // Where an interval begins, or the one before it has ended, in either of them.
  const auto less = [](const Decision& a, const Decision& b) {
    return std::tuple_cat(family(a), std::tie(a.tokens_min)) < std::tuple_cat(family(b), std::tie(b.tokens_min));
  };
  std::set<Decision, decltype(less)> starts(less);
  for (const auto* decisions : {&old_decisions, &new_decisions}) {
    for (const Decision& decision : *decisions) {
      Decision start;
      start.pattern = decision.pattern;
      start.dtype = decision.dtype;
      start.hidden = decision.hidden;
      start.world = decision.world;
      start.mode = decision.mode;
      start.tokens_min = decision.tokens_min;
      starts.insert(start);
      if (decision.tokens_max == std::numeric_limits<std::int64_t>::max()) continue;
      start.tokens_min = decision.tokens_max + 1;
      starts.insert(start);
    }
  }
  std::vector<DecisionChange> changes;
  for (auto start = starts.begin(); start != starts.end(); ++start) {
    const Decision* was = covering(old_decisions, *start, start->tokens_min);
    const Decision* is = covering(new_decisions, *start, start->tokens_min);
    if (was == nullptr && is == nullptr) continue;
    if (was != nullptr && is != nullptr && was->candidate.name == is->candidate.name) continue;
    DecisionChange change;
    change.decision = *start;
    const auto next = std::next(start);
    const std::int64_t last = std::min(was != nullptr ? was->tokens_max : std::numeric_limits<std::int64_t>::max(),
                                       is != nullptr ? is->tokens_max : std::numeric_limits<std::int64_t>::max());
    change.decision.tokens_max =
        next != starts.end() && family(*next) == family(*start) ? std::min(last, next->tokens_min - 1) : last;
    if (was != nullptr) {
      change.before = was->candidate;
      change.before_use = was->use;
    }
    if (is != nullptr) {
      change.after = is->candidate;
      change.after_use = is->use;
    }
    find_times(change, old_times, new_times);
    changes.push_back(std::move(change));
  }
  return changes;
}

}  // namespace arbiter
