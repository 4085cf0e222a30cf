#include "sqlite/rows.hpp"

#include <algorithm>

#include "records/digest.hpp"

namespace arbiter::db {
namespace {

constexpr std::string_view environment_columns =
    "key, device, gpu_name, sm_count, compute_capability, memory_clock_mhz, power_limit_watts, driver_version, "
    "cuda_runtime, compiler_version, nccl_version, topology, nodes, ranks_per_node, symmetric_memory, multicast, "
    "nccl_variables, arbiter_version, catalogue_hash, nvlink_domains";

Environment environment_from(const Statement& row) {
  Environment environment;
  environment.device = row.text(1);
  environment.gpu_name = row.text(2);
  environment.sm_count = row.small_integer(3);
  environment.compute_capability = row.small_integer(4);
  environment.memory_clock_mhz = row.small_integer(5);
  environment.power_limit_watts = row.small_integer(6);
  environment.driver_version = row.text(7);
  environment.cuda_runtime = row.text(8);
  environment.compiler_version = row.text(9);
  environment.nccl_version = row.text(10);
  environment.topology = row.text(11);
  environment.nodes = row.small_integer(12);
  environment.ranks_per_node = row.small_integer(13);
  environment.symmetric_memory = row.text(14);
  environment.multicast = row.integer(15) != 0;
  environment.nccl_variables = parse_nccl_variables(row.text(16));
  environment.arbiter_version = row.text(17);
  environment.catalogue_hash = row.text(18);
  environment.nvlink_domains = row.text(19);
  return environment;
}

using Candidates = std::map<std::string, Candidate>;

Candidates load_candidates_of_decisions(Connection& connection) {
  Statement query(connection,
                  "SELECT backend, algorithm, name, numerics, source_hash, key FROM candidate WHERE key IN "
                  "(SELECT candidate FROM decision UNION SELECT runner_up FROM decision UNION "
                  "SELECT candidate FROM nccl_choice UNION SELECT forced FROM nccl_choice)");
  Candidates candidates;
  while (query.step()) {
    Candidate candidate = candidate_from(query, 0);
    const std::string key = query.text(5);
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
  candidate.backend = parse_backend(row.text(first));
  candidate.algorithm = row.text(first + 1);
  candidate.name = row.text(first + 2);
  candidate.numerics = parse_numerics(row.text(first + 3));
  candidate.source_hash = row.text(first + 4);
  return candidate;
}

void require_digest(const std::string& what, const std::string& stored, const std::string& computed) {
  // Rows of schema versions 1 and 2 have no digest.
  if (!stored.empty() && stored != computed) throw DatabaseError(what + " does not match its digest");
}

Run run_from(const Statement& row) {
  Run run;
  run.id = row.text(0);
  run.host = row.text(2);
  run.command = row.text(3);
  run.started = row.integer(4);
  run.finished = row.integer(5);
  run.sm_clock_start_mhz = row.small_integer(6);
  run.sm_clock_end_mhz = row.small_integer(7);
  run.power_start_watts = row.small_integer(8);
  run.power_end_watts = row.small_integer(9);
  run.clocks_dropped = row.integer(10) != 0;
  require_digest("run '" + run.id + "'", row.text(11), run_digest(row.text(1), run));
  return run;
}

void store_run(Connection& connection, const std::string& environment_key, const Run& run) {
  Statement insert(connection,
                   "INSERT INTO run (" + std::string(run_columns) +
                       ") VALUES (?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET finished = "
                       "excluded.finished, sm_clock_end_mhz = excluded.sm_clock_end_mhz, power_end_watts = "
                       "excluded.power_end_watts, clocks_dropped = excluded.clocks_dropped, digest = excluded.digest");
  insert
      .bind(run.id, environment_key, run.host, run.command, run.started, run.finished, run.sm_clock_start_mhz,
            run.sm_clock_end_mhz, run.power_start_watts, run.power_end_watts, static_cast<int>(run.clocks_dropped),
            run_digest(environment_key, run))
      .run();
}

Problem problem_from(const Statement& row, int first) {
  Problem problem;
  problem.pattern = row.text(first);
  problem.dtype = parse_dtype(row.text(first + 1));
  problem.hidden = row.small_integer(first + 2);
  problem.tokens = row.integer(first + 3);
  problem.world = row.small_integer(first + 4);
  problem.mode = parse_mode(row.text(first + 5));
  problem.in_place = row.integer(first + 6) != 0;
  return problem;
}

void insert_environment(Connection& connection, const Environment& environment) {
  validate(environment);
  Statement insert(connection, "INSERT OR IGNORE INTO environment (" + std::string(environment_columns) +
                                   ") VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
  insert
      .bind(environment.key(), environment.device, environment.gpu_name, environment.sm_count,
            environment.compute_capability, environment.memory_clock_mhz, environment.power_limit_watts,
            environment.driver_version, environment.cuda_runtime, environment.compiler_version,
            environment.nccl_version, environment.topology, environment.nodes, environment.ranks_per_node,
            environment.symmetric_memory, static_cast<int>(environment.multicast),
            nccl_variables_text(environment.nccl_variables), environment.arbiter_version, environment.catalogue_hash,
            environment.nvlink_domains)
      .run();
}

void insert_problem(Connection& connection, const Problem& problem) {
  validate(problem);
  Statement insert(connection,
                   "INSERT OR IGNORE INTO problem (key, pattern, dtype, hidden, tokens, world, mode, in_place) "
                   "VALUES (?,?,?,?,?,?,?,?)");
  insert
      .bind(problem.key(), problem.pattern, to_string(problem.dtype), problem.hidden, problem.tokens, problem.world,
            to_string(problem.mode), static_cast<int>(problem.in_place))
      .run();
}

void insert_candidate(Connection& connection, const Candidate& candidate) {
  validate(candidate);
  const std::string key = candidate.key();
  Statement insert(connection,
                   "INSERT OR IGNORE INTO candidate (key, backend, algorithm, name, numerics, source_hash) "
                   "VALUES (?,?,?,?,?,?)");
  insert
      .bind(key, to_string(candidate.backend), candidate.algorithm, candidate.name, to_string(candidate.numerics),
            candidate.source_hash)
      .run();
  if (connection.changes() != 0) return;
  // The key covers name and source only; the rest must follow from them.
  Statement query(connection, "SELECT backend, algorithm, name, numerics, source_hash FROM candidate WHERE key = ?");
  query.bind(key);
  if (query.step() && candidate_from(query, 0) != candidate) {
    throw DatabaseError("candidate '" + candidate.name +
                        "': the same name and source are stored with another backend, algorithm or numerics class");
  }
}

void insert_decision(Connection& connection, const std::string& environment_key, const Decision& decision) {
  insert_candidate(connection, decision.candidate);
  if (decision.runner_up) insert_candidate(connection, *decision.runner_up);
  Statement insert(
      connection,
      "INSERT INTO decision (key, environment, mode, world, dtype, pattern, hidden, tokens_min, tokens_max, "
      "candidate, median_us, runner_up, runner_up_median_us) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)");
  const auto runner_up = decision.runner_up ? std::optional(decision.runner_up->key()) : std::nullopt;
  insert
      .bind(decision_key(environment_key, decision), environment_key, to_string(decision.mode), decision.world,
            to_string(decision.dtype), decision.pattern, decision.hidden, decision.tokens_min, decision.tokens_max,
            decision.candidate.key(), decision.median_us, runner_up, decision.runner_up_median_us)
      .run();
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
    Statement query(connection, "SELECT " + std::string(environment_columns) + " FROM environment ORDER BY key");
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
    Statement query(connection,
                    "SELECT key, environment, mode, world, dtype, pattern, hidden, tokens_min, tokens_max, candidate, "
                    "median_us, runner_up, runner_up_median_us FROM decision");
    while (query.step()) {
      const std::string environment_key = query.text(1);
      const auto set = sets.find(environment_key);
      if (set == sets.end()) throw DatabaseError("a decision names an environment that is not there");
      Decision decision;
      decision.mode = parse_mode(query.text(2));
      decision.world = query.small_integer(3);
      decision.dtype = parse_dtype(query.text(4));
      decision.pattern = query.text(5);
      decision.hidden = query.small_integer(6);
      decision.tokens_min = query.integer(7);
      decision.tokens_max = query.integer(8);
      decision.candidate = find(candidates, query.text(9));
      decision.median_us = query.real(10);
      if (!query.is_null(11)) decision.runner_up = find(candidates, query.text(11));
      decision.runner_up_median_us = query.real(12);
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
