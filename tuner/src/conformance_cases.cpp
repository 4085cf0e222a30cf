#include <algorithm>
#include <optional>

#include "conformance_case.hpp"
#include "random.hpp"
#include "stream.hpp"

namespace arbiter::tuning {
namespace {

constexpr std::string_view plain = "allreduce";
constexpr std::string_view fused = "allreduce_residual_rmsnorm";
constexpr Dtype dtypes[] = {Dtype::bf16, Dtype::fp16, Dtype::fp32};

/// Verifies one request after another until one is not passed; its reason is told what it was.
struct Series {
  ConformanceBench& bench;
  Verifier& verifier;
  Verification verdict;

  bool check(const Subject& subject, const VerifyRequest& request, const std::string& what) {
    verdict = verifier.verify(subject, request);
    if (!verdict.ok()) verdict.reason = what + ": " + verdict.reason;
    return verdict.ok();
  }
};

std::string tokens_text(std::int64_t tokens) { return std::to_string(tokens) + " tokens"; }

/// Builds the list. The sizes of things depend on the device, because the CPU device runs a few megabytes a second and
/// compiles each variant in a third of a second: there, cases share variants.
class CaseList {
 public:
  CaseList(const Group& group, const ConformanceOptions& options)
      : group_(group),
        options_(options),
        on_cpu_(group.environment().device == "cpu"),
        full_(options.size == ConformanceSize::full) {
    for (const AlgorithmEntry& algorithm : group.catalogue().algorithms()) {
      if (algorithm.exchange) algorithms_.push_back(&algorithm);
    }
  }

  std::vector<ConformanceCase> build() {
    add_plain();
    add_tokens();
    add_hidden_sizes();
    add_fusion();
    add_sentinel_salt();
    add_graphs();
    add_grid_changes();
    add_numerics();
    return std::move(cases_);
  }

 private:
  using Body = std::function<Verification(ConformanceBench&, RunnableCandidate&, Verifier&)>;

  int hidden() const noexcept { return on_cpu_ ? 256 : 1024; }
  int repeats(int on_gpu, int on_cpu) const noexcept { return on_cpu_ ? on_cpu : on_gpu; }

  bool area_wanted(std::string_view area) const {
    return options_.areas.empty() ||
           std::find(options_.areas.begin(), options_.areas.end(), area) != options_.areas.end();
  }
  bool algorithm_wanted(const std::string& backend, const std::string& name) const {
    if (options_.algorithms.empty()) return true;
    return std::any_of(options_.algorithms.begin(), options_.algorithms.end(), [&](const std::string& wanted) {
      return wanted == name || wanted == backend || wanted == backend + "/" + name;
    });
  }

  CaseResult describe(std::string_view area, const ProblemFamily& family, std::string detail) const {
    CaseResult result;
    result.area = area;
    result.pattern = family.pattern;
    result.dtype = family.dtype;
    result.world = group_.size();
    result.hidden = family.hidden;
    result.tokens = family.max_tokens;
    result.detail = std::move(detail);
    return result;
  }

  /// Candidates of one algorithm, or why there are none.
  std::vector<CandidateSpec> specs_of(const AlgorithmEntry& algorithm, const ProblemFamily& family,
                                      std::string* reason) const {
    std::vector<Excluded> excluded;
    std::vector<CandidateSpec> specs = enumerate_candidates(group_, family, {}, &excluded);
    std::erase_if(specs, [&](const CandidateSpec& spec) {
      return spec.backend() != algorithm.backend || spec.algorithm() != algorithm.name || spec.epilogue;
    });
    if (!specs.empty() || reason == nullptr) return specs;
    *reason = "the catalogue has no variant for this shape";
    for (const Excluded& item : excluded) {
      if (item.variant.backend == algorithm.backend && item.variant.algorithm == algorithm.name) *reason = item.reason;
    }
    return specs;
  }

