// Plain allreduce of every count, lists of tokens on one workspace, and every hidden size.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "conformance/case_list.hpp"

namespace arbiter::tuning {
namespace {

CaseList::Body plain_body(std::int64_t tokens) {
  return [tokens](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
    Series series{bench, verifier};
    const bool large = tokens > 8192;
    for (const bool in_place : {false, true}) {
      for (const std::size_t shift : {std::size_t{0}, std::size_t{1}}) {
        if (large && shift != (in_place ? 1U : 0U)) continue;
        VerifyRequest request;
        request.tokens = tokens;
        request.in_place = in_place;
        request.shift_vectors = shift;
        const std::string what = std::string(in_place ? "in place" : "out of place") + (shift != 0 ? ", shifted" : "");
        if (!series.check(subject_of(candidate), request, what)) return series.verdict;
      }
    }
    return series.verdict;
  };
}

/// Every kernel and launch shape that the tuner might pick, once.
void add_every_variant(CaseList& list) {
  if (!list.area_wanted("plain")) return;
  for (const std::string_view pattern : {plain_pattern, fused_pattern}) {
    for (const AlgorithmEntry* algorithm : list.algorithms()) {
      if (!list.algorithm_wanted(*algorithm)) continue;
      const ProblemFamily shape = list.family(pattern, Dtype::bf16, 8192, 67);
      for (const CandidateSpec& spec : list.specs_of(*algorithm, shape)) {
        list.add_candidate("plain", spec, shape, "every variant", CaseList::at_tokens({1, 67}));
      }
    }
  }
}

void add_nccl(CaseList& list) {
  if (!list.area_wanted("plain") || !list.algorithm_wanted("nccl", CandidateSpec::classic_nccl().algorithm())) return;
  for (const Dtype dtype : all_dtypes) {
    const ProblemFamily shape = list.family(plain_pattern, dtype, list.hidden(), 64);
    CaseResult result = list.describe("plain", shape, "against float64");
    result.backend = Backend::nccl;
    const CandidateSpec spec = CandidateSpec::classic_nccl();
    result.algorithm = spec.algorithm();
    result.candidate = spec.name();
    list.add_case(std::move(result), list.group().capabilities().nccl_reason, [spec, shape](ConformanceBench& bench) {
      RunnableCandidate& candidate = bench.candidate(spec, shape);
      return bench.verifier(shape).verify_before_timing(subject_of(candidate), 64);
    });
  }
}

Verification odd_count(ConformanceBench& bench, const ProblemFamily& shape, std::int64_t count) {
  Communicator& communicator = bench.communicator({shape});
  // The verifier compares whole vectors, so the elements behind `count` are copied from the input of a second call.
  Subject subject{"auto", Numerics::nccl, {}, [&] { communicator.check(); }};
  subject.enqueue = [&](const Call& call, StreamHandle stream) {
    const std::size_t split = static_cast<std::size_t>(count) * element_bytes(call.dtype);
    const std::int64_t rest = call.tokens * call.hidden - count;
    communicator.all_reduce(call.input, call.output, count, call.dtype, stream);
    communicator.all_reduce(static_cast<const char*>(call.input) + split, static_cast<char*>(call.output) + split, rest,
                            call.dtype, stream);
  };
  VerifyRequest request;
  request.tokens = shape.max_tokens;
  request.content = Content::integers;
  return bench.verifier(shape).verify(subject, request);
}

/// Counts that are no whole number of vectors, through the communicator: NCCL serves them, or an aligned copy.
void add_odd_counts(CaseList& list) {
  if (!list.area_wanted("plain") || !list.options().algorithms.empty()) return;
  for (const std::int64_t count : {1, 7, 511, 65537}) {
    const ProblemFamily shape = list.family(plain_pattern, Dtype::bf16, 8, count / 8 + 1);
    list.add_case(list.describe("plain", shape, fmt::format("count {}", count)), "",
                  [shape, count](ConformanceBench& bench) { return odd_count(bench, shape, count); });
  }
}

Verification communicator_tokens(ConformanceBench& bench, const ProblemFamily& shape,
                                 const std::vector<std::int64_t>& tokens_list) {
  Communicator& communicator = bench.communicator({shape});
  Series series{bench, bench.verifier(shape)};
  for (const std::int64_t tokens : tokens_list) {
    const Problem problem{shape.pattern, shape.dtype, shape.hidden, tokens, bench.group().size(), Mode::graph, false};
    const Candidate chosen = communicator.explain(problem).candidate;
    const Subject subject{chosen.name,
                          chosen.numerics,
                          [&](const Call& call, StreamHandle stream) { communicator.run(call, stream); },
                          [&] { communicator.check(); },
                          {},
                          {},
                          {},
                          rounded_legs(bench.group().catalogue(), chosen)};
    VerifyRequest request;
    request.tokens = tokens;
    if (!series.check(subject, request, tokens_text(tokens) + " with " + chosen.name)) break;
  }
  return series.verdict;
}

/// The CPU device takes seconds for large messages, which differ from others by the counters of their loops: one dtype
/// has them, and in the selection few ranks.
std::int64_t largest_count(const CaseList& list, Dtype dtype) {
  const bool chosen = dtype == Dtype::bf16;
  if (!list.on_cpu() || (list.full() && chosen)) return std::numeric_limits<std::int64_t>::max();
  return list.full() || (chosen && list.group().size() <= 4) ? 1 << 20 : 65544;
}

}  // namespace

void add_plain_cases(CaseList& list) {
  std::vector<std::int64_t> counts{8, 512, 4096, 65544, 1 << 20};
  if (list.full()) counts.push_back((1 << 24) + 8);
  for (const AlgorithmEntry* algorithm : list.algorithms()) {
    for (const Dtype dtype : all_dtypes) {
      for (const std::int64_t count : counts) {
        if (count > largest_count(list, dtype)) continue;
        list.add("plain", *algorithm, list.family(plain_pattern, dtype, 8, count / 8),
                 "in place and not, shifted and not", plain_body(count / 8));
      }
    }
  }
  if (list.full() && !list.on_cpu()) add_every_variant(list);
  add_nccl(list);
  add_odd_counts(list);
}

void add_token_cases(CaseList& list) {
  std::vector<std::int64_t> tokens{1, 4, 15, 27, 11, 24, 256, 127, 998, 2048, 256, 1, 2048, 15};
  if (list.on_cpu() && !list.full()) std::erase_if(tokens, [](std::int64_t count) { return count > 256; });
  const std::int64_t most = *std::max_element(tokens.begin(), tokens.end());
  for (const std::string_view pattern : {plain_pattern, fused_pattern}) {
    const ProblemFamily shape = list.family(pattern, Dtype::bf16, list.hidden(), most);
    for (const AlgorithmEntry* algorithm : list.algorithms()) {
      list.add("tokens", *algorithm, shape, "one workspace, many sizes", CaseList::at_tokens(tokens));
    }
    if (!list.area_wanted("tokens") || !list.options().algorithms.empty()) continue;
    list.add_case(list.describe("tokens", shape, "communicator, built-in choice"), "",
                  [shape, tokens](ConformanceBench& bench) { return communicator_tokens(bench, shape, tokens); });
  }
}

void add_hidden_size_cases(CaseList& list) {
  if (!list.area_wanted("hidden sizes")) return;
  std::vector<int> sizes{1024, 2880, 5120, 7168, 8200, 16384};
  if (list.full()) {
    sizes = {8, 24, 1000, 1024, 2048, 2880, 3072, 4096, 5120, 6144, 7168, 8192, 8200, 12288, 15368, 16384};
  }
  std::size_t turn = 0;
  for (const int size : sizes) {
    const bool all = list.full() && !list.on_cpu();
    const Dtype its_dtype = all_dtypes[turn % 3];
    const AlgorithmEntry& its_algorithm = list.next_that_fits(list.family(fused_pattern, its_dtype, size, 5), turn);
    for (const AlgorithmEntry* algorithm : list.algorithms()) {
      if (!all && list.options().algorithms.empty() && algorithm != &its_algorithm) continue;
      for (const Dtype dtype : all_dtypes) {
        if (!all && dtype != its_dtype) continue;
        list.add("hidden sizes", *algorithm, list.family(fused_pattern, dtype, size, 5), "",
                 CaseList::at_tokens({1, 5}));
      }
    }
    ++turn;
  }
}

}  // namespace arbiter::tuning
