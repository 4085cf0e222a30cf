#include "communicator/counters.hpp"

#include <algorithm>

namespace arbiter {

CallCounter& CallCounters::of(const ProblemFamily& family, const std::string& candidate, Rule rule) {
  const std::lock_guard lock(mutex_);
  for (CallCounter& counter : counters_) {
    CallCount& known = counter.what_;
    ProblemFamily same = family;
    same.max_tokens = known.family.max_tokens;
    if (known.family != same || known.candidate != candidate || known.rule != rule) continue;
    known.family.max_tokens = std::max(known.family.max_tokens, family.max_tokens);
    return counter;
  }
  return counters_.emplace_back(CallCount{family, candidate, rule, 0});
}

std::vector<CallCount> CallCounters::list() const {
  const std::lock_guard lock(mutex_);
  std::vector<CallCount> counts;
  for (const CallCounter& counter : counters_) {
    counts.push_back(counter.what_);
    counts.back().calls = counter.calls_.load(std::memory_order_relaxed);
  }
  return counts;
}

}  // namespace arbiter
