#include "arbiter/tuner/choose.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>

#include "arbiter/error.hpp"

namespace arbiter {
namespace {

constexpr std::int64_t reach = 4;

/// A total order, so that nothing depends on the order of the measurements.
bool faster(const Measured& a, const Measured& b) {
  return std::tie(a.summary.median_us, a.candidate.name) < std::tie(b.summary.median_us, b.candidate.name);
}

std::size_t fastest(std::span<const Measured> measured) {
  return static_cast<std::size_t>(std::min_element(measured.begin(), measured.end(), faster) - measured.begin());
}

/// The enumerators of Numerics are ordered from strict to loose.
auto tie_break(const Measured& measured) {
  return std::make_tuple(static_cast<int>(measured.candidate.numerics), measured.blocks,
                         std::cref(measured.candidate.name).get());
}

/// Slower by at least half of what counts, but not beyond noise.
bool undecided(const Summary& fast, const Summary& slow, const ChoiceRules& rules) {
  const double gain = (slow.median_us - fast.median_us) / slow.median_us;
  return !beats(fast, slow, rules) && fast.ci_high_us >= slow.ci_low_us && gain > rules.gain / 2;
}

/// What one would use without the winner's algorithm: the fastest candidate of another. Of a winner that sends 8-bit
/// values: who would have won if it were forbidden, because that is who serves where it is.
const Measured* runner_up(const SizeWinner& winner, const ChoiceRules& rules) {
  const Measured* best = nullptr;
  if (winner.measured().candidate.numerics == Numerics::fp8_transport) {
    std::vector<Measured> exact;
    for (const Measured& other : winner.size->candidates) {
      if (other.candidate.numerics != Numerics::fp8_transport) exact.push_back(other);
    }
    const std::optional<Choice> choice = choose(exact, std::nullopt, rules);
    if (!choice) return nullptr;
    for (const Measured& other : winner.size->candidates) {
      if (other.candidate == exact[choice->index].candidate) best = &other;
    }
    return best;
  }
  for (const Measured& other : winner.size->candidates) {
    const Candidate& a = other.candidate;
    const Candidate& b = winner.measured().candidate;
    if (a.backend == b.backend && a.algorithm == b.algorithm) continue;
    if (best == nullptr || faster(other, *best)) best = &other;
  }
  return best;
}

bool same_name(const std::optional<Candidate>& a, const Measured* b) {
  return a.has_value() == (b != nullptr) && (!a || a->name == b->candidate.name);
}

bool measured_here(const SizeResult& size, const Candidate& candidate) {
  return std::any_of(size.candidates.begin(), size.candidates.end(),
                     [&](const Measured& measured) { return measured.candidate.name == candidate.name; });
}

}  // namespace

bool beats(const Summary& fast, const Summary& slow, const ChoiceRules& rules) {
  const double gain = (slow.median_us - fast.median_us) / slow.median_us;
  if (gain > rules.largest_tie) return true;
  return fast.ci_high_us < slow.ci_low_us && gain > rules.gain;
}

bool belongs(const Decision& decision, const ProblemFamily& family, int world) noexcept {
  return decision.pattern == family.pattern && decision.dtype == family.dtype && decision.hidden == family.hidden &&
         decision.mode == family.mode && decision.world == world;
}

std::vector<std::size_t> near_ties(std::span<const Summary> summaries, const ChoiceRules& rules) {
  if (summaries.empty()) return {};
  const auto best = std::min_element(summaries.begin(), summaries.end(),
                                     [](const Summary& a, const Summary& b) { return a.median_us < b.median_us; });
  std::vector<std::size_t> near;
  bool wide = false;
  for (std::size_t i = 0; i < summaries.size(); ++i) {
    const Summary& each = summaries[i];
    if ((each.median_us - best->median_us) / each.median_us > rules.largest_tie) continue;
    near.push_back(i);
    wide = wide || each.ci_high_us - each.ci_low_us >= rules.precision * each.median_us;
  }
  return wide && near.size() > 1 ? near : std::vector<std::size_t>{};
}

std::vector<std::size_t> doubtful(std::span<const Measured> measured, const std::optional<Candidate>& incumbent,
                                  const ChoiceRules& rules) {
  if (measured.empty()) return {};
  const std::size_t first = fastest(measured);
  const Summary& best = measured[first].summary;
  const auto half = [](const Summary& summary) { return (summary.ci_high_us - summary.ci_low_us) / 2; };
  const auto preference = [&](std::size_t i) {
    const bool defends = incumbent && measured[i].candidate.name == incumbent->name;
    return std::tuple_cat(std::make_tuple(!defends), tie_break(measured[i]));
  };
  std::size_t chosen = first;  // of those that are no slower for sure
  std::vector<std::size_t> open;
  for (std::size_t i = 0; i < measured.size(); ++i) {
    const Summary& each = measured[i].summary;
    const double gain = (each.median_us - best.median_us) / each.median_us;
    const double doubt = std::hypot(half(each), half(best)) / each.median_us;
    if (i != first && std::fabs(gain - rules.gain) < doubt) {
      open.push_back(i);
    } else if (gain <= rules.gain && preference(i) < preference(chosen)) {
      chosen = i;
    }
  }
  std::erase_if(open, [&](std::size_t i) { return !(preference(i) < preference(chosen)); });
  if (!open.empty()) open.insert(std::lower_bound(open.begin(), open.end(), first), first);
  return open;
}

NextSamples next_samples(std::span<const Measured> measured, const std::optional<Candidate>& incumbent,
                         const SampleLimits& limits, const ChoiceRules& rules) {
  if (limits.tie == 0) return {};
  std::vector<Summary> summaries;
  for (const Measured& each : measured) summaries.push_back(each.summary);
  const auto taken = [&](const std::vector<std::size_t>& which) {
    std::size_t most = 0;
    for (const std::size_t i : which) most = std::max(most, summaries[i].samples);
    return static_cast<int>(most);
  };
  if (std::vector<std::size_t> near = near_ties(summaries, rules); !near.empty()) {
    if (taken(near) + limits.step > limits.tie) return {};  // so noisy that a verdict would take too long
    return {std::move(near), limits.step};
  }
  std::vector<std::size_t> open = doubtful(measured, incumbent, rules);
  const int samples = std::min(taken(open), limits.verdict - taken(open));
  if (open.empty() || samples <= 0) return {};
  return {std::move(open), samples};
}

std::optional<Choice> choose(std::span<const Measured> measured, const std::optional<Candidate>& incumbent,
                             const ChoiceRules& rules) {
  if (measured.empty()) return std::nullopt;
  const std::size_t first = fastest(measured);
  std::vector<std::size_t> ties;
  for (std::size_t i = 0; i < measured.size(); ++i) {
    if (i == first || !beats(measured[first].summary, measured[i].summary, rules)) ties.push_back(i);
  }
  const bool close = std::any_of(measured.begin(), measured.end(), [&](const Measured& other) {
    return undecided(measured[first].summary, other.summary, rules);
  });
  if (ties.size() == 1) return Choice{first, "fastest beyond noise", close};
  if (incumbent) {
    for (const std::size_t i : ties) {
      if (measured[i].candidate.name == incumbent->name)
        return Choice{i, "within noise of the fastest: incumbent kept", close};
    }
  }
  const auto best = std::min_element(ties.begin(), ties.end(), [&](std::size_t a, std::size_t b) {
    return tie_break(measured[a]) < tie_break(measured[b]);
  });
  return Choice{*best, "within noise of the fastest: stricter numerics, then fewer blocks, then the name", close};
}

std::optional<Candidate> previous_candidate(std::span<const Decision> previous, const ProblemFamily& family, int world,
                                            std::int64_t tokens) {
  for (const Decision& decision : previous) {
    if (belongs(decision, family, world) && decision.tokens_min <= tokens && tokens <= decision.tokens_max) {
      return decision.candidate;
    }
  }
  return std::nullopt;
}

std::vector<std::int64_t> token_grid(std::int64_t max_tokens) {
  if (max_tokens < 1) {
    throw InvalidArgument(fmt::format("max_tokens is {}; expected at least 1", max_tokens));
  }
  std::vector<std::int64_t> grid;
  for (std::int64_t power = 1; power < max_tokens; power *= 2) {
    grid.push_back(power);
    const std::int64_t middle = power + power / 2;
    if (power >= 2 && middle < max_tokens) grid.push_back(middle);
    if (power > max_tokens / 2) break;  // the next doubling would pass max_tokens, or overflow
  }
  grid.push_back(max_tokens);
  return grid;
}

std::int64_t boundary(std::int64_t below, std::int64_t above) {
  const auto middle = static_cast<std::int64_t>(std::sqrt(static_cast<double>(below) * static_cast<double>(above)));
  return std::clamp(middle, below, above - 1);
}

std::vector<SizeWinner> winners(const ProblemFamily& family, int world, std::span<const SizeResult> sizes,
                                std::span<const Decision> previous, const ChoiceRules& rules) {
  std::vector<const SizeResult*> order;
  for (const SizeResult& size : sizes) {
    if (!size.candidates.empty()) order.push_back(&size);
  }
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->tokens < b->tokens; });

  std::vector<SizeWinner> winners;
  for (const SizeResult* size : order) {
    std::optional<Candidate> incumbent = previous_candidate(previous, family, world, size->tokens);
    if (incumbent && !measured_here(*size, *incumbent)) incumbent.reset();
    winners.push_back({size->tokens, size, *choose(size->candidates, incumbent, rules)});
  }
  return winners;
}

