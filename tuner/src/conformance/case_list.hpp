// What builds the list of conformance cases: which algorithms there are, what was asked for, and how a case is added.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "conformance/case.hpp"

namespace arbiter::tuning {

/// Verifies one request after another until one is not passed; its reason is told what it was. Requests whose result
/// another numerics class need not give bit for bit are asked of it in two forms: integers, which are exact in every
/// order, and random values.
struct Series {
  ConformanceBench& bench;
  Verifier& verifier;
  Verification verdict = {};

  bool check(const Subject&, const VerifyRequest&, const std::string& what);
};

std::string tokens_text(std::int64_t tokens);

class CaseList {
 public:
  using Body = std::function<Verification(ConformanceBench&, RunnableCandidate&, Verifier&)>;

  CaseList(const Group&, const ConformanceOptions&);

  const Group& group() const noexcept { return group_; }
  const ConformanceOptions& options() const noexcept { return options_; }
  bool full() const noexcept { return options_.size == ConformanceSize::full; }
  /// The CPU device runs a few megabytes a second and compiles each variant in a third of a second: there, cases are
  /// smaller and share variants.
  bool on_cpu() const noexcept { return on_cpu_; }
  int hidden() const noexcept { return on_cpu_ ? 256 : 1024; }
  int repeats(int on_gpu, int on_cpu) const noexcept { return on_cpu_ ? on_cpu : on_gpu; }

  /// Every algorithm that exchanges data.
  const std::vector<const AlgorithmEntry*>& algorithms() const noexcept { return algorithms_; }
  bool area_wanted(std::string_view area) const;
  bool algorithm_wanted(const std::string& backend, const std::string& name) const;
  bool algorithm_wanted(const AlgorithmEntry& algorithm) const {
    return algorithm_wanted(std::string(to_string(algorithm.backend)), algorithm.name);
  }

  ProblemFamily family(std::string_view pattern, Dtype, int hidden, std::int64_t max_tokens) const;
  CaseResult describe(std::string_view area, const ProblemFamily&, std::string detail) const;

  /// Candidates of one algorithm; if there are none and `why` is given, it is filled.
  struct Absence {
    std::string reason;
    bool cpu_only = false;  ///< the CPU device has one
  };
  std::vector<CandidateSpec> specs_of(const AlgorithmEntry&, const ProblemFamily&, Absence* why = nullptr) const;
  /// The algorithm whose turn it is, or the next one that has a kernel for this shape which fits the CPU device's 4
  /// blocks: every shape must be run by some algorithm.
  const AlgorithmEntry& next_that_fits(const ProblemFamily&, std::size_t turn) const;

  /// The first candidate that uses what not every machine has (multicast stores); null if there is none.
  static const CandidateSpec* other_form(const AlgorithmEntry&, const std::vector<CandidateSpec>& specs);

  /// A case of an algorithm's first variant, and one of its other form, or a skipped one that says why there is none.
  void add(std::string_view area, const AlgorithmEntry&, const ProblemFamily&, std::string detail, const Body&);
  void add_candidate(std::string_view area, const CandidateSpec&, const ProblemFamily&, std::string detail, Body);
  void add_case(CaseResult description, std::string impossible, std::function<Verification(ConformanceBench&)> run);

  std::vector<ConformanceCase> take() { return std::move(cases_); }

  static Body at_tokens(std::vector<std::int64_t> list);

 private:
  const Group& group_;
  const ConformanceOptions& options_;
  bool on_cpu_;
  std::vector<const AlgorithmEntry*> algorithms_;
  std::vector<ConformanceCase> cases_;
};

inline constexpr std::string_view plain_pattern = "allreduce";
inline constexpr std::string_view fused_pattern = "allreduce_residual_rmsnorm";
inline constexpr Dtype all_dtypes[] = {Dtype::bf16, Dtype::fp16, Dtype::fp32};

// One function for each file of cases.
void add_plain_cases(CaseList&);
void add_shared_input_cases(CaseList&);
void add_token_cases(CaseList&);
void add_hidden_size_cases(CaseList&);
void add_fusion_cases(CaseList&);
void add_group_size_cases(CaseList&);
void add_sentinel_cases(CaseList&);
void add_moe_cases(CaseList&);
void add_graph_cases(CaseList&);
void add_grid_change_cases(CaseList&);
void add_numerics_cases(CaseList&);
void add_communicator_cases(CaseList&);
void add_cases_of_elsewhere(CaseList&);

}  // namespace arbiter::tuning
