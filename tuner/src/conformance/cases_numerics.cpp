// Values that look like "nothing has arrived", sums that depend on their order, rows in any batch, and repeats.
#include <fmt/format.h>

#include "conformance/case_list.hpp"

namespace arbiter::tuning {

void add_sentinel_cases(CaseList& list) {
  const std::uint64_t seed = list.options().seed;
  for (const std::string_view pattern : {plain_pattern, fused_pattern}) {
    for (const AlgorithmEntry* algorithm : list.algorithms()) {
      for (const Dtype dtype : all_dtypes) {
        if (!list.full() && pattern == fused_pattern && dtype != Dtype::bf16) continue;
        list.add("sentinel salt", *algorithm, list.family(pattern, dtype, list.hidden(), 37), "special values, 3 seeds",
                 [seed](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
                   Series series{bench, verifier};
                   for (std::uint64_t i = 0; i < 3; ++i) {
                     VerifyRequest request;
                     request.tokens = 37;
                     request.content = Content::special;
                     request.seed = seed * 1000 + i;
                     if (!series.check(subject_of(candidate), request, fmt::format("seed {}", request.seed))) break;
                   }
                   return series.verdict;
                 });
      }
    }
  }
}

namespace {

CaseList::Body cancellation() {
  return [](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
    Series series{bench, verifier};
    VerifyRequest request;
    request.tokens = 37;
    request.content = Content::cancellation;
    series.check(subject_of(candidate), request, "2^24, 1, -2^24, 1");
    return series.verdict;
  };
}

CaseList::Body repeats(int count) {
  return [count](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
    Series series{bench, verifier};
    for (int i = 0; i < count; ++i) {
      VerifyRequest request;
      request.tokens = 9;
      if (!series.check(subject_of(candidate), request, fmt::format("repeat {}", i))) break;
    }
    return series.verdict;
  };
}

}  // namespace

void add_numerics_cases(CaseList& list) {
  const int count = list.repeats(1000, list.full() ? 100 : 20);
  for (const std::string_view pattern : {plain_pattern, fused_pattern}) {
    for (const AlgorithmEntry* algorithm : list.algorithms()) {
      for (const Dtype dtype : all_dtypes) {
        if (!list.full() && pattern == fused_pattern && dtype != Dtype::bf16) continue;
        if (!is_known_exactly(algorithm->numerics)) continue;  // another order, another sum
        list.add("numerics", *algorithm, list.family(pattern, dtype, list.hidden(), 37),
                 "sums that depend on their order", cancellation());
      }
      // A row's bits do not depend on the other rows: every batch is compared with the same reference rows.
      list.add("numerics", *algorithm, list.family(pattern, Dtype::bf16, list.hidden(), 37),
               "a row alone and in any batch", CaseList::at_tokens({1, 2, 3, 8, 37}));
      list.add("numerics", *algorithm, list.family(pattern, Dtype::bf16, list.hidden(), 9),
               fmt::format("{} repeats are identical", count), repeats(count));
    }
  }
}

}  // namespace arbiter::tuning
