// Tuning one problem: screen the candidates worth trying, then measure the best again, together.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "arbiter/tuner/measure.hpp"
#include "arbiter/tuner/tune.hpp"
#include "arbiter/tuner/verify.hpp"
#include "tune/compile_ahead.hpp"
#include "tune/family_state.hpp"
#include "tune/ledger.hpp"

namespace arbiter::tuning {

/// Everything a problem shares with the rest of the run.
struct TuneContext {
  Group& group;
  const TuneOptions& options;
  Ledger& ledger;
  TuneResult& result;
  CompileAhead& ahead;
  /// Tells the watcher what is being done: candidate name, best so far. May be empty.
  std::function<void(const std::string&, const std::string&, double)> report;
  /// Between two candidates: what the ranks agreed on.
  std::function<bool()> should_stop;
};

class ProblemTuner {
 public:
  /// Collective. `plain_winner`: the plain allreduce to build unfused candidates from, for a fused family.
  ProblemTuner(TuneContext&, FamilyState&, Verifier&, std::int64_t tokens,
               const std::vector<CandidateSpec>& best_plain);

  // All collective; they fill state.screened and state.results for this size. What an earlier visit or, with `resume`,
  // an earlier run has finished is not measured again.

  /// Search for the best candidates, then measure the finalists together.
  /// `explore_until_s`: past this time of the run, no more candidates are screened than a first few.
  void explore(double explore_until_s);

  /// Between two sizes with different winners: only what came close at one of them, and NCCL.
  void narrow(std::int64_t below, std::int64_t above);

  /// A close call: the finalists again, with `times` the samples.
  void measure_again(int times);

  /// Seconds that the last measurement of finalists took, on rank 0's clock.
  double finals_seconds() const noexcept { return finals_seconds_; }

 private:
  bool adopt();
  bool make_tensors();
  bool is_broken(const Trial&) const;
  bool is_to_be_repeated(const Trial&) const;
  void exclude(std::size_t index, const std::string& reason);
  void account();
  void count_screened_out(std::size_t index, bool out);
  void teach_model();
  void search(const std::vector<std::size_t>& order, std::size_t limit, double explore_until_s, bool climb);
  std::vector<std::size_t> seeds();
  std::vector<std::size_t> incumbents() const;
  bool is_protected(std::size_t index) const;
  bool pruned_by_model(std::size_t index);
  void compile_soon(std::span<const std::size_t> order, std::size_t limit);

  void screen(std::size_t index);
  void screen_known(std::size_t index, const Trial&);
  void measure_screened(std::size_t index, RunnableCandidate&);
  void decide_screened(std::size_t index, TrialStatus, const std::string& reason, double us);
  void note_failure(std::size_t index, const Trial&);
  RunnableCandidate* load(std::size_t index);
  Trial trial_of(std::size_t index, TrialStatus, const std::string& reason, std::vector<double> samples);
  const Trial* known(const Candidate&) const;
  void remember(const Trial&);
  /// Not with 8-bit values on its links: it serves where those are forbidden, and is measured against its like.
  bool is_exact(std::size_t index) const;
  std::vector<std::size_t> best_screened(std::size_t count, bool exact_only = false) const;

  Verification verify(const Subject&);
  std::size_t time(Subject, double give_up_us);
  void sample(std::span<const std::size_t> entries, int rounds, std::uint64_t seed, Timing::Recheck);

  bool ensure_timed(std::size_t index);
  std::vector<std::size_t> finalists(std::vector<Trial>& also_measured);
  void measure_finalists(std::vector<std::size_t> chosen, int samples, std::vector<Trial> also_measured);
  void settle_near_ties(const std::vector<std::size_t>& chosen, int samples);
  bool take_known_finalists(const std::vector<std::size_t>& chosen);
  void blame_lost_device(const std::vector<std::size_t>& chosen);

  TuneContext& context_;
  FamilyState& state_;
  Verifier& verifier_;
  std::int64_t tokens_;
  std::vector<CandidateSpec> best_plain_;
  Problem problem_;
  Screened& screened_;
  KnownTrials& known_;
  std::optional<Timing> timing_;
  std::map<std::size_t, std::size_t> entries_;   ///< candidate to entry of timing_
  std::map<std::string, std::size_t> launches_;  ///< what is launched at this size, to its first candidate
  std::set<std::size_t> controls_;               ///< measured although the model would have pruned them
  std::set<std::string> repeated_;               ///< tried by this run, whatever an earlier one found
  std::size_t tried_ = 0;
  double finals_seconds_ = 0;
};

/// NCCL, with or without an epilogue behind it.
bool is_nccl(const CandidateSpec&) noexcept;

}  // namespace arbiter::tuning
