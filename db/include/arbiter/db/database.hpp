// The work database (one writer) and the snapshot (read-only decisions). Knows nothing of CUDA.
// Every function throws DatabaseError naming the file and the reason; nothing is overwritten on error.
#pragma once

#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arbiter/db/records.hpp"

namespace arbiter {

inline constexpr int database_application_id = 0x41524254;  ///< "ARBT"
inline constexpr int database_schema_version = 4;

/// Why a trial is `crashed`. Only the second is the candidate's doing: a living parent saw its worker die. Otherwise
/// everything ended at once, and whoever ended it may have had any reason.
inline constexpr std::string_view crashed_with_command = "the process ended during this trial";
inline constexpr std::string_view crashed_worker = "its worker process died during this trial";

/// How the reason of a `failed` trial says that it was the machine's doing, for now: no memory, disk, descriptors.
inline constexpr std::string_view passing_cause = "for want of something that may be there next time: ";

/// The decisions of one environment.
struct DecisionSet {
  Environment environment;
  std::vector<Decision> decisions;  ///< ordered by mode, world, dtype, pattern, hidden, tokens_min
  std::vector<NcclChoice> nccl{};   ///< ordered by world, bytes_min
  bool operator==(const DecisionSet&) const = default;
};

/// As CommunicatorOptions::decisions takes them: its header does not know what a set of decisions is.
inline std::shared_ptr<const std::vector<DecisionSet>> share_decisions(std::vector<DecisionSet> sets = {}) {
  return std::make_shared<const std::vector<DecisionSet>>(std::move(sets));
}

struct Contents;
class WorkDatabase;

/// Replaces the decisions (and the NCCL choices) of one environment by what its trials say (`recompute_decisions` of
/// the tuner: this layer does not choose). Must depend on nothing else, least of all on the decisions that are there.
using RecomputeDecisions = std::function<void(WorkDatabase&, const Environment&)>;

/// What a merge or an import added.
struct MergeReport {
  std::size_t environments = 0, runs = 0, problems = 0, candidates = 0, trials = 0, samples = 0;
  std::size_t updated = 0;  ///< runs and trials that were here at an earlier stage
  bool operator==(const MergeReport&) const = default;
};

/// What a run left in the database.
struct RunHistory {
  Run run;
  Environment environment;
  std::size_t trials = 0, done = 0, samples = 0;
};

class WorkDatabase {
 public:
  /// Open for writing; create and migrate if needed. One writer at a time: a second one is told who holds it.
  static WorkDatabase open(const std::filesystem::path&);
  WorkDatabase(WorkDatabase&&) noexcept;
  WorkDatabase& operator=(WorkDatabase&&) noexcept;
  ~WorkDatabase();

  /// Register a run in an environment; returns its id. Trials left `running` by an earlier process in this
  /// environment become `crashed`: of runs that began at `blame_since` (seconds since the epoch) or later with the
  /// reason `crashed_worker`, of others with `crashed_with_command`.
  std::string begin_run(const Environment&, const Run&, std::int64_t blame_since = nobody);
  static constexpr std::int64_t nobody = std::numeric_limits<std::int64_t>::max();
  void finish_run(const std::string& run_id, const Run& with_end_values);

  /// Committed before the candidate's first launch (status `running`). Replaces an earlier trial of the same
  /// environment, problem and candidate that is not `done`.
  void begin_trial(const std::string& run_id, const Environment&, const Problem&, const Candidate&);
  /// The outcome of the trial begun last for this problem and candidate. One commit, samples included.
  void finish_trial(const std::string& run_id, const Environment&, const Trial&);

  /// Outcomes of candidates that were begun and finished before in this run and then measured again, together: each
  /// replaces the earlier trial as begin_trial does. One commit, so that a killed process leaves all of them or none.
  void record_trials(const std::string& run_id, const Environment&, const std::vector<Trial>&);

  /// The finished (or crashed, wrong, ...) trial, if there is one: what --resume skips.
  std::optional<Trial> trial(const Environment&, const Problem&, const Candidate&) const;
  /// The latest trial of every candidate, of runs that began at `since` (seconds since the epoch) or later.
  std::vector<Trial> trials(const Environment&, const Problem&, std::int64_t since = 0) const;
  /// What decides: of every candidate the latest trial that is done, whichever run it is of. A later trial that is
  /// running, was only screened, ended with its whole command or failed for a cause that passes says nothing against
  /// it; one that was wrong, failed or crashed by itself does.
  std::vector<Trial> deciding_trials(const Environment&, const Problem&) const;
  std::vector<Problem> problems(const Environment&) const;
  std::vector<Environment> environments() const;
  std::vector<Run> runs() const;

  /// Replace all decisions of this environment, atomically.
  void replace_decisions(const Environment&, const std::vector<Decision>&);
  /// Replace what is served to programs that use only NCCL, atomically.
  void replace_nccl_choices(const Environment&, const std::vector<NcclChoice>&);
  std::vector<DecisionSet> decisions() const;

  /// Everything in it, checked.
  Contents contents() const;
  /// Unite with what is here (see `unite`) and recompute the decisions of every environment with measurements.
  /// Throws DatabaseError if either side has decisions without measurements. All or nothing.
  MergeReport merge(const Contents&, const RecomputeDecisions&);
  /// Into an empty database: exactly these contents, decisions included. Otherwise: merge().
  MergeReport import(const Contents&, const RecomputeDecisions&);
  /// Drop a run, its trials, and what only they referred to, and recompute the decisions of its environment.
  /// Throws DatabaseError if there is no such run, or if the environment has decisions without measurements.
  void forget(const std::string& run_id, const RecomputeDecisions&);

  /// Write a snapshot: VACUUM INTO a temporary file, trials and samples dropped, checked, synced, renamed.
  /// The same decisions give the same bytes.
  void write_snapshot(const std::filesystem::path&) const;

  const std::filesystem::path& path() const noexcept;

 private:
  struct Impl;
  explicit WorkDatabase(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

/// Where and when was measured what, oldest run first. Reads like read_decisions(); a snapshot has no runs.
std::vector<RunHistory> read_history(const std::filesystem::path&);

/// Write these decisions as a snapshot: see WorkDatabase::write_snapshot(). Needs no work database that nobody else is
/// writing to.
void write_snapshot(const std::filesystem::path&, const std::vector<DecisionSet>&);

/// The decisions that are built into the library: the files in db/defaults. They were measured on other machines and
/// with the kernels of their day: `same_hardware` says where they may serve.
const std::vector<DecisionSet>& shipped_decisions();

/// Whether a file that begins with these bytes, 16 or more, is an SQLite database, of whatever kind.
bool is_sqlite(std::string_view first_bytes) noexcept;

/// Read the decisions of a work database or a snapshot, without writing anything, even beside it.
/// A live -wal is honoured; a read-only directory works.
std::vector<DecisionSet> read_decisions(const std::filesystem::path&);

/// The same from a file's bytes (rank 0 reads and broadcasts; all ranks use the same bytes).
std::vector<DecisionSet> read_decisions_from_bytes(const std::string& bytes, const std::string& name_for_messages);

/// The bytes to broadcast: the file itself, or a snapshot of it made in memory if it is a work database.
std::string read_for_broadcast(const std::filesystem::path&);

}  // namespace arbiter