  void add(std::string_view area, const AlgorithmEntry& algorithm, const ProblemFamily& family, std::string detail,
           const Body& body) {
    if (!area_wanted(area) || !algorithm_wanted(std::string(to_string(algorithm.backend)), algorithm.name)) return;
    std::string reason;
    const std::vector<CandidateSpec> specs = specs_of(algorithm, family, &reason);
    if (specs.empty()) {
      // A flat message has no rows to spread over a cluster: not a gap in what was tested, so not listed.
      if (family.pattern == plain) return;
      CaseResult result = describe(area, family, std::move(detail));
      result.backend = algorithm.backend;
      result.algorithm = algorithm.name;
      cases_.push_back({std::move(result), reason, {}});
      return;
    }
    add_candidate(area, specs.front(), family, std::move(detail), body);
  }

  void add_candidate(std::string_view area, const CandidateSpec& spec, const ProblemFamily& family, std::string detail,
                     const Body& body) {
    CaseResult result = describe(area, family, std::move(detail));
    result.backend = spec.backend();
    result.algorithm = spec.algorithm();
    result.candidate = spec.name();
    cases_.push_back({std::move(result), "", [spec, family, body](ConformanceBench& bench) {
                        RunnableCandidate& candidate = bench.candidate(spec, family);
                        return body(bench, candidate, bench.verifier(family));
                      }});
  }

  ProblemFamily family(std::string_view pattern, Dtype dtype, int hidden, std::int64_t max_tokens) const {
    return {std::string(pattern), dtype, hidden, max_tokens, Mode::graph};
  }

  // --- plain: every algorithm x dtype x count, in place or not, shifted by a vector or not -------------------------

  void add_plain() {
    std::vector<std::int64_t> counts{8, 512, 4096, 65544, 1 << 20};
    if (full_) counts.push_back((1 << 24) + 8);
    for (const AlgorithmEntry* algorithm : algorithms_) {
      for (const Dtype dtype : dtypes) {
        for (const std::int64_t count : counts) {
          if (on_cpu_ && !full_ && count > 65544 && dtype != Dtype::bf16) continue;
          add("plain", *algorithm, family(plain, dtype, 8, count / 8), "in place and not, shifted and not",
              plain_body(count / 8));
        }
      }
    }
    if (full_ && !on_cpu_) add_every_variant();
    add_nccl();
    add_odd_counts();
  }

  static Body plain_body(std::int64_t tokens) {
    return [tokens](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
      Series series{bench, verifier, {}};
      const bool large = tokens > 8192;
      for (const bool in_place : {false, true}) {
        for (const std::size_t shift : {std::size_t{0}, std::size_t{1}}) {
          if (large && shift != (in_place ? 1U : 0U)) continue;
          VerifyRequest request;
          request.tokens = tokens;
          request.in_place = in_place;
          request.shift_vectors = shift;
          const std::string what =
              std::string(in_place ? "in place" : "out of place") + (shift != 0 ? ", shifted" : "");
          if (!series.check(subject_of(candidate), request, what)) return series.verdict;
        }
      }
      return series.verdict;
    };
  }

  /// Every kernel and launch shape that the tuner might pick, once.
  void add_every_variant() {
    for (const std::string_view pattern : {plain, fused}) {
      for (const AlgorithmEntry* algorithm : algorithms_) {
        if (!area_wanted("plain") || !algorithm_wanted(std::string(to_string(algorithm->backend)), algorithm->name)) {
          continue;
        }
        const ProblemFamily shape = family(pattern, Dtype::bf16, 8192, 67);
        for (const CandidateSpec& spec : specs_of(*algorithm, shape, nullptr)) {
          add_candidate("plain", spec, shape, "every variant", at_tokens({1, 67}));
        }
      }
    }
  }

  static Body at_tokens(std::vector<std::int64_t> list) {
    return [list = std::move(list)](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
      Series series{bench, verifier, {}};
      for (const std::int64_t tokens : list) {
        VerifyRequest request;
        request.tokens = tokens;
        if (!series.check(subject_of(candidate), request, tokens_text(tokens))) break;
      }
      return series.verdict;
    };
  }

