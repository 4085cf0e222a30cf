#include "conformance/case_list.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace arbiter::tuning {

bool Series::check(const Subject& subject, const VerifyRequest& request, const std::string& what) {
  const auto ask = [&](Content content) {
    VerifyRequest asked = request;
    asked.content = content;
    verdict = verifier.verify(subject, asked);
    if (!verdict.ok()) verdict.reason = what + ": " + verdict.reason;
    return verdict.ok();
  };
  if (is_known_exactly(subject.numerics) || request.content == Content::integers) {
    return ask(request.content);
  }
  return ask(Content::integers) && ask(Content::random);
}

std::string tokens_text(std::int64_t tokens) { return fmt::format("{} tokens", tokens); }

CaseList::CaseList(const Group& group, const ConformanceOptions& options)
    : group_(group), options_(options), on_cpu_(group.environment().device == "cpu") {
  for (const AlgorithmEntry& algorithm : group.catalogue().algorithms()) {
    if (algorithm.exchange) algorithms_.push_back(&algorithm);
  }
}

bool CaseList::area_wanted(std::string_view area) const {
  return options_.areas.empty() ||
         std::find(options_.areas.begin(), options_.areas.end(), area) != options_.areas.end();
}

bool CaseList::algorithm_wanted(const std::string& backend, const std::string& name) const {
  if (options_.algorithms.empty()) return true;
  return std::any_of(options_.algorithms.begin(), options_.algorithms.end(), [&](const std::string& wanted) {
    return wanted == name || wanted == backend || wanted == backend + "/" + name;
  });
}

ProblemFamily CaseList::family(std::string_view pattern, Dtype dtype, int hidden, std::int64_t max_tokens) const {
  return {std::string(pattern), dtype, hidden, max_tokens, Mode::graph};
}

CaseResult CaseList::describe(std::string_view area, const ProblemFamily& family, std::string detail) const {
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

std::vector<CandidateSpec> CaseList::specs_of(const AlgorithmEntry& algorithm, const ProblemFamily& family,
                                              Absence* why) const {
  std::vector<Excluded> excluded;
  std::vector<CandidateSpec> specs = enumerate_candidates(group_.capabilities(), family, {}, &excluded);
  std::erase_if(specs, [&](const CandidateSpec& spec) {
    return spec.backend() != algorithm.backend || spec.algorithm() != algorithm.name || !spec.fused();
  });
  if (!specs.empty() || why == nullptr) return specs;
  why->reason = "the catalogue has no variant for this shape";
  for (const Excluded& item : excluded) {
    if (item.variant.backend == algorithm.backend && item.variant.algorithm == algorithm.name) {
      why->reason = item.reason;
    }
  }
  if (on_cpu_) return specs;
  TargetLimits cpu;
  cpu.capabilities = algorithm.capabilities;
  const Enumeration there =
      enumerate(group_.catalogue(), family.pattern, family.dtype, group_.size(), family.hidden, cpu, algorithm.backend);
  why->cpu_only = std::any_of(there.variants.begin(), there.variants.end(),
                              [&](const Variant& variant) { return variant.algorithm == algorithm.name; });
  return specs;
}

const AlgorithmEntry& CaseList::next_that_fits(const ProblemFamily& shape, std::size_t turn) const {
  for (std::size_t i = 0; i < algorithms_.size(); ++i) {
    const AlgorithmEntry& algorithm = *algorithms_[(turn + i) % algorithms_.size()];
    if (!algorithm_wanted(algorithm)) continue;
    const std::vector<CandidateSpec> specs = specs_of(algorithm, shape);
    if (specs.empty()) continue;
    const auto cluster = specs.front().kernel->parameters.find("cluster");
    if (!on_cpu_ || cluster == specs.front().kernel->parameters.end() || cluster->second <= 4) return algorithm;
  }
  return *algorithms_[turn % algorithms_.size()];
}

const CandidateSpec* CaseList::other_form(const AlgorithmEntry& algorithm, const std::vector<CandidateSpec>& specs) {
  for (const Axis& axis : algorithm.axes) {
    if (axis.capability.empty()) continue;
    for (const CandidateSpec& spec : specs) {
      if (spec.kernel->parameter(axis.name) != 0) return &spec;
    }
  }
  return nullptr;
}

void CaseList::add(std::string_view area, const AlgorithmEntry& algorithm, const ProblemFamily& family,
                   std::string detail, const Body& body) {
  if (!area_wanted(area) || !algorithm_wanted(algorithm)) return;
  Absence why;
  const std::vector<CandidateSpec> specs = specs_of(algorithm, family, &why);
  if (!specs.empty()) {
    add_candidate(area, specs.front(), family, detail, body);
    const CandidateSpec* other = other_form(algorithm, specs);
    if (other != nullptr && (!on_cpu_ || family.dtype == Dtype::bf16)) {
      add_candidate(area, *other, family, std::move(detail), body);
    }
    return;
  }
  // A flat message has no rows to spread over a cluster: not a gap in what was tested, so not listed.
  if (family.pattern == plain_pattern && !why.cpu_only) return;
  CaseResult result = describe(area, family, std::move(detail));
  result.backend = algorithm.backend;
  result.algorithm = algorithm.name;
  result.cpu_only = why.cpu_only;
  add_case(std::move(result), why.reason, {});
}

void CaseList::add_candidate(std::string_view area, const CandidateSpec& spec, const ProblemFamily& family,
                             std::string detail, Body body) {
  CaseResult result = describe(area, family, std::move(detail));
  result.backend = spec.backend();
  result.algorithm = spec.algorithm();
  result.candidate = spec.name();
  add_case(std::move(result), "", [spec, family, body = std::move(body)](ConformanceBench& bench) {
    RunnableCandidate& candidate = bench.candidate(spec, family);
    return body(bench, candidate, bench.verifier(family));
  });
  cases_.back().needs = spec;
}

void CaseList::add_case(CaseResult description, std::string impossible,
                        std::function<Verification(ConformanceBench&)> run) {
  cases_.push_back({std::move(description), std::move(impossible), std::move(run), std::nullopt});
}

CaseList::Body CaseList::at_tokens(std::vector<std::int64_t> list) {
  return [list = std::move(list)](ConformanceBench& bench, RunnableCandidate& candidate, Verifier& verifier) {
    Series series{bench, verifier};
    for (const std::int64_t tokens : list) {
      VerifyRequest request;
      request.tokens = tokens;
      if (!series.check(subject_of(candidate), request, tokens_text(tokens))) break;
    }
    return series.verdict;
  };
}

}  // namespace arbiter::tuning
