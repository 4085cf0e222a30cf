// Measure and decide: the tuner.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "arbiter/db/database.hpp"
#include "arbiter/runtime/candidate.hpp"
#include "arbiter/runtime/fingerprint.hpp"
#include "arbiter/tuner/choose.hpp"
#include "arbiter/tuner/measure.hpp"
#include "arbiter/tuner/progress.hpp"

namespace arbiter {

/// Where candidates come from. Both functions give equal results on all ranks; load() is collective.
struct CandidateSource {
  std::function<std::vector<CandidateSpec>(Group&, const ProblemFamily&, std::span<const CandidateSpec> best_plain)>
      enumerate;
  std::function<LoadResult(Group&, const CandidateSpec&, const ProblemFamily&)> load;
  /// Not collective, from any thread: makes the kernel, so that load() finds it made. Empty: load() makes it.
  std::function<void(Group&, const Variant&)> compile = {};

  /// The catalogue and the runtime. `exhaustive`: what the catalogue prunes is a candidate too.
  static CandidateSource runtime(bool exhaustive = false);
};

/// How much is tried at one problem.
struct SearchEffort {
  int anchor_candidates = 96;  ///< screened at the first sizes of a family, where no neighbour gives a hint
  int candidates = 24;         ///< screened at the other sizes
  int anchors = 2;             ///< how many sizes of a family count as first ones
  int finalists = 3;           ///< measured again together, besides NCCL and the incumbents
  int final_samples = 30;      ///< at least, per finalist
  int tie_samples = 150;       ///< at most, per finalist of a near tie that more samples may resolve; 0: none
  int verdict_samples = 720;   ///< at most, where the choice depends on whether another is slower by what counts
  int compiles = 1000;         ///< most kernels loaded for one family
  double give_up = 4;          ///< one call takes so many times as long as the best: not timed any further; 0: never
  double narrow_to = 1.1;      ///< a change of winner is bisected while its sizes are further apart than this ratio
  int bisections = 40;         ///< most sizes measured for that, per family

  /// The defaults above for cuda; a handful for cpu, where each kernel costs a run of the C++ compiler.
  static SearchEffort for_device(DeviceKind) noexcept;
};

struct TuneOptions {
  std::vector<ProblemFamily> families;  ///< each with its mode; plain patterns are tuned before fused ones
  std::vector<std::int64_t> tokens;     ///< sizes to measure; empty: token_grid(max_tokens) of each family, and sizes
                                        ///< between two of them where the winner changes
  std::filesystem::path database;       ///< used on rank 0 only
  /// Keep finished trials of an earlier run, and skip wrong, failed and crashed ones; but what failed for a cause that
  /// passes (memory, disk, descriptors), and what ran when everything was killed at once, is tried again, in its turn.
  bool resume = false;
  std::int64_t resume_since = 0;  ///< resume only from trials of runs that began then or later, seconds since the epoch
  bool restarted = false;  ///< a living parent saw the predecessor of this process die: blame what it was running
  std::int64_t command_started = 0;  ///< if restarted: trials of earlier commands are not blamed; as resume_since
  /// 0: none. When it is spent, what was measured decides. It goes to sizes that were not measured first, then to
  /// changes of winner, then to sizes where more samples could change the winner.
  std::chrono::milliseconds budget{0};
  /// The clock of the budget, on rank 0, and of `stuck_after`, from its thread. Empty: the usual one.
  std::function<std::chrono::steady_clock::time_point()> now;
  std::uint64_t seed = 1;  ///< of the order of blocks and the choice of unexplored candidates
  SearchEffort effort;
  MeasureSettings measure;
  ChoiceRules rules;
  CandidateSource source = CandidateSource::runtime();
  /// Threads of this process that compile what is about to be tried, while something else is measured. Empty: up to 4
  /// on GPUs, for which half of the rank's share of the processors is used. 0: none.
  std::optional<int> compile_threads;
  std::function<ClockSample()> clocks;        ///< sampled at start and end on rank 0; empty: sample_clocks()
  std::string command;                        ///< provenance
  std::string host;                           ///< provenance
  const std::atomic<bool>* cancel = nullptr;  ///< on any rank: finish the trial at hand, decide, return
  /// A kernel that neither ends nor watches its deadline takes its process with it. After `stuck_after` without a
  /// finished trial (0: never), `on_stuck` is called from a thread of its own, with what is being done. The process
  /// should be ended then, and started again with `resume` and `restarted`.
  std::chrono::milliseconds stuck_after{0};
  std::function<void(const std::string&)> on_stuck;
};

/// Where the time of a tune went, in seconds of rank 0. What is missing to the whole is the search itself.
struct TuneTimes {
  double load = 0;     ///< waiting until kernels are compiled and loaded on every rank
  double compile = 0;  ///< of the threads that compile ahead: beside everything else
  double tensors = 0;  ///< allocating and filling what calls read and write
  double verify = 0;
  double measure = 0;  ///< estimates, captures and samples
  double record = 0;   ///< writing to the database, agreeing with the other ranks
};

struct TuneResult {
  std::vector<Decision> decisions;  ///< of the tuned families, equal on all ranks
  std::size_t problems = 0;         ///< in all
  std::size_t measured = 0;         ///< problems measured in this run
  std::size_t resumed = 0;          ///< problems that were already finished
  std::size_t trials = 0;           ///< candidates launched
  std::size_t wrong = 0, failed = 0;
  std::size_t pruned = 0;       ///< candidates, over all problems, that this run timed while screening and not again
  std::size_t never_tried = 0;  ///< candidates of the catalogue that no measurement suggested, over all problems
  // The cost model: latency + bytes / bandwidth, fitted to what was measured so far.
  std::size_t model_pruned = 0;       ///< candidates, over all problems, that it predicted to be too slow to be timed
  std::size_t model_predictions = 0;  ///< that were measured afterwards
  double model_worst_ratio = 1;       ///< measured / predicted, of the one that was furthest off
  std::string model_worst;            ///< which candidate and problem that was; empty without predictions
  std::size_t model_controls = 0;     ///< measured although it would have pruned them
  std::size_t model_regrets = 0;      ///< of those, how many came within 2% of the best
  std::size_t bisected = 0;           ///< sizes measured between others to find where the winner changes
  std::size_t measured_again = 0;     ///< close calls that were given more samples
  std::size_t near_ties = 0;          ///< problems whose finalists were sampled until they could be told apart, or not
  std::size_t kernels_loaded = 0;
  std::vector<std::string> undecided;  ///< families without any decision, each with the reason
  bool budget_spent = false;
  bool cancelled = false;
  double seconds = 0;
  TuneTimes times;
  std::vector<std::string> notes;  ///< one sentence each: wrong and failed candidates, dropped clocks or power, skipped
                                   ///< families
};

/// Collective: every rank calls it with equal options (database, clocks, cancel, stuck and source excepted) and gets
/// equal decisions. Throws Disagreement, on every rank, when options or lists of candidates differ. Create the group
/// with a short device-side deadline (2 s): a candidate that hangs costs one of them. Every trial is committed as
/// `running` before its first launch; a finished one is never lost. Decisions of other families in the database stay.
/// Throws InvalidArgument for options that cannot work, DatabaseError (on every rank), DeviceError (on every rank) when
/// a device is lost: the database then names the candidate as crashed.
TuneResult tune(Group&, const TuneOptions&, ProgressSink* = nullptr);

}  // namespace arbiter