  void add_nccl() {
    if (!area_wanted("plain") || !algorithm_wanted("nccl", "classic")) return;
    for (const Dtype dtype : dtypes) {
      const ProblemFamily shape = family(plain, dtype, hidden(), 64);
      CaseResult result = describe("plain", shape, "against float64");
      result.backend = Backend::nccl;
      result.algorithm = "classic";
      CandidateSpec spec;
      spec.nccl = "classic";
      result.candidate = spec.name();
      cases_.push_back({std::move(result), group_.nccl_reason(), [spec, shape](ConformanceBench& bench) {
                          RunnableCandidate& candidate = bench.candidate(spec, shape);
                          return bench.verifier(shape).verify_before_timing(subject_of(candidate), 64);
                        }});
    }
  }

  /// Counts that are no whole number of vectors: NCCL serves them, through the communicator.
  void add_odd_counts() {
    if (!area_wanted("plain") || !options_.algorithms.empty()) return;
    for (const std::int64_t count : {1, 7, 511, 65537}) {
      const ProblemFamily shape = family(plain, Dtype::bf16, 8, count / 8 + 1);
      CaseResult result = describe("plain", shape, "count " + std::to_string(count));
      const std::string reason = group_.nccl_reason();
      cases_.push_back({std::move(result), reason.empty() ? "" : "an odd count needs NCCL: " + reason,
                        [shape, count](ConformanceBench& bench) { return odd_count(bench, shape, count); }});
    }
  }

  static Verification odd_count(ConformanceBench& bench, const ProblemFamily& shape, std::int64_t count) {
    Communicator& communicator = bench.communicator({shape});
    // The verifier compares whole vectors, so the elements behind `count` are copied from the input of a second call.
    Subject subject{"auto", Numerics::nccl, {}, [&] { communicator.check(); }};
    subject.enqueue = [&](const Call& call, StreamHandle stream) {
      const std::size_t split = static_cast<std::size_t>(count) * element_bytes(call.dtype);
      const std::int64_t rest = call.tokens * call.hidden - count;
      communicator.all_reduce(call.input, call.output, count, call.dtype, stream);
      communicator.all_reduce(static_cast<const char*>(call.input) + split, static_cast<char*>(call.output) + split,
                              rest, call.dtype, stream);
    };
    VerifyRequest request;
    request.tokens = shape.max_tokens;
    request.content = Content::integers;
    return bench.verifier(shape).verify(subject, request);
  }

  // --- tokens: lists on one communicator, then shrinking and growing again ----------------------------------------

  void add_tokens() {
    std::vector<std::int64_t> list{1, 4, 15, 27, 11, 24, 256, 127, 998, 2048, 256, 1, 2048, 15};
    if (on_cpu_ && !full_) std::erase_if(list, [](std::int64_t tokens) { return tokens > 256; });
    const std::int64_t most = *std::max_element(list.begin(), list.end());
    for (const std::string_view pattern : {plain, fused}) {
      for (const AlgorithmEntry* algorithm : algorithms_) {
        add("tokens", *algorithm, family(pattern, Dtype::bf16, hidden(), most), "one workspace, many sizes",
            at_tokens(list));
      }
      if (area_wanted("tokens") && options_.algorithms.empty()) add_communicator_tokens(pattern, list, most);
    }
  }

  void add_communicator_tokens(std::string_view pattern, const std::vector<std::int64_t>& list, std::int64_t most) {
    const ProblemFamily shape = family(pattern, Dtype::bf16, hidden(), most);
    cases_.push_back(
        {describe("tokens", shape, "communicator, built-in choice"), "", [shape, list](ConformanceBench& bench) {
           Communicator& communicator = bench.communicator({shape});
           Series series{bench, bench.verifier(shape), {}};
           for (const std::int64_t tokens : list) {
             const Problem problem{shape.pattern,        shape.dtype, shape.hidden, tokens,
                                   bench.group().size(), Mode::graph, false};
             const Candidate chosen = communicator.explain(problem).candidate;
             const Subject subject{chosen.name, chosen.numerics,
                                   [&](const Call& call, StreamHandle stream) { communicator.run(call, stream); },
                                   [&] { communicator.check(); }};
             VerifyRequest request;
             request.tokens = tokens;
             const bool strict = chosen.numerics == Numerics::rank_order_fp32;
             request.content = strict ? Content::mixed : Content::integers;
             if (!series.check(subject, request, tokens_text(tokens) + " with " + chosen.name)) break;
           }
           return series.verdict;
         }});
  }

