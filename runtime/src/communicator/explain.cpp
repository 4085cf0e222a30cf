// Which rule serves a problem: the same decisions as run(), said instead of done.
#include "arbiter/error.hpp"
#include "communicator/impl.hpp"

namespace arbiter {

Explanation Communicator::Impl::explain(const Problem& problem) const {
  if (problem.world != group->size()) {
    throw InvalidArgument(problem.name() + ": this communicator has " + std::to_string(group->size()) + " ranks");
  }
  if (problem.tokens <= 0 || problem.hidden <= 0) {
    throw InvalidArgument(problem.name() + ": tokens and hidden must be positive");
  }
  const FamilyTable* found = table.find(problem.pattern, problem.dtype, problem.hidden, problem.mode);
  if (found != nullptr && problem.tokens > found->family().max_tokens) found = nullptr;
  if (problem.pattern != plain_pattern) {
    if (found != nullptr) return found->explanation(problem.tokens);
    group->catalogue().pattern(problem.pattern);
    throw Unsupported(problem.name() + " is not prepared. Prepared: " + table.describe());
  }

  std::int64_t elements = 0;
  if (__builtin_mul_overflow(problem.tokens, std::int64_t{problem.hidden}, &elements)) {
    throw InvalidArgument(problem.name() + ": more than 2^63 elements");
  }
  if (found == nullptr) found = table.covering(plain_pattern, problem.dtype, elements, problem.mode);
  const std::size_t bytes = static_cast<std::size_t>(elements) * element_bytes(problem.dtype);
  Explanation fallback;
  fallback.rule = "fallback";
  fallback.candidate = {Backend::nccl, "classic", "nccl/classic", Numerics::nccl, ""};
  if (found == nullptr) {
    if (group->size() == 1) {
      fallback.reason = "a single rank has nothing to exchange";
      fallback.candidate = {Backend::automatic, "copy", "auto/copy", Numerics::rank_order_fp32, ""};
      return fallback;
    }
    fallback.reason =
        "no prepared allreduce covers " + std::to_string(bytes) + " bytes of " + std::string(to_string(problem.dtype));
    if (group->nccl_reason().empty()) return fallback;
    throw Unsupported(problem.name() + " is not prepared: " + fallback.reason + ", and there is no NCCL (" +
                      group->nccl_reason() + "). Prepared: " + table.describe());
  }
  const std::int64_t hidden = found->family().hidden;
  Explanation explanation = found->explanation((elements + hidden - 1) / hidden);
  if (bytes % vector_bytes == 0 || explanation.candidate.backend == Backend::nccl || group->size() == 1) {
    return explanation;
  }
  const std::string reason = std::to_string(bytes) + " bytes are not a multiple of 16";
  if (group->nccl_reason().empty()) {
    fallback.reason = reason;
    return fallback;
  }
  explanation.rule = "fallback";
  explanation.reason = reason + ", so the message goes through an aligned copy; " + explanation.reason;
  return explanation;
}

bool Communicator::Impl::can_use(const Problem& problem) const {
  try {
    explain(problem);
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace arbiter
