#include "sqlite/rows.hpp"

#include <algorithm>

#include "arbiter/db/fields.hpp"
#include "records/digest.hpp"

namespace arbiter::db {
namespace {

void read(const Statement& row, int column, std::string& field) { field = row.text(column); }
void read(const Statement& row, int column, int& field) { field = row.small_integer(column); }
void read(const Statement& row, int column, std::int64_t& field) { field = row.integer(column); }
void read(const Statement& row, int column, bool& field) { field = row.integer(column) != 0; }
void read(const Statement& row, int column, std::map<std::string, std::string>& field) {
  field = parse_nccl_variables(row.text(column));
}
template <typename Enumeration>
requires std::is_enum_v<Enumeration>
void read(const Statement& row, int column, Enumeration& field) { parse_field(row.text(column), field); }

/// All fields of a record, from the columns of a row that begin with `first`. The next column.
template <typename Record>
int read_fields(const Statement& row, int first, Record& record) {
  for_each_field(record, [&](const char*, auto& field) { read(row, first++, field); });
  return first;
}

void bind(Statement& statement, int column, const std::map<std::string, std::string>& field) {
  statement.bind_at(column, nccl_variables_text(field));
}
template <typename Value>
void bind(Statement& statement, int column, const Value& field) {
  if constexpr (std::is_enum_v<Value>) {
    statement.bind_at(column, to_string(field));
  } else {
    statement.bind_at(column, field);
  }
}

template <typename Record>
int bind_fields(Statement& statement, int first, const Record& record) {
  for_each_field(record, [&](const char*, const auto& field) { bind(statement, first++, field); });
  return first;
}

/// "?,?,?" for the fields of a record and `more` columns beside them.
template <typename Record>
std::string places(int more) {
  int count = more + field_count<Record>();
  std::string all = "?";
  while (--count > 0) all += ",?";
  return all;
}

/// False if a row of its key was there.
template <typename Record>
bool insert_keyed(Connection& connection, const char* table, const Record& record) {
  Statement insert(connection, std::string("INSERT OR IGNORE INTO ") + table + " (key, " + columns<Record>() +
                                   ") VALUES (" + places<Record>(1) + ")");
  insert.bind(record.key());
  bind_fields(insert, 2, record);
  insert.run();
  return connection.changes() != 0;
}

int later_field_count() {
  int count = 0;
  const Decision decision;
  for_each_later_field(decision, [&](const char*, const auto&) { ++count; });
  return count;
}

std::string decision_columns() {
  std::string all =
      "key, environment, " + columns<Decision>() + ", candidate, median_us, runner_up, runner_up_median_us";
  const Decision decision;
  for_each_later_field(decision, [&](const char* name, const auto&) { all.append(", ").append(name); });
  return all;
}

Environment environment_from(const Statement& row) {
  Environment environment;
  read_fields(row, 1, environment);
  return environment;
}

using Candidates = std::map<std::string, Candidate>;

Candidates load_candidates_of_decisions(Connection& connection) {
  Statement query(connection, "SELECT key, " + columns<Candidate>() +
                                  " FROM candidate WHERE key IN "
                                  "(SELECT candidate FROM decision UNION SELECT runner_up FROM decision UNION "
                                  "SELECT candidate FROM nccl_choice UNION SELECT forced FROM nccl_choice)");
  Candidates candidates;
  while (query.step()) {
    Candidate candidate = candidate_from(query, 1);
    const std::string key = query.text(0);
    require_key("candidate", key, candidate.key());
    candidates.emplace(key, std::move(candidate));
  }
  return candidates;
}

const Candidate& find(const Candidates& candidates, const std::string& key) {
  const auto found = candidates.find(key);
  if (found == candidates.end()) throw DatabaseError("a decision names a candidate that is not there");
  return found->second;
}

}  // namespace

void require_key(const char* what, const std::string& stored, const std::string& computed) {
  if (stored != computed) {
    throw DatabaseError(std::string("the content of a row of table ") + what + " does not match its key");
  }
}

Candidate candidate_from(const Statement& row, int first) {
  Candidate candidate;
  read_fields(row, first, candidate);
  return candidate;
}

void require_digest(const std::string& what, const std::string& stored, const std::string& computed) {
  // Rows of schema versions 1 and 2 have no digest.
  if (!stored.empty() && stored != computed) throw DatabaseError(what + " does not match its digest");
}

const std::string& run_columns() {
  static const std::string text = "id, environment, " + columns<Run>() + ", digest";
  return text;
}

Run run_from(const Statement& row) {
  Run run;
  run.id = row.text(0);
  const int last = read_fields(row, 2, run);
  require_digest("run '" + run.id + "'", row.text(last), run_digest(row.text(1), run));
  return run;
}

void store_run(Connection& connection, const std::string& environment_key, const Run& run) {
  Statement insert(connection,
                   "INSERT INTO run (" + run_columns() + ") VALUES (" + places<Run>(3) +
                       ") ON CONFLICT (id) DO UPDATE SET finished = excluded.finished, sm_clock_end_mhz = "
                       "excluded.sm_clock_end_mhz, power_end_watts = excluded.power_end_watts, clocks_dropped = "
                       "excluded.clocks_dropped, digest = excluded.digest");
  insert.bind(run.id, environment_key);
  insert.bind_at(bind_fields(insert, 3, run), run_digest(environment_key, run));
  insert.run();
}

Problem problem_from(const Statement& row, int first) {
  Problem problem;
  read_fields(row, first, problem);
  return problem;
}

void insert_environment(Connection& connection, const Environment& environment) {
  validate(environment);
  insert_keyed(connection, "environment", environment);
}

void insert_problem(Connection& connection, const Problem& problem) {
  validate(problem);
  insert_keyed(connection, "problem", problem);
}

void insert_candidate(Connection& connection, const Candidate& candidate) {
  validate(candidate);
  if (insert_keyed(connection, "candidate", candidate)) return;
  // The key covers name and source only; the rest must follow from them.
  Statement query(connection, "SELECT " + columns<Candidate>() + " FROM candidate WHERE key = ?");
  query.bind(candidate.key());
  if (query.step() && candidate_from(query, 0) != candidate) {
    throw DatabaseError("candidate '" + candidate.name +
                        "': the same name and source are stored with another backend, algorithm or numerics class");
  }
}

void insert_decision(Connection& connection, const std::string& environment_key, const Decision& decision) {
  insert_candidate(connection, decision.candidate);
  if (decision.runner_up) insert_candidate(connection, *decision.runner_up);
  Statement insert(connection, "INSERT INTO decision (" + decision_columns() + ") VALUES (" +
                                   places<Decision>(6 + later_field_count()) + ")");
  insert.bind(decision_key(environment_key, decision), environment_key);
  int column = bind_fields(insert, 3, decision);
  insert.bind_at(column++, decision.candidate.key());
  insert.bind_at(column++, decision.median_us);
  insert.bind_at(column++, decision.runner_up ? std::optional(decision.runner_up->key()) : std::nullopt);
  insert.bind_at(column++, decision.runner_up_median_us);
  for_each_later_field(decision, [&](const char*, const auto& field) { bind(insert, column++, field); });
  insert.run();
}

void insert_nccl_choice(Connection& connection, const std::string& environment_key, const NcclChoice& choice) {
  insert_candidate(connection, choice.candidate);
  if (choice.forced) insert_candidate(connection, *choice.forced);
  Statement insert(connection,
                   "INSERT INTO nccl_choice (key, environment, world, bytes_min, bytes_max, candidate, median_us, "
                   "forced, forced_median_us) VALUES (?,?,?,?,?,?,?,?,?)");
  const auto forced = choice.forced ? std::optional(choice.forced->key()) : std::nullopt;
  insert
      .bind(nccl_choice_key(environment_key, choice), environment_key, choice.world, choice.bytes_min, choice.bytes_max,
            choice.candidate.key(), choice.median_us, forced, choice.forced_median_us)
      .run();
}

std::vector<Environment> load_environments(Connection& connection) {
  return naming_the_file(connection, [&] {
    Statement query(connection, "SELECT key, " + columns<Environment>() + " FROM environment ORDER BY key");
    std::vector<Environment> environments;
    while (query.step()) {
      Environment environment = environment_from(query);
      require_key("environment", query.text(0), environment.key());
      validate(environment);
      environments.push_back(std::move(environment));
    }
    return environments;
  });
}

namespace {

void load_nccl_choices(Connection& connection, const Candidates& candidates, std::map<std::string, DecisionSet>& sets) {
  Statement query(connection,
                  "SELECT key, environment, world, bytes_min, bytes_max, candidate, median_us, forced, "
                  "forced_median_us FROM nccl_choice");
  while (query.step()) {
    const std::string environment_key = query.text(1);
    const auto set = sets.find(environment_key);
    if (set == sets.end()) throw DatabaseError("an NCCL choice names an environment that is not there");
    NcclChoice choice;
    choice.world = query.small_integer(2);
    choice.bytes_min = query.integer(3);
    choice.bytes_max = query.integer(4);
    choice.candidate = find(candidates, query.text(5));
    choice.median_us = query.real(6);
    if (!query.is_null(7)) choice.forced = find(candidates, query.text(7));
    choice.forced_median_us = query.real(8);
    require_key("nccl_choice", query.text(0), nccl_choice_key(environment_key, choice));
    set->second.nccl.push_back(std::move(choice));
  }
}

}  // namespace

std::vector<DecisionSet> load_decisions(Connection& connection) {
  return naming_the_file(connection, [&] {
    std::map<std::string, DecisionSet> sets;
    for (Environment& environment : load_environments(connection)) {
      std::string key = environment.key();
      sets[std::move(key)].environment = std::move(environment);
    }
    const Candidates candidates = load_candidates_of_decisions(connection);
    Statement query(connection, "SELECT " + decision_columns() + " FROM decision");
    while (query.step()) {
      const std::string environment_key = query.text(1);
      const auto set = sets.find(environment_key);
      if (set == sets.end()) throw DatabaseError("a decision names an environment that is not there");
      Decision decision;
      int column = read_fields(query, 2, decision);
      decision.candidate = find(candidates, query.text(column++));
      decision.median_us = query.real(column++);
      if (!query.is_null(column)) decision.runner_up = find(candidates, query.text(column));
      decision.runner_up_median_us = query.real(++column);
      for_each_later_field(decision, [&](const char*, auto& field) { read(query, ++column, field); });
      require_key("decision", query.text(0), decision_key(environment_key, decision));
      set->second.decisions.push_back(std::move(decision));
    }
    load_nccl_choices(connection, candidates, sets);
    std::vector<DecisionSet> result;
    for (auto& [key, set] : sets) {
      if (set.decisions.empty() && set.nccl.empty()) continue;
      validate_and_sort(set.decisions);
      validate_and_sort(set.nccl);
      result.push_back(std::move(set));
    }
    return result;
  });
}

}  // namespace arbiter::db