  // --- hidden sizes: each at least once; algorithms take turns unless all are asked for ----------------------------

  void add_hidden_sizes() {
    std::vector<int> sizes{1024, 2880, 5120, 7168, 8200, 16384};
    if (full_) sizes = {8, 24, 1000, 1024, 2048, 2880, 3072, 4096, 5120, 6144, 7168, 8192, 8200, 12288, 15368, 16384};
    std::size_t turn = 0;
    for (const int size : sizes) {
      const bool all = full_ && !on_cpu_;
      const Dtype its_dtype = dtypes[turn % 3];
      const AlgorithmEntry* its_algorithm = next_that_fits(family(fused, its_dtype, size, 5), turn);
      for (const AlgorithmEntry* algorithm : algorithms_) {
        if (!all && options_.algorithms.empty() && algorithm != its_algorithm) continue;
        for (const Dtype dtype : dtypes) {
          if (all || dtype == its_dtype) {
            add("hidden sizes", *algorithm, family(fused, dtype, size, 5), "", at_tokens({1, 5}));
          }
        }
      }
      ++turn;
    }
  }

  /// The algorithm whose turn it is, or the next one that has a kernel for this shape whose cluster fits the CPU device
  /// (4 blocks at once): every size must be run by some algorithm.
  const AlgorithmEntry* next_that_fits(const ProblemFamily& shape, std::size_t turn) const {
    for (std::size_t i = 0; i < algorithms_.size(); ++i) {
      const AlgorithmEntry* algorithm = algorithms_[(turn + i) % algorithms_.size()];
      const std::vector<CandidateSpec> specs = specs_of(*algorithm, shape, nullptr);
      if (specs.empty()) continue;
      const auto cluster = specs.front().kernel->parameters.find("cluster");
      if (!on_cpu_ || cluster == specs.front().kernel->parameters.end() || cluster->second <= 4) return algorithm;
    }
    return algorithms_[turn % algorithms_.size()];
  }

  // --- fusion: every fused pattern, weight bias, epsilon, in place; fused, and plain followed by the epilogue -------

  void add_fusion() {
    for (const std::string& pattern : group_.catalogue().usual_patterns()) {
      if (pattern == plain) continue;
      for (const AlgorithmEntry* algorithm : algorithms_) {
        for (const Dtype dtype : dtypes) {
          if (!full_ && dtype != Dtype::bf16 && algorithm != algorithms_.front()) continue;
          add("fusion", *algorithm, family(pattern, dtype, hidden(), 17),
              "epsilon 1e-5 and 1e-6, weight bias 0 and 1, in place and not", fusion_body());
        }
      }
      add_unfused(pattern);
    }
  }

  static Body fusion_body() {
    return [](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
      Series series{bench, verifier, {}};
      for (const float epsilon : {1e-5F, 1e-6F}) {
        for (const float weight_bias : {0.0F, 1.0F}) {
          for (const bool in_place : {false, true}) {
            VerifyRequest request;
            request.tokens = 17;
            request.epsilon = epsilon;
            request.weight_bias = weight_bias;
            request.in_place = in_place;
            const std::string what = std::string(epsilon > 5e-6F ? "epsilon 1e-5" : "epsilon 1e-6") +
                                     (weight_bias > 0 ? ", weight bias 1" : "") + (in_place ? ", in place" : "");
            if (!series.check(subject_of(candidate), request, what)) return series.verdict;
          }
        }
      }
      return series.verdict;
    };
  }

