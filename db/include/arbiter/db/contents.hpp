// Everything a database holds, as values: what is merged, exported and imported.
// Every function throws DatabaseError naming the file (and the line) and the reason.
#pragma once

#include <filesystem>
#include <iosfwd>
#include <map>
#include <string>
#include <vector>

#include "arbiter/db/database.hpp"

namespace arbiter {

/// A run and the key of the environment it took place in.
struct StoredRun {
  std::string environment;
  Run run;
  bool operator==(const StoredRun&) const = default;
};

/// A trial as it is stored: what it belongs to by key.
struct StoredTrial {
  std::string environment, problem, candidate;  ///< keys
  std::string run;                              ///< id
  std::int64_t sequence = 0;  ///< tells several trials of the same candidate on the same problem apart
  TrialStatus status{};
  std::string reason;
  int calls_per_sample = 0;
  int blocks = 0;
  std::vector<double> samples_us;
  KernelUse use{};
  bool operator==(const StoredTrial&) const = default;
};

/// Ordered by key, so that equal contents are written as equal text.
struct Contents {
  std::map<std::string, Environment> environments;
  std::map<std::string, StoredRun> runs;
  std::map<std::string, Problem> problems;
  std::map<std::string, Candidate> candidates;
  std::map<std::string, StoredTrial> trials;
  std::map<std::string, std::vector<Decision>> decisions;  ///< by environment key, in the order of DecisionSet
  std::map<std::string, std::vector<NcclChoice>> nccl;     ///< likewise

  bool operator==(const Contents&) const = default;
  bool empty() const noexcept;
};

/// Read a work database or a snapshot without writing anything, even beside it. Everything is checked: integrity, that
/// every key matches its row, and that every row named by another is there.
Contents read_contents(const std::filesystem::path&);

/// The union of the measurements, without decisions: they are computed anew from what was measured. Idempotent,
/// commutative and associative. Of a run or trial that both hold at different stages, the later stage is kept (a run
/// that finished; a trial that is done before one with another outcome, before one that crashed, before one still
/// running). Throws DatabaseError when both hold different samples, or different origins, under the same key: one of
/// them was damaged or edited.
Contents unite(const Contents&, const Contents&);

/// Throws DatabaseError, naming `name`, if there are decisions without a trial that is done in the same environment and
/// family: they could not be computed anew, so merging would lose them. A snapshot is such a database.
void require_measured_decisions(const Contents&, const std::string& name);

/// Ordered JSON lines, one record each: a header with the schema version and the number of records of each type, then
/// environments, runs, problems, candidates, trials, decisions and NCCL choices, each in the order of their keys.
/// Documented in docs/database.md. Equal contents give equal text; parse_jsonl() of it gives the same contents.
void write_jsonl(std::ostream&, const Contents&);
inline constexpr int jsonl_schema_version = 3;

/// `name` is what messages call the text. Throws DatabaseError naming the line and what was expected there.
Contents parse_jsonl(std::istream&, const std::string& name);

/// Make `destination` (created if needed) hold also what the sources hold, and compute the decisions of every
/// environment with measurements anew. All or nothing. The result does not depend on the order, on how the sources are
/// grouped, or on how often one of them is merged.
MergeReport merge(const std::filesystem::path& destination, const std::vector<std::filesystem::path>& sources,
                  const RecomputeDecisions&);

}  // namespace arbiter
