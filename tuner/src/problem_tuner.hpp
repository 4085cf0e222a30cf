// Tuning one problem: screen the candidates worth trying, then measure the best again, together.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "arbiter/tuner/measure.hpp"
#include "arbiter/tuner/tune.hpp"
#include "arbiter/tuner/verify.hpp"
#include "family_state.hpp"
#include "ledger.hpp"

namespace arbiter::tuning {

/// Everything a problem shares with the rest of the run.
struct TuneContext {
  Group& group;
  const TuneOptions& options;
  Ledger& ledger;
  TuneResult& result;
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

  /// Collective. Fills state.screened and state.results for this size.
  /// `explore_until_s`: past this time of the run, no more candidates are screened than a first few.
  void run(double explore_until_s);

 private:
  bool resume();
  std::vector<std::size_t> seeds() const;
  void explore(std::size_t limit, double explore_until_s);
  void screen(std::size_t index);
  void decide_screened(std::size_t index, TrialStatus, const std::string& reason, double us);
  RunnableCandidate* load(std::size_t index);
  bool already_failed(const Candidate&) const;
  std::vector<std::size_t> finalists();
  void measure_finalists();
  std::vector<std::size_t> best_screened(std::size_t count) const;
  Trial trial_of(std::size_t index, TrialStatus, const std::string& reason, std::vector<double> samples);

  TuneContext& context_;
  FamilyState& state_;
  Verifier& verifier_;
  std::int64_t tokens_;
  std::vector<CandidateSpec> best_plain_;
  Problem problem_;
  Screened& screened_;
  std::optional<Timing> timing_;
  std::map<std::size_t, std::size_t> entries_;   ///< candidate to entry of timing_
  std::map<std::string, std::size_t> launches_;  ///< what is launched at this size, to its first candidate
  std::vector<Trial> previous_;                  ///< with resume
  std::size_t tried_ = 0;
};

}  // namespace arbiter::tuning
