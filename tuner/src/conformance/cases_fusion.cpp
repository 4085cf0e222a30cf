// The fusion space: prologues, residual, norms and quantisations in combination, each with and without its optional
// outputs; group sizes; shapes of mixture-of-experts inputs.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "conformance/case_list.hpp"
#include "conformance/pairwise.hpp"

namespace arbiter::tuning {
namespace {

/// Choices for each part of a pattern's name, from the catalogue: a new part is met without being listed here.
struct FusionSpace {
  std::vector<std::string> prologues{""};
  std::vector<std::string> residuals{"", "_residual"};
  std::vector<std::string> norms{""};
  std::vector<std::string> quantisations{""};

  explicit FusionSpace(const Catalogue& catalogue, int hidden) {
    std::size_t turn = 0;
    for (const PartEntry& part : catalogue.parts()) {
      if (part.kind == PartKind::prologue) prologues.push_back(part.name + "_");
      if (part.kind == PartKind::norm) norms.push_back("_" + part.name);
      if (part.kind == PartKind::quantisation) quantisations.push_back("_" + with_group(part, hidden, turn));
    }
  }

  /// A group that divides the hidden size in place of "{group}".
  static std::string with_group(const PartEntry& part, int hidden, std::size_t& turn) {
    const std::size_t at = part.name.find("{" + part.parameter + "}");
    if (part.parameter.empty() || at == std::string::npos) return part.name;
    constexpr int groups[] = {128, 32, 64};
    int group = groups[turn++ % std::size(groups)];
    while (hidden % group != 0) group /= 2;
    return std::string(part.name).replace(at, part.parameter.size() + 2, std::to_string(group));
  }

  std::string pattern(std::size_t prologue, std::size_t residual, std::size_t norm, std::size_t quantisation) const {
    return prologues[prologue] + std::string(plain_pattern) + residuals[residual] + norms[norm] +
           quantisations[quantisation];
  }
};

std::string text_of(TensorSet without, const Pattern& pattern) {
  std::string text;
  for (std::size_t i = 0; i < tensor_count; ++i) {
    const auto tensor = static_cast<Tensor>(i);
    if (without.has(tensor) && pattern.uses(tensor)) text += ", without " + std::string(to_string(tensor));
  }
  return text;
}

/// Every request that a fused pattern is asked, with what to call it.
std::vector<std::pair<VerifyRequest, std::string>> fusion_requests(const Pattern& pattern, bool thorough) {
  std::vector<std::pair<VerifyRequest, std::string>> requests;
  VerifyRequest base;
  base.tokens = 17;
  const auto ask = [&](const std::string& what, const auto& change) {
    VerifyRequest request = base;
    change(request);
    requests.emplace_back(request, what);
  };
  ask("all outputs", [](VerifyRequest& request) { request.calls = 2; });
  const TensorSet optional = optional_outputs(pattern);
  for (TensorSet without = optional; !without.empty(); without = without.previous_subset(optional)) {
    ask("all inputs" + text_of(without, pattern), [&](VerifyRequest& request) { request.without = without; });
  }
  ask("in place, shifted", [](VerifyRequest& request) {
    request.in_place = true;
    request.shift_vectors = 1;
  });
  if (pattern.uses(Tensor::gamma)) {
    for (const bool gamma_fp32 : {false, true}) {
      for (const float epsilon : {1e-5F, 1e-6F}) {
        for (const float weight_bias : {0.0F, 1.0F}) {
          // A quick run takes two of the four for each type of gamma.
          if (!thorough && (epsilon > 5e-6F) != ((weight_bias > 0) != gamma_fp32)) continue;
          ask(std::string(epsilon > 5e-6F ? "epsilon 1e-5" : "epsilon 1e-6") +
                  (weight_bias > 0 ? ", weight bias 1" : "") + (gamma_fp32 ? ", gamma in fp32" : ""),
              [&](VerifyRequest& request) {
                request.gamma_fp32 = gamma_fp32;
                request.epsilon = epsilon;
                request.weight_bias = weight_bias;
              });
        }
      }
    }
  }
  if (pattern.has(PartKind::quantisation)) {
    ask("zeros and huge values", [](VerifyRequest& request) { request.content = Content::extremes; });
    ask("infinities and NaNs", [](VerifyRequest& request) { request.content = Content::special; });
    ask("one token", [](VerifyRequest& request) { request.tokens = 1; });
    ask("more rows than a tile of scales", [](VerifyRequest& request) { request.tokens = 131; });
  }
  if (pattern.has(PartKind::prologue)) {
    ask("one part, nothing shared", [](VerifyRequest& request) { request.moe = {1, 1, false, true}; });
    ask("weights in the activation dtype", [](VerifyRequest& request) { request.moe = {16, 8, true, false}; });
  }
  return requests;
}

CaseList::Body fusion_body(const Pattern& pattern, bool thorough) {
  return [pattern, thorough](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
    Series series{bench, verifier};
    for (const auto& [request, what] : fusion_requests(pattern, thorough)) {
      if (!series.check(subject_of(candidate), request, what)) break;
    }
    return series.verdict;
  };
}

constexpr std::int64_t most_tokens = 131;

class FusionCases {
 public:
  explicit FusionCases(CaseList& list) : list_(list), space_(list.group().catalogue(), list.hidden()) {
    for (const AlgorithmEntry* algorithm : list.algorithms()) {
      if (list.algorithm_wanted(*algorithm)) algorithms_.push_back(algorithm);
    }
  }

