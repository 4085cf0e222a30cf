// One tune from its first problem to its decisions: what is done with the time.
#pragma once

#include <memory>
#include <vector>

#include "tune/compile_ahead.hpp"
#include "tune/family_state.hpp"
#include "tune/ledger.hpp"
#include "tune/problem_tuner.hpp"
#include "tune/schedule.hpp"
#include "tune/watchdog.hpp"

namespace arbiter::tuning {

class TuneRun {
 public:
  TuneRun(Group&, const TuneOptions&, std::vector<std::unique_ptr<FamilyState>>, ProgressSink*);
  TuneResult run();

 private:
  void compile_first_kernels();
  void measure_grid();
  void search_on();
  void bisect();
  bool learn_from_neighbours();
  void settle_close_calls();
  std::vector<Decision> decide_all();

  std::string why_undecided(const FamilyState&) const;

  /// What wins nearby and was never tried at this size of a family.
  bool has_untried_neighbour(const FamilyState&, std::span<const SizeWinner>, std::size_t at) const;

  bool should_stop();
  bool time_for_another();
  void report(const std::string& candidate, const std::string& best, double best_us);
  Verifier& verifier(std::size_t family);
  ProblemTuner problem(const Step&);
  void finished(const ProblemTuner&);
  bool is_plain(std::size_t family) const { return plain_[family]; }
  /// What plain families find is used by the fused ones.
  std::vector<std::size_t> plain_first() const;
  std::vector<CandidateSpec> plain_winners(const FamilyState&, std::int64_t tokens) const;
  std::vector<SizeResult> results(const FamilyState&) const;
  std::vector<SizeResult> results_with_file(const FamilyState&);

  Group& group_;
  const TuneOptions& options_;
  std::vector<std::unique_ptr<FamilyState>> states_;
  std::vector<bool> plain_;
  std::vector<Step> steps_;
  ProgressSink* sink_;
  TuneResult result_;
  Ledger ledger_;
  Watchdog watchdog_;
  CompileAhead ahead_;
  double budget_s_ = 0;  ///< 0: none
  double finals_s_ = 0;  ///< what a problem takes at least, once it was begun
  Signals signals_;
  std::size_t done_ = 0;
  Progress progress_;
  TuneContext context_;
  std::vector<std::unique_ptr<Verifier>> verifiers_;
};

}  // namespace arbiter::tuning
