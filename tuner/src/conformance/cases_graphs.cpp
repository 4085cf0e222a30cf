// Graphs, kernels that start early, and calls whose grids change.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "conformance/case_list.hpp"
#include "measure/stream.hpp"
#include "oracle/random.hpp"

namespace arbiter::tuning {
namespace {

std::unique_ptr<Graph> capture(Device& device, RunnableCandidate& candidate, const Call& call, StreamHandle stream) {
  device.begin_capture(stream);
  candidate.enqueue(call, stream);
  return device.end_capture(stream);
}

Verification verified(Verifier& verifier, const Subject& subject, ConformanceBench& bench, const std::string& what) {
  Series series{bench, verifier};
  VerifyRequest request;
  request.tokens = 16;
  series.check(subject, request, what);
  return series.verdict;
}

Verification replayed(ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier, int replays) {
  Device& device = bench.group().device();
  const Stream other(device);
  std::unique_ptr<Graph> graph;
  Subject subject = subject_of(candidate);
  // Captured once; the tensors stay where they are, and what they hold changes from one request to the next.
  subject.prepare = [&](const Call& call, StreamHandle) {
    if (!graph) graph = capture(device, candidate, call, other);
  };
  subject.enqueue = [&](const Call&, StreamHandle stream) {
    for (int i = 0; i < replays; ++i) graph->launch(stream);
  };
  Series series{bench, verifier};
  VerifyRequest request;
  request.tokens = 16;
  for (request.seed = 1; request.seed <= 3; ++request.seed) {
    if (!series.check(subject, request, fmt::format("replays with inputs {}", request.seed))) break;
  }
  return series.verdict;
}

Verification alternating(ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier, int rounds) {
  Device& device = bench.group().device();
  std::unique_ptr<Graph> whole, part;
  const auto shortened = [](Call call, std::int64_t tokens) {
    call.tokens = tokens;
    return call;
  };
  Subject subject = subject_of(candidate);
  subject.prepare = [&](const Call& call, StreamHandle stream) {
    whole = capture(device, candidate, call, stream);
    part = capture(device, candidate, shortened(call, 3), stream);
  };
  subject.enqueue = [&](const Call& call, StreamHandle stream) {
    for (int i = 0; i < rounds; ++i) {
      part->launch(stream);
      candidate.enqueue(shortened(call, 1), stream);
      whole->launch(stream);
      candidate.enqueue(shortened(call, 3), stream);
    }
    whole->launch(stream);
  };
  return verified(verifier, subject, bench, "alternating graphs");
}

/// The plain kernel triggers its dependents early, and the stand-alone kernel behind it starts early: again and again,
/// so that the next exchange also starts while the last consumer still reads.
Verification early_consumer(ConformanceBench& bench, RunnableCandidate& unfused, Verifier& verifier, int calls) {
  Device& device = bench.group().device();
  Subject subject = subject_of(unfused);
  subject.enqueue = [&](const Call& call, StreamHandle stream) {
    for (int i = 0; i < calls; ++i) unfused.enqueue(call, stream);
  };
  Verification direct = verified(verifier, subject, bench, "launched directly");
  if (!direct.ok()) return direct;
  std::unique_ptr<Graph> graph;
  subject.prepare = [&](const Call& call, StreamHandle stream) {
    device.begin_capture(stream);
    for (int i = 0; i < 3; ++i) unfused.enqueue(call, stream);
    graph = device.end_capture(stream);
  };
  subject.enqueue = [&](const Call&, StreamHandle stream) {
    for (int i = 0; i < calls; ++i) graph->launch(stream);
  };
  return verified(verifier, subject, bench, "replayed");
}

void add_early_consumer(CaseList& list, const AlgorithmEntry& algorithm, int calls) {
  if (!list.area_wanted("graphs") || !list.algorithm_wanted(algorithm)) return;
  const ProblemFamily shape = list.family(fused_pattern, Dtype::bf16, list.hidden(), 16);
  const std::vector<CandidateSpec> exchange =
      list.specs_of(algorithm, list.family(plain_pattern, Dtype::bf16, list.hidden(), 16));
  if (exchange.empty()) return;
  for (const CandidateSpec& spec : enumerate_candidates(list.group().capabilities(), shape, {exchange.data(), 1})) {
    if (spec.fused() || !spec.kernel) continue;
    list.add_candidate("graphs", spec, shape, "early trigger, and a consumer that starts early",
                       [calls](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
                         return early_consumer(bench, candidate, verifier, calls);
                       });
    return;
  }
}

Verification changing_grids(ConformanceBench& bench, const ProblemFamily& shape,
                            const std::vector<CandidateSpec>& specs, int calls, std::uint64_t seed) {
  Series series{bench, bench.verifier(shape)};
  Random random(seed);
  for (int i = 0; i < calls; ++i) {
    // Several calls without waiting between them; the last one is checked.
    std::vector<std::pair<RunnableCandidate*, std::int64_t>> burst;
    for (int j = 0; j < 4; ++j) {
      RunnableCandidate& candidate = bench.candidate(specs[random.below(specs.size())], shape);
      burst.emplace_back(&candidate, static_cast<std::int64_t>(1 + random.below(64)));
    }
    Subject subject = subject_of(*burst.back().first);
    subject.enqueue = [&](const Call& call, StreamHandle stream) {
      for (const auto& [candidate, tokens] : burst) {
        Call each = call;
        each.tokens = candidate == burst.back().first ? call.tokens : std::min(tokens, call.tokens);
        candidate->enqueue(each, stream);
      }
    };
    VerifyRequest request;
    request.tokens = burst.back().second;
    if (!series.check(subject, request, fmt::format("burst {} ending in {}", i, subject.name))) break;
  }
  return series.verdict;
}

/// The first kernel of each algorithm with several grid limits, its other form, and on GPUs its last kernel.
std::vector<CandidateSpec> different_grids(const CaseList& list, const ProblemFamily& shape) {
  std::vector<CandidateSpec> specs;
  for (const AlgorithmEntry* algorithm : list.algorithms()) {
    const std::vector<CandidateSpec> all = list.specs_of(*algorithm, shape);
    std::size_t taken = 0;
    for (const CandidateSpec& spec : all) {
      if (spec.kernel == all.front().kernel && taken++ < 3) specs.push_back(spec);
    }
    if (const CandidateSpec* other = CaseList::other_form(*algorithm, all)) specs.push_back(*other);
    if (!all.empty() && !list.on_cpu() && !(all.back().kernel == all.front().kernel)) specs.push_back(all.back());
  }
  return specs;
}

/// NCCL as it chooses and its symmetric windows, alone and with kernels behind it: a capture must read the inputs of
/// each replay, not those of the capture.
void add_nccl_replays(CaseList& list, int replays) {
  if (!list.area_wanted("graphs")) return;
  for (const std::string_view pattern : {plain_pattern, fused_pattern}) {
    const ProblemFamily shape = list.family(pattern, Dtype::bf16, list.hidden(), 16);
    for (const NcclKind kind : {NcclKind::classic, NcclKind::symmetric}) {
      if (!list.algorithm_wanted("nccl", std::string(to_string(kind)))) continue;
      const std::string detail = fmt::format("capture once, replay {} times, with new inputs each time", replays);
      const std::vector<CandidateSpec> specs = enumerate_candidates(list.group().capabilities(), shape, {});
      const auto found = std::find_if(specs.begin(), specs.end(), [&](const auto& spec) { return spec.nccl == kind; });
      if (found != specs.end()) {
        list.add_candidate("graphs", *found, shape, detail,
                           [replays](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
                             return replayed(bench, candidate, verifier, replays);
                           });
        continue;
      }
      CaseResult result = list.describe("graphs", shape, detail);
      result.backend = Backend::nccl;
      result.algorithm = to_string(kind);
      const std::string reason = list.group().capabilities().nccl_reason;
      list.add_case(std::move(result), reason.empty() ? "this NCCL has no symmetric windows" : reason, {});
    }
  }
}

}  // namespace

void add_graph_cases(CaseList& list) {
  const int replays = list.repeats(1000, list.full() ? 100 : 20);
  add_nccl_replays(list, replays);
  for (const AlgorithmEntry* algorithm : list.algorithms()) {
    for (const std::string_view pattern : {plain_pattern, fused_pattern}) {
      const ProblemFamily shape = list.family(pattern, Dtype::bf16, list.hidden(), 16);
      list.add(
          "graphs", *algorithm, shape,
          fmt::format("capture once on one stream, replay {} times on another, with new inputs each time", replays),
          [replays](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
            return replayed(bench, candidate, verifier, replays);
          });
      list.add("graphs", *algorithm, shape, "two graphs of different shapes in turn, with direct calls between",
               [replays](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
                 return alternating(bench, candidate, verifier, replays / 4);
               });
    }
    add_early_consumer(list, *algorithm, list.repeats(200, 5));
  }
}

void add_grid_change_cases(CaseList& list) {
  if (!list.area_wanted("grid changes") || !list.options().algorithms.empty()) return;
  const int calls = list.repeats(400, list.full() ? 80 : 24);
  const std::uint64_t seed = list.options().seed;
  for (const std::string_view pattern : {plain_pattern, fused_pattern}) {
    const ProblemFamily shape = list.family(pattern, Dtype::bf16, list.hidden(), 64);
    const std::vector<CandidateSpec> specs = different_grids(list, shape);
    if (specs.empty()) continue;
    const std::string what = fmt::format("{} candidates and sizes 1 to 64 at random", specs.size());
    list.add_case(list.describe("grid changes", shape, fmt::format("{} bursts, {}", calls, what)), "",
                  [shape, specs, calls, seed](ConformanceBench& bench) {
                    return changing_grids(bench, shape, specs, calls, seed);
                  });
    // Every call takes at least one epoch, so that the counters pass 2^32 within the first bursts.
    list.add_case(list.describe("grid changes", shape, "counters that wrap around, " + what), "",
                  [shape, specs, calls, seed](ConformanceBench& bench) {
                    const std::unique_ptr<ConformanceBench> wrapping =
                        bench.another(std::numeric_limits<std::uint32_t>::max() - 10);
                    return changing_grids(*wrapping, shape, specs, std::min(calls, 40), seed);
                  });
  }
}

}  // namespace arbiter::tuning
