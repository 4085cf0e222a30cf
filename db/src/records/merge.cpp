// Uniting databases. Rows have keys derived from their content, so a union is all there is to it, except for runs and
// trials that were copied before they ended: of those, the later stage is kept.
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "records/contents.hpp"
#include "sqlite/rows.hpp"
#include "sqlite/work_database.hpp"

namespace arbiter {
namespace {

using db::Connection;
using db::Statement;
using db::Transaction;

/// How far a trial got. One that is done is never changed again; any other may be begun again in the same run.
int stage(TrialStatus status) noexcept {
  switch (status) {
    case TrialStatus::running:
      return 0;
    case TrialStatus::crashed:
      return 1;
    case TrialStatus::pruned:
      return 2;
    case TrialStatus::failed:
      return 3;
    case TrialStatus::wrong:
      return 4;
    case TrialStatus::done:
      return 5;
  }
  return 0;
}

/// A total order, so that the larger of several does not depend on the order in which they are compared.
bool earlier(const StoredTrial& a, const StoredTrial& b) {
  if (stage(a.status) != stage(b.status)) return stage(a.status) < stage(b.status);
  return std::tie(a.reason, a.calls_per_sample, a.blocks, a.samples_us, a.use.registers, a.use.spill_bytes) <
         std::tie(b.reason, b.calls_per_sample, b.blocks, b.samples_us, b.use.registers, b.use.spill_bytes);
}

auto progress(const Run& run) {
  return std::tie(run.finished, run.sm_clock_end_mhz, run.power_end_watts, run.clocks_dropped);
}

auto origin(const StoredRun& stored) {
  const Run& run = stored.run;
  return std::tie(stored.environment, run.host, run.command, run.started, run.sm_clock_start_mhz,
                  run.power_start_watts);
}

void add_run(Contents& into, const std::string& id, const StoredRun& run) {
  const auto [here, added] = into.runs.emplace(id, run);
  if (added) return;
  if (origin(here->second) != origin(run)) {
    throw DatabaseError("run '" + id +
                        "' has another environment, host, command or start in the other database: one of the two was "
                        "edited. Merge a copy that was not");
  }
  if (progress(here->second.run) < progress(run.run)) here->second = run;
}

void add_trial(Contents& into, const std::string& key, const StoredTrial& trial) {
  const auto [here, added] = into.trials.emplace(key, trial);
  if (added || here->second == trial) return;
  if (here->second.status == TrialStatus::done && trial.status == TrialStatus::done) {
    throw DatabaseError("trial " + key + " of run '" + trial.run +
                        "' is done in both databases, with different samples: one of the two is damaged or was "
                        "edited. Merge a copy that is not");
  }
  if (earlier(here->second, trial)) here->second = trial;
}

void add_candidate(Contents& into, const std::string& key, const Candidate& candidate) {
  const auto [here, added] = into.candidates.emplace(key, candidate);
  if (!added && here->second != candidate) {
    throw DatabaseError("candidate '" + candidate.name +
                        "': the same name and source have another backend, algorithm or numerics class in the other "
                        "database");
  }
}

using Family = std::tuple<std::string, Mode, int, Dtype, std::string, int>;

std::set<Family> measured_families(const Contents& contents) {
  std::set<Family> families;
  for (const auto& [key, trial] : contents.trials) {
    if (trial.status != TrialStatus::done) continue;
    const Problem& problem = contents.problems.at(trial.problem);
    if (problem.in_place) continue;
    families.emplace(trial.environment, problem.mode, problem.world, problem.dtype, problem.pattern, problem.hidden);
  }
  return families;
}

void recompute_all(WorkDatabase& database, const Contents& contents, const RecomputeDecisions& recompute) {
  std::set<std::string> measured;
  for (const auto& [key, trial] : contents.trials) measured.insert(trial.environment);
  for (const std::string& key : measured) recompute(database, contents.environments.at(key));
}

}  // namespace

Contents unite(const Contents& one, const Contents& other) {
  Contents result = one;
  result.decisions.clear();
  result.nccl.clear();
  result.environments.insert(other.environments.begin(), other.environments.end());
  result.problems.insert(other.problems.begin(), other.problems.end());
  for (const auto& [key, candidate] : other.candidates) add_candidate(result, key, candidate);
  for (const auto& [id, run] : other.runs) add_run(result, id, run);
  for (const auto& [key, trial] : other.trials) add_trial(result, key, trial);
  return result;
}

void require_measured_decisions(const Contents& contents, const std::string& name) {
  const std::set<Family> measured = measured_families(contents);
  for (const auto& [environment, decisions] : contents.decisions) {
    for (const Decision& decision : decisions) {
      if (measured.contains(
              {environment, decision.mode, decision.world, decision.dtype, decision.pattern, decision.hidden})) {
        continue;
      }
      throw DatabaseError(
          fmt::format("'{}': it has decisions for {} hidden={} world={} without the measurements they come from, so "
                      "they cannot be computed anew{}",
                      name, decision.pattern, decision.hidden, decision.world,
                      (contents.runs.empty() ? ": it is a snapshot. Give the work database that it was made from."
                                             : ". Tune them again, or give a complete copy.")));
    }
  }
  for (const auto& [environment, choices] : contents.nccl) {
    for (const NcclChoice& choice : choices) {
      const bool known = std::any_of(measured.begin(), measured.end(), [&, &e = environment](const Family& family) {
        return std::get<0>(family) == e && std::get<2>(family) == choice.world && std::get<4>(family) == "allreduce";
      });
      if (known) continue;
      throw DatabaseError(
          fmt::format("'{}': it has NCCL configurations for world={} without the measurements they come from, so they "
                      "cannot be computed anew. Give the work database that they were measured in, or tune again.",
                      name, choice.world));
    }
  }
}

Contents WorkDatabase::contents() const {
  return impl_->with_name([&] { return db::load_contents(impl_->connection); });
}

MergeReport WorkDatabase::merge(const Contents& more, const RecomputeDecisions& recompute) {
  return impl_->with_name([&] {
    Transaction transaction(impl_->connection);
    const Contents have = db::load_contents(impl_->connection);
    require_measured_decisions(have, impl_->path.string());
    require_measured_decisions(more, "what is merged into it");
    const Contents want = unite(have, more);
    const MergeReport report = db::store_measurements(impl_->connection, have, want);
    recompute_all(*this, want, recompute);
    transaction.commit();
    return report;
  });
}

MergeReport WorkDatabase::import(const Contents& more, const RecomputeDecisions& recompute) {
  return impl_->with_name([&] {
    Connection& connection = impl_->connection;
    Transaction transaction(connection);
    const Contents have = db::load_contents(connection);
    MergeReport report;
    if (have.empty()) {
      report = db::store_measurements(connection, have, more);
      for (const auto& [environment, decisions] : more.decisions) {
        for (const Decision& decision : decisions) db::insert_decision(connection, environment, decision);
      }
      for (const auto& [environment, choices] : more.nccl) {
        for (const NcclChoice& choice : choices) db::insert_nccl_choice(connection, environment, choice);
      }
    } else {
      report = merge(more, recompute);
    }
    transaction.commit();
    return report;
  });
}

void WorkDatabase::forget(const std::string& run_id, const RecomputeDecisions& recompute) {
  impl_->with_name([&] {
    Connection& connection = impl_->connection;
    Transaction transaction(connection);
    const Contents have = db::load_contents(connection);
    const auto run = have.runs.find(run_id);
    if (run == have.runs.end()) {
      throw DatabaseError("there is no run '" + run_id + "' in it. See the runs with `arbiter history`.");
    }
    require_measured_decisions(have, impl_->path.string());
    const Environment environment = have.environments.at(run->second.environment);
    Statement(connection, "DELETE FROM trial WHERE run = ?").bind(run_id).run();
    Statement(connection, "DELETE FROM run WHERE id = ?").bind(run_id).run();
    recompute(*this, environment);
    connection.execute(
        "DELETE FROM problem WHERE key NOT IN (SELECT problem FROM trial);"
        "DELETE FROM candidate WHERE key NOT IN (SELECT candidate FROM trial UNION SELECT candidate FROM decision "
        "UNION SELECT runner_up FROM decision WHERE runner_up IS NOT NULL UNION SELECT candidate FROM nccl_choice "
        "UNION SELECT forced FROM nccl_choice WHERE forced IS NOT NULL);"
        "DELETE FROM environment WHERE key NOT IN (SELECT environment FROM run UNION SELECT environment FROM "
        "decision UNION SELECT environment FROM nccl_choice)");
    transaction.commit();
  });
}

MergeReport merge(const std::filesystem::path& destination, const std::vector<std::filesystem::path>& sources,
                  const RecomputeDecisions& recompute) {
  // Everything that can be wrong with a source is found before the destination is touched.
  Contents all;
  for (const std::filesystem::path& source : sources) {
    const Contents contents = read_contents(source);
    require_measured_decisions(contents, source.string());
    try {
      all = unite(all, contents);
    } catch (const DatabaseError& error) {
      throw DatabaseError("'" + source.string() + "': " + error.what() + ".");
    }
  }
  return WorkDatabase::open(destination).merge(all, recompute);
}

}  // namespace arbiter