  void add() {
    if (!list_.area_wanted("fusion") && !list_.area_wanted("quantisation")) return;
    // Two ranks meet every pair of choices, each algorithm with each quantisation among them; more ranks each choice.
    const bool pairs = list_.full() || !list_.on_cpu() || list_.group().size() == 2;
    const std::vector<std::size_t> sizes = axis_sizes(algorithms_.size());
    const auto possible = [this](const Choice& row) { return possible_row(row); };
    for (const Choice& row : pairs ? covering_pairs(sizes, possible) : covering_each(sizes, possible)) {
      add_fused(row, *algorithms_[row[algorithm_axis]]);
    }
    if (list_.full()) add_product();
    add_unfused(pairs);
  }

 private:
  enum Axis : std::size_t { algorithm_axis, prologue_axis, residual_axis, norm_axis, quantisation_axis, dtype_axis };

  std::vector<std::size_t> axis_sizes(std::size_t algorithms) const {
    return {algorithms,          space_.prologues.size(),     space_.residuals.size(),
            space_.norms.size(), space_.quantisations.size(), std::size(all_dtypes)};
  }

  std::string pattern_of(const Choice& row) const {
    return space_.pattern(row[prologue_axis], row[residual_axis], row[norm_axis], row[quantisation_axis]);
  }
  const Pattern& pattern_named(const std::string& name) {
    const auto found = patterns_.find(name);
    return found != patterns_.end() ? found->second
                                    : patterns_.emplace(name, list_.group().catalogue().pattern(name)).first->second;
  }

  bool possible_row(const Choice& row) {
    const std::string name = pattern_of(row);
    return name != plain_pattern && !impossible(pattern_named(name), all_dtypes[row[dtype_axis]], list_.hidden());
  }

  static std::string_view area_of(const Pattern& pattern) {
    return pattern.has(PartKind::quantisation) ? "quantisation" : "fusion";
  }

  void add_fused(const Choice& row, const AlgorithmEntry& algorithm) {
    const Pattern& pattern = pattern_named(pattern_of(row));
    list_.add(area_of(pattern), algorithm,
              list_.family(pattern.name, all_dtypes[row[dtype_axis]], list_.hidden(), most_tokens),
              "all ways to call it", fusion_body(pattern, list_.full()));
  }

  /// Every pattern in every dtype, the algorithms in turn.
  void add_product() {
    std::size_t turn = 0;
    for (const Choice& row : all_choices(axis_sizes(1), [this](const Choice& each) { return possible_row(each); })) {
      const ProblemFamily shape =
          list_.family(pattern_of(row), all_dtypes[row[dtype_axis]], list_.hidden(), most_tokens);
      add_fused(row, list_.next_that_fits(shape, turn++));
    }
  }

