#include "records/contents.hpp"

#include <algorithm>
#include <string_view>

#include "records/digest.hpp"
#include "sqlite/reader.hpp"
#include "sqlite/rows.hpp"

namespace arbiter {

bool Contents::empty() const noexcept {
  return environments.empty() && runs.empty() && problems.empty() && candidates.empty() && trials.empty() &&
         decisions.empty() && nccl.empty();
}

namespace db {
namespace {

void require_there(bool there, const char* what) {
  if (!there) throw DatabaseError(std::string(what) + " that is not there");
}

void load_runs(Connection& connection, Contents& contents) {
  Statement query(connection, "SELECT " + run_columns() + " FROM run");
  while (query.step()) {
    StoredRun stored{query.text(1), run_from(query)};
    validate(stored.run);
    require_there(contents.environments.contains(stored.environment), "a run names an environment");
    const std::string id = stored.run.id;
    contents.runs.emplace(id, std::move(stored));
  }
}

/// The key of a candidate covers its name, which begins with backend and algorithm.
void require_named(const Candidate& candidate) {
  const std::string start = std::string(to_string(candidate.backend)) + "/" + candidate.algorithm;
  const std::string_view rest = std::string_view(candidate.name).substr(std::min(start.size(), candidate.name.size()));
  if (candidate.name.starts_with(start) && (rest.empty() || rest[0] == ':' || rest[0] == '+')) return;
  throw DatabaseError("candidate '" + candidate.name + "' is stored with algorithm '" + candidate.algorithm +
                      "' of backend '" + std::string(to_string(candidate.backend)) + "', which is not its name's");
}

void load_problems_and_candidates(Connection& connection, Contents& contents) {
  Statement problems(connection, "SELECT key, " + columns<Problem>() + " FROM problem");
  while (problems.step()) {
    Problem problem = problem_from(problems, 1);
    validate(problem);
    require_key("problem", problems.text(0), problem.key());
    contents.problems.emplace(problems.text(0), std::move(problem));
  }
  Statement candidates(connection, "SELECT key, " + columns<Candidate>() + " FROM candidate");
  while (candidates.step()) {
    Candidate candidate = candidate_from(candidates, 1);
    validate(candidate);
    require_key("candidate", candidates.text(0), candidate.key());
    require_named(candidate);
    contents.candidates.emplace(candidates.text(0), std::move(candidate));
  }
}

std::string digest_of(const StoredTrial& trial) {
  return outcome_digest(trial.status, trial.reason, trial.calls_per_sample, trial.blocks, trial.samples_us, trial.use);
}

void load_trials(Connection& connection, Contents& contents) {
  Statement query(connection,
                  "SELECT environment, problem, candidate, run, sequence, status, reason, calls_per_sample, blocks, "
                  "key, digest, registers, spill_bytes FROM trial");
  std::map<std::string, std::string> digests;
  while (query.step()) {
    StoredTrial trial;
    trial.environment = query.text(0);
    trial.problem = query.text(1);
    trial.candidate = query.text(2);
    trial.run = query.text(3);
    trial.sequence = query.integer(4);
    trial.status = parse_trial_status(query.text(5));
    trial.reason = query.text(6);
    trial.calls_per_sample = query.small_integer(7);
    trial.blocks = query.small_integer(8);
    trial.use = {query.small_integer(11), query.small_integer(12)};
    require_there(contents.problems.contains(trial.problem), "a trial names a problem");
    require_there(contents.candidates.contains(trial.candidate), "a trial names a candidate");
    const auto run = contents.runs.find(trial.run);
    require_there(run != contents.runs.end() && run->second.environment == trial.environment,
                  "a trial names a run in an environment");
    require_key("trial", query.text(9),
                trial_key(trial.environment, trial.problem, trial.candidate, trial.run, trial.sequence));
    digests.emplace(query.text(9), query.text(10));
    contents.trials.emplace(query.text(9), std::move(trial));
  }
  Statement samples(connection, "SELECT trial, ordinal, us FROM sample ORDER BY trial, ordinal");
  auto trial = contents.trials.end();
  while (samples.step()) {
    if (trial == contents.trials.end() || trial->first != samples.text(0)) {
      trial = contents.trials.find(samples.text(0));
      require_there(trial != contents.trials.end(), "a sample names a trial");
    }
    if (samples.integer(1) != static_cast<std::int64_t>(trial->second.samples_us.size())) {
      throw DatabaseError("a sample of trial " + trial->first + " is missing");
    }
    trial->second.samples_us.push_back(samples.real(2));
  }
  for (const auto& [key, stored] : contents.trials) {
    validate(trial_of(contents, stored));
    require_digest("trial " + key, digests.at(key), digest_of(stored));
  }
}

/// The statements of inserting many trials.
class TrialWriter {
 public:
  explicit TrialWriter(Connection& connection)
      : remove_(connection, "DELETE FROM trial WHERE key = ?"),
        insert_(connection,
                "INSERT INTO trial (key, environment, problem, candidate, run, sequence, status, reason, "
                "calls_per_sample, blocks, digest, registers, spill_bytes) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"),
        sample_(connection, "INSERT INTO sample (trial, ordinal, us) VALUES (?,?,?)") {}

