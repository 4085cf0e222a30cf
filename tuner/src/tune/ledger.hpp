// The tuner's book-keeping: rank 0 owns the database, all ranks follow it.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "arbiter/db/database.hpp"
#include "arbiter/tuner/tune.hpp"

namespace arbiter::tuning {

/// What the ranks tell each other between two trials.
struct Signals {
  double elapsed_s = 0;    ///< rank 0's clock, so that all ranks stop at the same trial
  bool cancelled = false;  ///< on any rank
};

/// All functions are collective and throw DatabaseError on every rank when rank 0's database fails.
class Ledger {
 public:
  Ledger(Group&, const TuneOptions&);
  /// Marks the run as finished if finish() was not called; errors are ignored.
  ~Ledger();
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  /// Commits the trial as `running`. Must return before the candidate's first launch on any rank.
  void begin(const Problem&, const Candidate&);
  void finish(const Trial&);
  /// Trials of candidates that ran before and were measured again, together: one commit.
  void record(const std::vector<Trial>&);
  std::vector<Trial> previous(const Problem&);
  /// What any run of this environment has measured of a family, with its samples: each size that has such trials.
  std::vector<std::vector<Trial>> measured(const ProblemFamily&);
  const std::vector<Decision>& previous_decisions() const noexcept { return previous_decisions_; }
  /// Replaces this environment's decisions of `families`; the others stay.
  void store(const std::vector<Decision>&, const std::vector<ProblemFamily>& families);
  Signals signals();
  /// Looks at clocks and power, a few times a minute at most.
  void watch_clocks();
  /// Closes the run. Returns what to say about clocks or power that fell during it; empty if they did not.
  std::string finish_run();
  /// Spent in all of this so far: rank 0's commits, and the ranks' waiting for each other.
  double seconds() const noexcept { return seconds_; }

 private:
  void on_root(const std::function<void()>& action);
  ClockSample clocks() const;
  double elapsed_seconds() const;
  void watch(const ClockSample&);

  Group& group_;
  const TuneOptions& options_;
  std::chrono::steady_clock::time_point start_;
  std::optional<WorkDatabase> database_;  ///< rank 0
  Run run_;
  bool open_ = false;
  int highest_clock_mhz_ = 0, lowest_clock_mhz_ = 0;  ///< lowest since the highest
  double looked_at_s_ = 0;
  double seconds_ = 0;
  std::vector<Decision> previous_decisions_;
};

}  // namespace arbiter::tuning