  /// A plain allreduce with the stand-alone epilogue behind it, which may start early.
  void add_unfused(const std::string& pattern) {
    if (!area_wanted("fusion")) return;
    const ProblemFamily shape = family(pattern, Dtype::bf16, hidden(), 17);
    for (const AlgorithmEntry* algorithm : algorithms_) {
      if (!algorithm_wanted(std::string(to_string(algorithm->backend)), algorithm->name)) continue;
      const std::vector<CandidateSpec> exchange =
          specs_of(*algorithm, family(plain, Dtype::bf16, hidden(), 17), nullptr);
      if (exchange.empty()) continue;
      for (const CandidateSpec& spec : enumerate_candidates(group_, shape, {exchange.data(), 1})) {
        if (!spec.epilogue || !spec.kernel) continue;
        add_candidate("fusion", spec, shape, "plain, then the stand-alone epilogue", fusion_body());
        break;
      }
    }
  }

  // --- sentinel salt: values that look like "nothing has arrived", infinities and NaNs ------------------------------

  void add_sentinel_salt() {
    for (const std::string_view pattern : {plain, fused}) {
      for (const AlgorithmEntry* algorithm : algorithms_) {
        for (const Dtype dtype : dtypes) {
          if (!full_ && pattern == fused && dtype != Dtype::bf16) continue;
          const std::uint64_t seed = options_.seed;
          add("sentinel salt", *algorithm, family(pattern, dtype, hidden(), 37), "special values, 3 seeds",
              [seed](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
                Series series{bench, verifier, {}};
                for (std::uint64_t i = 0; i < 3; ++i) {
                  VerifyRequest request;
                  request.tokens = 37;
                  request.content = Content::special;
                  request.seed = seed * 1000 + i;
                  if (!series.check(subject_of(candidate), request, "seed " + std::to_string(request.seed))) break;
                }
                return series.verdict;
              });
        }
      }
    }
  }

  // --- graphs -------------------------------------------------------------------------------------------------------

  void add_graphs() {
    const int replays = repeats(1000, full_ ? 100 : 20);
    for (const std::string_view pattern : {plain, fused}) {
      for (const AlgorithmEntry* algorithm : algorithms_) {
        const ProblemFamily shape = family(pattern, Dtype::bf16, hidden(), 16);
        add("graphs", *algorithm, shape,
            "capture once on one stream, replay " + std::to_string(replays) + " times on another",
            [replays](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
              return replayed(bench, candidate, verifier, replays);
            });
        add("graphs", *algorithm, shape, "two graphs of different shapes in turn, with direct calls between",
            [replays](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
              return alternating(bench, candidate, verifier, replays / 4);
            });
      }
    }
  }

  static std::unique_ptr<Graph> capture(Device& device, RunnableCandidate& candidate, const Call& call,
                                        StreamHandle stream) {
    device.begin_capture(stream);
    candidate.enqueue(call, stream);
    return device.end_capture(stream);
  }

  static Verification replayed(ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier, int replays) {
    Device& device = bench.group().device();
    const Stream other(device);
    std::unique_ptr<Graph> graph;
    Subject subject = subject_of(candidate);
    subject.enqueue = [&](const Call& call, StreamHandle stream) {
      graph = capture(device, candidate, call, other);
      bench.group().bootstrap().barrier();  // instantiating a graph may wait for a device that ranks share
      for (int i = 0; i < replays; ++i) graph->launch(stream);
    };
    VerifyRequest request;
    request.tokens = 16;
    return verifier.verify(subject, request);
  }

  static Verification alternating(ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier,
                                  int rounds) {
    Device& device = bench.group().device();
    std::unique_ptr<Graph> whole, part;
    Subject subject = subject_of(candidate);
    subject.enqueue = [&](const Call& call, StreamHandle stream) {
      Call smaller = call;
      smaller.tokens = 3;
      Call single = call;
      single.tokens = 1;
      whole = capture(device, candidate, call, stream);
      part = capture(device, candidate, smaller, stream);
      bench.group().bootstrap().barrier();
      for (int i = 0; i < rounds; ++i) {
        part->launch(stream);
        candidate.enqueue(single, stream);
        whole->launch(stream);
        candidate.enqueue(smaller, stream);
      }
      whole->launch(stream);
    };
    VerifyRequest request;
    request.tokens = 16;
    return verifier.verify(subject, request);
  }