  /// A plain allreduce, or NCCL, with the stand-alone kernels around it.
  void add_unfused(bool pairs) {
    if (algorithms_.empty()) return;
    const std::vector<std::size_t> sizes = axis_sizes(1);
    const auto possible = [this](const Choice& row) { return possible_row(row); };
    std::size_t turn = 0;
    for (const Choice& row : pairs ? covering_pairs(sizes, possible) : covering_each(sizes, possible)) {
      const Pattern& pattern = pattern_named(pattern_of(row));
      const Dtype dtype = all_dtypes[row[dtype_axis]];
      const ProblemFamily plain = list_.family(plain_pattern, dtype, list_.hidden(), most_tokens);
      const std::vector<CandidateSpec> exchange = list_.specs_of(list_.next_that_fits(plain, turn++), plain);
      if (exchange.empty() || !list_.area_wanted(area_of(pattern))) continue;
      add_unfused(pattern, list_.family(pattern.name, dtype, list_.hidden(), most_tokens), exchange.front());
    }
  }

  void add_unfused(const Pattern& pattern, const ProblemFamily& shape, const CandidateSpec& exchange) {
    bool kernel = false, nccl = false;
    for (const CandidateSpec& spec : enumerate_candidates(list_.group().capabilities(), shape, {&exchange, 1})) {
      bool& taken = spec.kernel ? kernel : nccl;
      if (spec.fused() || taken) continue;
      taken = true;
      list_.add_candidate(area_of(pattern), spec, shape, "unfused, all ways to call it",
                          fusion_body(pattern, list_.full()));
    }
  }

  CaseList& list_;
  FusionSpace space_;
  std::vector<const AlgorithmEntry*> algorithms_;
  std::map<std::string, Pattern> patterns_;
};

CaseList::Body moe_body(const std::vector<MoeShape>& shapes) {
  return [shapes](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
    Series series{bench, verifier};
    for (const MoeShape& shape : shapes) {
      for (const std::int64_t tokens : {std::int64_t{1}, std::int64_t{23}}) {
        VerifyRequest request;
        request.tokens = tokens;
        request.moe = shape;
        request.calls = 2;
        const std::string what =
            fmt::format("{} experts or {} choices, {}{}, {}", shape.experts, shape.top_k,
                        (shape.shared ? "shared output" : "nothing shared"),
                        (shape.weights_fp32 ? "" : ", weights in the activation dtype"), tokens_text(tokens));
        if (!series.check(subject_of(candidate), request, what)) return series.verdict;
      }
    }
    return series.verdict;
  };
}

}  // namespace

void add_fusion_cases(CaseList& list) { FusionCases(list).add(); }

void add_group_size_cases(CaseList& list) {
  if (!list.area_wanted("group sizes")) return;
  constexpr int hidden = 1536;  // the smallest that all of them divide
  std::size_t turn = 0;
  for (const int group : {3, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512}) {
    for (const char* scales : {"_ue8m0", "_fp32"}) {
      // A quick run on the CPU device gives each size to one of the two.
      if (list.on_cpu() && !list.full() && (turn % 2 == 0) != (scales[1] == 'u')) continue;
      const std::string pattern = fmt::format("{}_residual_rmsnorm_fp8_group{}{}", plain_pattern, group, scales);
      const ProblemFamily shape = list.family(pattern, all_dtypes[turn / 2 % 3], hidden, 7);
      list.add("group sizes", list.next_that_fits(shape, turn), shape, "", CaseList::at_tokens({1, 7}));
    }
    ++turn;
  }
}

void add_moe_cases(CaseList& list) {
  if (!list.area_wanted("moe")) return;
  std::vector<MoeShape> shapes;
  for (const int experts : {1, 2, 3, 8, 16}) shapes.push_back({experts, experts < 4 ? 1 : experts < 16 ? 4 : 8});
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    shapes[i].shared = i % 2 == 0;
    shapes[i].weights_fp32 = i % 3 != 1;
  }
  if (list.full()) {
    shapes.clear();
    for (int experts = 1; experts <= 16; ++experts) {
      for (const bool shared : {false, true})
        shapes.push_back({experts, 1 + (experts - 1) % 8, shared, experts % 3 != 1});
    }
  }
  std::size_t turn = 0;
  for (const PartEntry& part : list.group().catalogue().parts()) {
    if (part.kind != PartKind::prologue) continue;
    for (const AlgorithmEntry* algorithm : list.algorithms()) {
      const std::string_view pattern = turn % 2 == 0 ? plain_pattern : fused_pattern;
      list.add("moe", *algorithm,
               list.family(part.name + "_" + std::string(pattern), all_dtypes[turn % 3], list.hidden(), 23),
               "experts, choices, skipped entries, with and without a shared output", moe_body(shapes));
      ++turn;
    }
  }
}

}  // namespace arbiter::tuning