  void write(const std::string& key, const StoredTrial& trial) {
    remove_.bind(key).run();
    insert_
        .bind(key, trial.environment, trial.problem, trial.candidate, trial.run, trial.sequence,
              to_string(trial.status), trial.reason, trial.calls_per_sample, trial.blocks, digest_of(trial),
              trial.use.registers, trial.use.spill_bytes)
        .run();
    std::int64_t ordinal = 0;
    for (const double us : trial.samples_us) sample_.bind(key, ordinal++, us).run();
  }

 private:
  Statement remove_, insert_, sample_;
};

}  // namespace

Trial trial_of(const Contents& contents, const StoredTrial& stored) {
  return {.problem = contents.problems.at(stored.problem),
          .candidate = contents.candidates.at(stored.candidate),
          .status = stored.status,
          .reason = stored.reason,
          .calls_per_sample = stored.calls_per_sample,
          .blocks = stored.blocks,
          .samples_us = stored.samples_us,
          .use = stored.use};
}

Contents load_contents(Connection& connection) {
  return naming_the_file(connection, [&] {
    Contents contents;
    for (Environment& environment : load_environments(connection)) {
      std::string key = environment.key();
      contents.environments.emplace(std::move(key), std::move(environment));
    }
    load_runs(connection, contents);
    load_problems_and_candidates(connection, contents);
    load_trials(connection, contents);
    for (DecisionSet& set : load_decisions(connection)) {
      const std::string key = set.environment.key();
      if (!set.decisions.empty()) contents.decisions.emplace(key, std::move(set.decisions));
      if (!set.nccl.empty()) contents.nccl.emplace(key, std::move(set.nccl));
    }
    return contents;
  });
}

Contents load_checked_contents(Connection& connection) {
  const std::string result = connection.text("PRAGMA integrity_check(1)");
  if (result != "ok") {
    throw DatabaseError(connection.name() + ": it is damaged: " + result + ". Restore a copy of it.");
  }
  return load_contents(connection);
}

MergeReport store_measurements(Connection& connection, const Contents& have, const Contents& want) {
  MergeReport report;
  for (const auto& [key, environment] : want.environments) {
    if (have.environments.contains(key)) continue;
    insert_environment(connection, environment);
    ++report.environments;
  }
  for (const auto& [key, problem] : want.problems) {
    if (have.problems.contains(key)) continue;
    insert_problem(connection, problem);
    ++report.problems;
  }
  for (const auto& [key, candidate] : want.candidates) {
    if (have.candidates.contains(key)) continue;
    insert_candidate(connection, candidate);
    ++report.candidates;
  }
  for (const auto& [id, run] : want.runs) {
    const auto old = have.runs.find(id);
    if (old != have.runs.end() && old->second == run) continue;
    store_run(connection, run.environment, run.run);
    ++(old == have.runs.end() ? report.runs : report.updated);
  }
  TrialWriter writer(connection);
  for (const auto& [key, trial] : want.trials) {
    const auto old = have.trials.find(key);
    if (old != have.trials.end() && old->second == trial) continue;
    writer.write(key, trial);
    report.samples += trial.samples_us.size();
    ++(old == have.trials.end() ? report.trials : report.updated);
  }
  return report;
}

}  // namespace db

Contents read_contents(const std::filesystem::path& path) {
  db::require_sqlite_features();
  Contents contents;
  db::with_reader(path, [&](db::Connection& view, db::FileKind kind) {
    if (kind == db::FileKind::empty) {
      throw DatabaseError(view.name() + ": there is nothing in it, neither tables nor Arbiter's mark. Check its name.");
    }
    std::optional<db::Connection> migrated;
    contents = db::load_checked_contents(db::prepare_view(view, migrated));
  });
  return contents;
}

}  // namespace arbiter
