// Records to rows and back. Reading trusts nothing: spellings, ranges, keys and intervals are all checked, so that a
// damaged or edited row is an error and never a decision that makes no sense.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/db/database.hpp"
#include "arbiter/db/fields.hpp"
#include "sqlite/sqlite.hpp"

namespace arbiter::db {

// Each throws DatabaseError (without a file name) saying which field of what is wrong.
void validate(const Environment&);
void validate(const Problem&);
void validate(const Candidate&);
void validate(const Trial&);
void validate(const Run&);
/// Every decision by itself, and that the intervals of a family do not overlap. Sorts them into the order of
/// DecisionSet::decisions.
void validate_and_sort(std::vector<Decision>&);
void validate_and_sort(std::vector<NcclChoice>&);

// Insert unless it is there. Throw DatabaseError when another content is stored under the same key.
void insert_environment(Connection&, const Environment&);
void insert_problem(Connection&, const Problem&);
void insert_candidate(Connection&, const Candidate&);
void insert_decision(Connection&, const std::string& environment_key, const Decision&);
void insert_nccl_choice(Connection&, const std::string& environment_key, const NcclChoice&);

/// Insert, or replace what may change: everything but origin (environment, host, command, start).
void store_run(Connection&, const std::string& environment_key, const Run&);
/// "id, environment, ..., digest": what run_from reads.
const std::string& run_columns();
/// A row of run_columns, checked against its digest.
Run run_from(const Statement&);

/// Throws DatabaseError if the digest stored with an outcome is not that of what was read.
void require_digest(const std::string& what, const std::string& stored, const std::string& computed);

/// "pattern, dtype, ...", or with a `table` "p." in front of each.
template <typename Record>
std::string columns(std::string_view table = {}) {
  std::string all;
  Record record;
  for_each_field(
      record, [&](const char* name, const auto&) { all.append(all.empty() ? "" : ", ").append(table).append(name); });
  return all;
}

template <typename Record>
int field_count() {
  int count = 0;
  Record record;
  for_each_field(record, [&](const char*, const auto&) { ++count; });
  return count;
}

std::vector<Environment> load_environments(Connection&);
/// From the columns<Candidate>() and columns<Problem>() that begin with `first`.
Candidate candidate_from(const Statement&, int first);
Problem problem_from(const Statement&, int first);

/// Throws DatabaseError if a stored key is not the one computed from the row.
void require_key(const char* table, const std::string& stored, const std::string& computed);

/// Add the file's name and what to do to an error that one of the checks above found in it.
template <typename Load>
auto naming_the_file(const Connection& connection, Load&& load) {
  try {
    return load();
  } catch (const SqliteError&) {
    throw;  // names the file already
  } catch (const Error& error) {
    const std::string what = error.what();
    if (what.starts_with(connection.name())) throw;
    throw DatabaseError(
        connection.name() + ": " + what +
        ". The file is damaged or was edited by hand: restore a copy of it, or remove it and tune again.");
  }
}

/// Environments without decisions and NCCL choices are left out. Ordered by environment key. Throws DatabaseError
/// naming the file.
std::vector<DecisionSet> load_decisions(Connection&);

}  // namespace arbiter::db