  // --- grid changes: other grids and algorithms from call to call ---------------------------------------------------

  void add_grid_changes() {
    if (!area_wanted("grid changes") || !options_.algorithms.empty()) return;
    const int calls = repeats(400, full_ ? 80 : 24);
    for (const std::string_view pattern : {plain, fused}) {
      const ProblemFamily shape = family(pattern, Dtype::bf16, hidden(), 64);
      std::vector<CandidateSpec> specs;
      for (const AlgorithmEntry* algorithm : algorithms_) {
        // The first kernel of each algorithm with several grid limits, and its last kernel.
        const std::vector<CandidateSpec> all = specs_of(*algorithm, shape, nullptr);
        std::size_t taken = 0;
        for (const CandidateSpec& spec : all) {
          if (spec.kernel == all.front().kernel && taken++ < 3) specs.push_back(spec);
        }
        if (!all.empty() && !on_cpu_ && !(all.back().kernel == all.front().kernel)) specs.push_back(all.back());
      }
      if (specs.empty()) continue;
      const std::uint64_t seed = options_.seed;
      cases_.push_back({describe("grid changes", shape,
                                 std::to_string(calls) + " calls, " + std::to_string(specs.size()) +
                                     " candidates and sizes 1 to 64 at random"),
                        "", [shape, specs, calls, seed](ConformanceBench& bench) {
                          return changing_grids(bench, shape, specs, calls, seed);
                        }});
    }
  }

  static Verification changing_grids(ConformanceBench& bench, const ProblemFamily& shape,
                                     const std::vector<CandidateSpec>& specs, int calls, std::uint64_t seed) {
    Series series{bench, bench.verifier(shape), {}};
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
      if (!series.check(subject, request, "burst " + std::to_string(i) + " ending in " + subject.name)) break;
    }
    return series.verdict;
  }

  // --- numerics -----------------------------------------------------------------------------------------------------

  void add_numerics() {
    for (const std::string_view pattern : {plain, fused}) {
      for (const AlgorithmEntry* algorithm : algorithms_) {
        for (const Dtype dtype : dtypes) {
          if (!full_ && pattern == fused && dtype != Dtype::bf16) continue;
          const ProblemFamily shape = family(pattern, dtype, hidden(), 37);
          add("numerics", *algorithm, shape, "sums that depend on their order",
              [](auto& bench, auto& candidate, auto& verifier) {
                Series series{bench, verifier, {}};
                VerifyRequest request;
                request.tokens = 37;
                request.content = Content::cancellation;
                series.check(subject_of(candidate), request, "2^24, 1, -2^24, 1");
                return series.verdict;
              });
        }
        // A row's bits do not depend on the other rows: every batch is compared with the same reference rows.
        add("numerics", *algorithm, family(pattern, Dtype::bf16, hidden(), 37), "a row alone and in any batch",
            at_tokens({1, 2, 3, 8, 37}));
        const int repeats_wanted = repeats(1000, full_ ? 100 : 20);
        add("numerics", *algorithm, family(pattern, Dtype::bf16, hidden(), 9),
            std::to_string(repeats_wanted) + " repeats are identical",
            [repeats_wanted](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
              Series series{bench, verifier, {}};
              for (int i = 0; i < repeats_wanted; ++i) {
                VerifyRequest request;
                request.tokens = 9;
                if (!series.check(subject_of(candidate), request, "repeat " + std::to_string(i))) break;
              }
              return series.verdict;
            });
      }
    }
  }

  const Group& group_;
  const ConformanceOptions& options_;
  bool on_cpu_;
  bool full_;
  std::vector<const AlgorithmEntry*> algorithms_;
  std::vector<ConformanceCase> cases_;
};

}  // namespace

std::vector<ConformanceCase> conformance_cases(const Group& group, const ConformanceOptions& options) {
  return CaseList(group, options).build();
}

}  // namespace arbiter::tuning
