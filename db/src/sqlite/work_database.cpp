#include "sqlite/work_database.hpp"

#include <llvm/Support/JSON.h>

#include <ctime>
#include <random>

#include "records/digest.hpp"
#include "sqlite/reader.hpp"
#include "sqlite/rows.hpp"
#include "sqlite/snapshot.hpp"

namespace arbiter {

namespace fs = std::filesystem;
using db::Connection;
using db::Statement;
using db::Transaction;

namespace {

/// What trial_from() reads.
std::string trial_columns() {
  return "t.status, t.reason, t.calls_per_sample, t.blocks, t.key, t.digest, " + db::columns<KernelUse>("t.") + ", " +
         db::columns<Problem>("p.") + ", " + db::columns<Candidate>("c.");
}
constexpr std::string_view trial_tables =
    "trial t JOIN problem p ON p.key = t.problem JOIN candidate c ON c.key = t.candidate JOIN run r ON r.id = t.run";

std::string digest_of(const Trial& trial) {
  return db::outcome_digest(trial.status, trial.reason, trial.calls_per_sample, trial.blocks, trial.samples_us,
                            trial.use);
}

Trial trial_from(const Connection& connection, const Statement& row) {
  Trial trial;
  trial.status = parse_trial_status(row.text(0));
  trial.reason = row.text(1);
  trial.calls_per_sample = row.small_integer(2);
  trial.blocks = row.small_integer(3);
  trial.use = {row.small_integer(6), row.small_integer(7)};
  trial.problem = db::problem_from(row, 8);
  trial.candidate = db::candidate_from(row, 8 + db::field_count<Problem>());
  Statement samples(connection, "SELECT us FROM sample WHERE trial = ? ORDER BY ordinal");
  samples.bind(row.text(4));
  while (samples.step()) trial.samples_us.push_back(samples.real(0));
  db::require_digest("trial " + row.text(4), row.text(5), digest_of(trial));
  return trial;
}

/// Random, version 4.
std::string make_uuid() {
  static constexpr std::string_view digits = "0123456789abcdef";
  std::random_device random;
  std::string uuid = "xxxxxxxx-xxxx-4xxx-yxxx-xxxxxxxxxxxx";
  for (char& c : uuid) {
    const unsigned value = random() & 15U;
    if (c == 'x') c = digits[value];
    if (c == 'y') c = digits[8U | (value & 3U)];
  }
  return uuid;
}

std::int64_t now() { return static_cast<std::int64_t>(std::time(nullptr)); }

/// Refuse a file that is not ours, or newer, before anything could touch it.
void require_ours(const fs::path& path, const std::string& name) {
  std::error_code error;
  if (!fs::exists(path, error) || (fs::is_regular_file(path, error) && db::bytes_of(path) == 0)) return;
  try {
    db::with_reader(path, [](Connection&, db::FileKind) {});
  } catch (const DatabaseError& problem) {
    const std::string what = problem.what();
    if (what.starts_with(name)) throw;
    throw DatabaseError(name + what.substr(std::min(what.find("':") + 1, what.size())));
  }
}

/// Nothing against what was measured of the candidate before.
bool says_nothing(const Trial& trial) {
  switch (trial.status) {
    case TrialStatus::running:
    case TrialStatus::pruned:
      return true;
    case TrialStatus::crashed:
      return trial.reason == crashed_with_command;
    case TrialStatus::failed:
      return trial.reason.find(passing_cause) != std::string::npos;
    case TrialStatus::done:
    case TrialStatus::wrong:
      return false;
  }
  return false;
}

/// A new row with status `running`, in place of one that is not done; returns its key.
std::string insert_running(Connection& connection, const std::string& run_id, const Environment& environment,
                           const Problem& problem, const Candidate& candidate) {
  const std::string environment_key = environment.key();
  const std::string problem_key = problem.key();
  const std::string candidate_key = candidate.key();
  Statement run(connection, "SELECT environment FROM run WHERE id = ?");
  if (!run.bind(run_id).step()) {
    throw DatabaseError("there is no run '" + run_id + "' to begin a trial in. Call begin_run first.");
  }
  if (run.text(0) != environment_key) {
    throw DatabaseError("run '" + run_id + "' was begun in another environment than the trial's.");
  }
  db::insert_problem(connection, problem);
  db::insert_candidate(connection, candidate);
  Statement replace(connection,
                    "DELETE FROM trial WHERE environment = ? AND problem = ? AND candidate = ? AND status <> 'done'");
  replace.bind(environment_key, problem_key, candidate_key).run();
  // A trial that is done stays: its samples are kept, and the new one gets the next number.
  Statement last(
      connection,
      "SELECT coalesce(max(sequence), 0) FROM trial WHERE environment = ? AND problem = ? AND candidate = ?");
  last.bind(environment_key, problem_key, candidate_key).step();
  const std::int64_t sequence = last.integer(0) + 1;
  std::string key = db::trial_key(environment_key, problem_key, candidate_key, run_id, sequence);
  Statement insert(connection,
                   "INSERT INTO trial (key, environment, problem, candidate, run, sequence, status, reason, "
                   "calls_per_sample, blocks, digest) VALUES (?,?,?,?,?,?,'running','',0,0,?)");
  insert
      .bind(key, environment_key, problem_key, candidate_key, run_id, sequence,
            db::outcome_digest(TrialStatus::running, "", 0, 0, {}))
      .run();
  return key;
}

/// The outcome of the running trial `key`.
void update_outcome(Connection& connection, const std::string& key, const Trial& trial) {
  Statement update(
      connection,
      "UPDATE trial SET status = ?, reason = ?, calls_per_sample = ?, blocks = ?, registers = ?, spill_bytes = ?, "
      "digest = ? WHERE key = ?");
  update
      .bind(to_string(trial.status), trial.reason, trial.calls_per_sample, trial.blocks, trial.use.registers,
            trial.use.spill_bytes, digest_of(trial), key)
      .run();
  Statement sample(connection, "INSERT INTO sample (trial, ordinal, us) VALUES (?,?,?)");
  std::int64_t ordinal = 0;
  for (const double us : trial.samples_us) sample.bind(key, ordinal++, us).run();
}

void require_outcome(const Trial& trial) {
  db::validate(trial);
  if (trial.status == TrialStatus::running) {
    throw DatabaseError("a trial cannot be finished as 'running'. Give its outcome.");
  }
}

}  // namespace

namespace db {

Connection open_for_writing(const fs::path& path, const std::string& name, const FilesystemKind& kind) {
  Connection connection = Connection::open(path, Access::write, name);
  const bool network = on_network_filesystem(path, kind);
  // WAL keeps an index in memory shared by its users, which other hosts do not see.
  const std::string journal = connection.text(network ? "PRAGMA journal_mode = DELETE" : "PRAGMA journal_mode = WAL");
  // NORMAL is safe from corruption in WAL mode; with a rollback journal it is not quite.
  connection.execute(journal == "wal" ? "PRAGMA synchronous = NORMAL" : "PRAGMA synchronous = FULL");
  connection.execute("PRAGMA foreign_keys = ON");
  migrate(connection);
  require_schema(connection);
  return connection;
}

}  // namespace db

WorkDatabase WorkDatabase::open(const fs::path& given) {
  db::require_sqlite_features();
  const fs::path path = db::resolve(given);
  const std::string name = "'" + given.string() + "'";
  std::error_code error;
  if (fs::exists(path, error) && !fs::is_regular_file(path, error)) {
    throw DatabaseError(name + ": it is not a regular file, expected a database file or a name for a new one.");
  }
  db::require_one_name(path, name);
  auto lock = std::make_unique<db::WriterLock>(path);
  db::require_own_companions(path, name);
  require_ours(path, name);
  Connection connection = db::open_for_writing(path, name);
  lock->lock_the_file();
  return WorkDatabase(std::make_unique<Impl>(path, name, std::move(lock), std::move(connection)));
}

WorkDatabase::WorkDatabase(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
WorkDatabase::WorkDatabase(WorkDatabase&&) noexcept = default;
WorkDatabase& WorkDatabase::operator=(WorkDatabase&&) noexcept = default;
WorkDatabase::~WorkDatabase() = default;
const fs::path& WorkDatabase::path() const noexcept { return impl_->path; }

std::string WorkDatabase::begin_run(const Environment& environment, const Run& run, std::int64_t blame_since) {
  return impl_->with_name([&] {
    Connection& connection = impl_->connection;
    std::string id = run.id.empty() ? make_uuid() : run.id;
    const std::string key = environment.key();
    Transaction transaction(connection);
    db::insert_environment(connection, environment);
    Statement known(connection, "SELECT 1 FROM run WHERE id = ?");
    if (known.bind(id).step()) {
      throw DatabaseError("run '" + id + "' exists already. Leave Run::id empty to get a new one.");
    }
    Run stored = run;
    stored.id = id;
    stored.host = llvm::json::fixUTF8(run.host);
    stored.command = llvm::json::fixUTF8(run.command);
    if (stored.started == 0) stored.started = now();
    db::store_run(connection, key, stored);
    Statement crashed(connection,
                      "UPDATE trial SET status = 'crashed', reason = ?, digest = ? WHERE status = 'running' AND "
                      "environment = ? AND run IN (SELECT id FROM run WHERE started >= ?)");
    const auto mark = [&](std::string_view reason, std::int64_t since) {
      crashed.bind(reason, db::outcome_digest(TrialStatus::crashed, std::string(reason), 0, 0, {}), key, since).run();
    };
    if (blame_since != nobody) mark(crashed_worker, blame_since);
    mark(crashed_with_command, std::numeric_limits<std::int64_t>::min());
    transaction.commit();
    return id;
  });
}

void WorkDatabase::finish_run(const std::string& run_id, const Run& with_end_values) {
  impl_->with_name([&] {
    Connection& connection = impl_->connection;
    Transaction transaction(connection);
    Statement query(connection, "SELECT " + db::run_columns() + " FROM run WHERE id = ?");
    if (!query.bind(run_id).step()) {
      throw DatabaseError("there is no run '" + run_id + "' to finish. Call begin_run first.");
    }
    const std::string environment = query.text(1);
    Run run = db::run_from(query);
    run.finished = with_end_values.finished != 0 ? with_end_values.finished : now();
    run.sm_clock_end_mhz = with_end_values.sm_clock_end_mhz;
    run.power_end_watts = with_end_values.power_end_watts;
    run.clocks_dropped = with_end_values.clocks_dropped;
    db::store_run(connection, environment, run);
    transaction.commit();
  });
}

void WorkDatabase::begin_trial(const std::string& run_id, const Environment& environment, const Problem& problem,
                               const Candidate& candidate) {
  impl_->with_name([&] {
    Connection& connection = impl_->connection;
    Transaction transaction(connection);
    insert_running(connection, run_id, environment, problem, candidate);
    transaction.commit();
  });
}

void WorkDatabase::finish_trial(const std::string& run_id, const Environment& environment, const Trial& trial) {
  impl_->with_name([&] {
    require_outcome(trial);
    Connection& connection = impl_->connection;
    Transaction transaction(connection);
    Statement query(connection,
                    "SELECT key FROM trial WHERE environment = ? AND problem = ? AND candidate = ? AND run = ? AND "
                    "status = 'running'");
    if (!query.bind(environment.key(), trial.problem.key(), trial.candidate.key(), run_id).step()) {
      throw DatabaseError("no trial of '" + trial.candidate.name + "' on '" + trial.problem.name() +
                          "' was begun in run '" + run_id + "'. Call begin_trial before the first launch.");
    }
    update_outcome(connection, query.text(0), trial);
    transaction.commit();
  });
}

void WorkDatabase::record_trials(const std::string& run_id, const Environment& environment,
                                 const std::vector<Trial>& trials) {
  impl_->with_name([&] {
    for (const Trial& trial : trials) require_outcome(trial);
    Connection& connection = impl_->connection;
    Transaction transaction(connection);
    for (const Trial& trial : trials) {
      update_outcome(connection, insert_running(connection, run_id, environment, trial.problem, trial.candidate),
                     trial);
    }
    transaction.commit();
  });
}

std::optional<Trial> WorkDatabase::trial(const Environment& environment, const Problem& problem,
                                         const Candidate& candidate) const {
  return impl_->with_name([&]() -> std::optional<Trial> {
    Statement query(impl_->connection,
                    "SELECT " + trial_columns() + " FROM " + std::string(trial_tables) +
                        " WHERE t.environment = ? AND t.problem = ? AND t.candidate = ? AND t.status <> 'running' "
                        "ORDER BY t.sequence DESC, r.started DESC, r.id DESC LIMIT 1");
    query.bind(environment.key(), problem.key(), candidate.key());
    if (!query.step()) return std::nullopt;
    return trial_from(impl_->connection, query);
  });
}

std::vector<Trial> WorkDatabase::trials(const Environment& environment, const Problem& problem,
                                        std::int64_t since) const {
  return impl_->with_name([&] {
    Statement query(impl_->connection, "SELECT " + trial_columns() + " FROM " + std::string(trial_tables) +
                                           " WHERE t.environment = ? AND t.problem = ? AND r.started >= ? "
                                           "ORDER BY c.name, c.key, t.sequence DESC, r.started DESC, r.id DESC");
    query.bind(environment.key(), problem.key(), since);
    std::vector<Trial> trials;
    while (query.step()) {
      Trial trial = trial_from(impl_->connection, query);
      // The latest of a candidate comes first; what was measured before it stays in the database.
      if (trials.empty() || trials.back().candidate != trial.candidate) trials.push_back(std::move(trial));
    }
    return trials;
  });
}

std::vector<Trial> WorkDatabase::deciding_trials(const Environment& environment, const Problem& problem) const {
  return impl_->with_name([&] {
    Statement query(impl_->connection, "SELECT " + trial_columns() + " FROM " + std::string(trial_tables) +
                                           " WHERE t.environment = ? AND t.problem = ? "
                                           "ORDER BY c.name, c.key, t.sequence DESC, r.started DESC, r.id DESC");
    query.bind(environment.key(), problem.key());
    std::vector<Trial> trials;
    std::optional<Candidate> settled;
    while (query.step()) {
      Trial trial = trial_from(impl_->connection, query);
      if (settled == trial.candidate || says_nothing(trial)) continue;
      settled = trial.candidate;
      if (trial.status == TrialStatus::done) trials.push_back(std::move(trial));
    }
    return trials;
  });
}

std::vector<Problem> WorkDatabase::problems(const Environment& environment) const {
  return impl_->with_name([&] {
    Statement query(impl_->connection,
                    "SELECT pattern, dtype, hidden, tokens, world, mode, in_place FROM problem WHERE key IN "
                    "(SELECT problem FROM trial WHERE environment = ?) "
                    "ORDER BY mode, world, dtype, pattern, hidden, tokens, in_place");
    query.bind(environment.key());
    std::vector<Problem> problems;
    while (query.step()) problems.push_back(db::problem_from(query, 0));
    return problems;
  });
}

std::vector<Environment> WorkDatabase::environments() const {
  return impl_->with_name([&] { return db::load_environments(impl_->connection); });
}

std::vector<Run> WorkDatabase::runs() const {
  return impl_->with_name([&] {
    Statement query(impl_->connection, "SELECT " + db::run_columns() + " FROM run ORDER BY started, id");
    std::vector<Run> runs;
    while (query.step()) runs.push_back(db::run_from(query));
    return runs;
  });
}

void WorkDatabase::replace_decisions(const Environment& environment, const std::vector<Decision>& decisions) {
  impl_->with_name([&] {
    std::vector<Decision> sorted = decisions;
    db::validate_and_sort(sorted);
    Connection& connection = impl_->connection;
    const std::string key = environment.key();
    Transaction transaction(connection);
    db::insert_environment(connection, environment);
    Statement remove(connection, "DELETE FROM decision WHERE environment = ?");
    remove.bind(key).run();
    for (const Decision& decision : sorted) db::insert_decision(connection, key, decision);
    transaction.commit();
  });
}

void WorkDatabase::replace_nccl_choices(const Environment& environment, const std::vector<NcclChoice>& choices) {
  impl_->with_name([&] {
    std::vector<NcclChoice> sorted = choices;
    db::validate_and_sort(sorted);
    Connection& connection = impl_->connection;
    const std::string key = environment.key();
    Transaction transaction(connection);
    db::insert_environment(connection, environment);
    Statement remove(connection, "DELETE FROM nccl_choice WHERE environment = ?");
    remove.bind(key).run();
    for (const NcclChoice& choice : sorted) db::insert_nccl_choice(connection, key, choice);
    transaction.commit();
  });
}

std::vector<DecisionSet> WorkDatabase::decisions() const {
  return impl_->with_name([&] { return db::load_decisions(impl_->connection); });
}

void WorkDatabase::write_snapshot(const fs::path& target) const {
  if (db::resolve(target) == impl_->path) {
    throw DatabaseError("'" + target.string() +
                        "': the snapshot would replace the work database itself. Choose another "
                        "name for the snapshot.");
  }
  db::write_snapshot_file(target, decisions(), {});
}

}  // namespace arbiter