std::vector<TokenRange> reaches(std::span<const std::int64_t> measured) {
  std::vector<TokenRange> ranges;
  for (std::size_t i = 0; i < measured.size(); ++i) {
    const std::int64_t tokens = measured[i];
    TokenRange range{std::max<std::int64_t>((tokens + reach - 1) / reach, 1), tokens};
    if (i > 0) range.first = std::max(range.first, boundary(measured[i - 1], tokens) + 1);
    if (i + 1 < measured.size()) {
      const std::int64_t farthest = tokens > INT64_MAX / reach ? INT64_MAX : tokens * reach;
      range.last = std::min(boundary(tokens, measured[i + 1]), farthest);
    }
    ranges.push_back(range);
  }
  return ranges;
}

std::vector<Decision> decide(const ProblemFamily& family, int world, std::span<const SizeResult> sizes,
                             std::span<const Decision> previous, const ChoiceRules& rules) {
  const std::vector<SizeWinner> winners = arbiter::winners(family, world, sizes, previous, rules);
  std::vector<std::int64_t> measured;
  for (const SizeWinner& winner : winners) measured.push_back(winner.tokens);
  const std::vector<TokenRange> ranges = reaches(measured);
  std::vector<Decision> decisions;
  for (std::size_t i = 0; i < winners.size(); ++i) {
    const SizeWinner& winner = winners[i];
    const Measured* const second = runner_up(winner, rules);
    const bool lossy = winner.measured().candidate.numerics == Numerics::fp8_transport;
    // One interval has one candidate, and one that serves in its place.
    const bool continues = !decisions.empty() && decisions.back().tokens_max + 1 == ranges[i].first &&
                           winners[i - 1].measured().candidate.name == winner.measured().candidate.name &&
                           (!lossy || same_name(decisions.back().runner_up, second));
    if (!continues) {
      decisions.emplace_back();
      decisions.back().tokens_min = ranges[i].first;
    }
    Decision& decision = decisions.back();
    decision.pattern = family.pattern;
    decision.dtype = family.dtype;
    decision.hidden = family.hidden;
    decision.world = world;
    decision.mode = family.mode;
    decision.tokens_max = ranges[i].last;
    decision.candidate = winner.measured().candidate;
    decision.median_us = winner.measured().summary.median_us;
    decision.runner_up = second != nullptr ? std::optional(second->candidate) : std::nullopt;
    decision.runner_up_median_us = second != nullptr ? second->summary.median_us : 0;
    decision.measured_tokens = winner.tokens;
    decision.use = winner.measured().use;
    decision.runner_up_use = second != nullptr ? second->use : KernelUse{};
  }
  return decisions;
}

}  // namespace arbiter
