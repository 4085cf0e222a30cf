// Which rule serves a problem: the route that run() takes, said instead of taken.
#include <fmt/format.h>

#include <array>

#include "arbiter/db/family_text.hpp"
#include "arbiter/error.hpp"
#include "communicator/impl.hpp"

namespace arbiter {

std::string_view to_string(Rule rule) noexcept {
  constexpr std::array<std::string_view, 7> names = {
      "decision", "nearest_environment", "nearest_hidden", "shipped_default", "heuristic", "pinned", "fallback"};
  return names[static_cast<std::size_t>(rule)];
}

std::string asked(std::string_view pattern, Dtype dtype, int hidden, std::int64_t tokens) {
  return fmt::format("{} tokens={}", family_text(pattern, dtype, hidden), tokens);
}

Route Communicator::Impl::route_plain(const FamilyTable* found, Dtype dtype, std::int64_t elements) const {
  if (elements == 0) return {};
  Route route;
  const FamilyTable::Interval* interval = nullptr;
  if (found != nullptr) {
    const std::int64_t hidden = found->family().hidden;
    const std::int64_t tokens = elements / hidden + (elements % hidden != 0 ? 1 : 0);
    interval = &found->interval(tokens);
    route.candidate = interval->candidate;
    route.chosen = &found->explanation(tokens);
  }
  const bool nccl = group->nccl() != nullptr;
  const bool whole_vectors = elements % static_cast<std::int64_t>(vector_elements(dtype)) == 0;
  if (group->size() == 1) {
    route.way = Way::copy;
  } else if (found == nullptr && !nccl) {
    throw Unsupported(fmt::format(
        "no prepared allreduce covers {} elements of {}, and there is no NCCL to fall back to ({}). Prepared: {}. Call "
        "prepare() with pattern 'allreduce', dtype {} and tokens * hidden of at least {}.",
        elements, to_string(dtype),
        group->capabilities().has_nccl()
            ? "it was not started, since nothing that was prepared needs it; prepare_nccl() starts it"
            : group->capabilities().nccl_reason,
        table.describe(), to_string(dtype), elements));
  } else if (found == nullptr) {
    route.way = Way::nccl;
  } else if (whole_vectors || !route.candidate->spec().kernel) {
    route.way = Way::candidate;
  } else {
    route.way = nccl ? Way::nccl : Way::padded;
  }
  if (route.way == Way::nccl) {
    route.counter = nccl_fallback[static_cast<std::size_t>(dtype)];
  } else if (interval != nullptr) {
    route.counter = route.way == Way::padded ? interval->padded : interval->served;
  }
  return route;
}

namespace {

/// Of what has no kernel, and so no source.
Candidate record_of(const CandidateSpec& spec, Numerics numerics) {
  return {spec.backend(), spec.algorithm(), spec.name(), numerics, ""};
}

}  // namespace

Explanation Communicator::Impl::explain(const Route& route, Dtype dtype, std::int64_t elements) const {
  const std::uint64_t bytes = static_cast<std::uint64_t>(elements) * element_bytes(dtype);
  Explanation explanation;
  if (route.chosen != nullptr) explanation = *route.chosen;
  switch (route.way) {
    case Way::candidate:
      break;
    case Way::nothing:
    case Way::copy:
      if (route.chosen != nullptr) break;
      explanation.reason = "a single rank has nothing to exchange";
      explanation.candidate = record_of(CandidateSpec{}, Numerics::rank_order_fp32);
      break;
    case Way::padded:
      explanation.rule = Rule::fallback;
      explanation.reason =
          fmt::format("{} bytes are not a multiple of 16, so the message goes through an aligned copy; {}", bytes,
                      explanation.reason);
      break;
    case Way::nccl:
      explanation = {};
      explanation.candidate = record_of(CandidateSpec::classic_nccl(), Numerics::nccl);
      explanation.reason = route.chosen != nullptr
                               ? fmt::format("{} bytes are not a multiple of 16", bytes)
                               : fmt::format("no prepared allreduce covers {} bytes of {}", bytes, to_string(dtype));
      break;
  }
  return explanation;
}

Explanation Communicator::Impl::explain(const FamilyTable& family_table, std::int64_t tokens) const {
  const ProblemFamily& family = family_table.family();
  if (tokens <= 0 || tokens > family.max_tokens) {
    throw InvalidArgument(
        fmt::format("explain {} tokens of a family that is prepared for 1 to {}", tokens, family.max_tokens));
  }
  if (family.pattern != plain_pattern) return family_table.explanation(tokens);
  const std::int64_t elements = tokens * family.hidden;
  return explain(route_plain(&family_table, family.dtype, elements), family.dtype, elements);
}

Explanation Communicator::Impl::explain(const Problem& problem) const {
  if (problem.world != group->size()) {
    throw InvalidArgument(fmt::format("{}: this communicator has {} ranks", problem.name(), group->size()));
  }
  if (problem.tokens <= 0 || problem.hidden <= 0) {
    throw InvalidArgument(problem.name() + ": tokens and hidden must be positive");
  }
  const FamilyTable* found = table.find(problem.pattern, problem.dtype, problem.hidden, problem.mode);
  if (found != nullptr && problem.tokens > found->family().max_tokens) found = nullptr;
  if (found != nullptr) return explain(*found, problem.tokens);
  if (problem.pattern != plain_pattern) {
    group->catalogue().pattern(problem.pattern);
    throw Unsupported(problem.name() + " is not prepared. Prepared: " + table.describe());
  }
  std::int64_t elements = 0;
  if (__builtin_mul_overflow(problem.tokens, std::int64_t{problem.hidden}, &elements)) {
    throw InvalidArgument(problem.name() + ": more than 2^63 elements");
  }
  found = table.covering(plain_pattern, problem.dtype, elements, problem.mode);
  return explain(route_plain(found, problem.dtype, elements), problem.dtype, elements);
}

bool Communicator::Impl::can_use(const Problem& problem) const {
  if (options.variables.off) return false;
  try {
    explain(problem);
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace arbiter
