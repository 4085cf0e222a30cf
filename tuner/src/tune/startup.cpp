#include "arbiter/startup_tune.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "arbiter/error.hpp"
#include "arbiter/generator/temporary_folder.hpp"
#include "arbiter/tuner/tune.hpp"

namespace arbiter {
namespace {

/// A kernel that hangs costs the start one of these.
constexpr auto deadline_of_a_candidate = std::chrono::seconds(2);

/// What the communicator would load: rank 0's bytes on every rank.
std::vector<DecisionSet> given_decisions(Bootstrap& bootstrap, const CommunicatorOptions& options,
                                         std::vector<std::string>& notes) {
  if (options.decisions) return *options.decisions;
  std::string bytes, problem;
  if (bootstrap.rank() == 0 && !options.variables.db.empty()) {
    try {
      bytes = read_for_broadcast(options.variables.db);
    } catch (const std::exception& error) {
      problem = error.what();
    }
  }
  bytes = bootstrap.broadcast(bytes, 0);
  problem = bootstrap.broadcast(problem, 0);
  std::vector<DecisionSet> sets;
  if (problem.empty() && !bytes.empty()) {
    try {
      sets = read_decisions_from_bytes(bytes, options.variables.db);
    } catch (const std::exception& error) {
      problem = error.what();
    }
    // Reading equal bytes can still fail on one rank: then nobody uses them.
    if (!bootstrap.all(problem.empty())) sets.clear();
  }
  if (!problem.empty()) notes.push_back("the database is not used: " + problem);
  return sets;
}

/// Would `auto` find a measured decision for every size of the family?
bool answered(const ProblemFamily& family, int world, const Environment& here, const std::vector<DecisionSet>& sets) {
  for (const DecisionSet& set : sets) {
    for (const Decision& decision : set.decisions) {
      if (compatibility(here, set.environment, decision.candidate).verdict == Compatibility::incompatible) continue;
      ProblemFamily other = family;
      other.hidden = decision.hidden;
      if (!belongs(decision, other, world)) continue;
      if (decision.hidden != family.hidden || decision.tokens_max >= family.max_tokens) return true;
    }
  }
  return false;
}

void add(std::vector<DecisionSet>& sets, const Environment& here, const TuneResult& result,
         const std::vector<ProblemFamily>& tuned, int world) {
  auto set = std::find_if(sets.begin(), sets.end(), [&](const DecisionSet& each) { return each.environment == here; });
  if (set == sets.end()) set = sets.insert(sets.begin(), {here, {}});
  std::erase_if(set->decisions, [&](const Decision& decision) {
    return std::any_of(tuned.begin(), tuned.end(),
                       [&](const ProblemFamily& family) { return belongs(decision, family, world); });
  });
  set->decisions.insert(set->decisions.end(), result.decisions.begin(), result.decisions.end());
}

}  // namespace

StartupTuneResult tune_at_startup(const std::shared_ptr<Bootstrap>& bootstrap, const std::shared_ptr<Device>& device,
                                  const StartupTuneOptions& options, ProgressSink* sink) {
  if (options.budget.count() <= 0) {
    throw InvalidArgument(
        fmt::format("the budget of a startup tune is {} ms; expected more than 0", options.budget.count()));
  }
  StartupTuneResult result;
  std::vector<DecisionSet> known = given_decisions(*bootstrap, options.communicator, result.notes);
  result.decisions = share_decisions(known);
  if (bootstrap->size() < 2) return result;  // a single rank has nothing to choose

  GroupOptions group_options;
  group_options.variables = options.communicator.variables;
  group_options.variables.timeout =
      std::min<std::chrono::milliseconds>(group_options.variables.timeout, deadline_of_a_candidate);
  if (device->kind() == DeviceKind::cpu) group_options.variables.timeout = options.communicator.variables.timeout;
  group_options.variables.first_timeout = group_options.variables.timeout;
  group_options.nccl = options.communicator.nccl && device->kind() == DeviceKind::cuda;
  group_options.cache = options.communicator.cache;
  const std::unique_ptr<Group> group = make_group(bootstrap, device, group_options);
  for (const ProblemFamily& family : options.families) {
    if (!answered(family, group->size(), group->environment(), known)) result.tuned.push_back(family);
  }
  if (result.tuned.empty()) return result;

  std::filesystem::path database = options.database;
  std::optional<TemporaryFolder> scratch;  // for a database that nobody keeps
  if (database.empty()) {
    std::string problem;
    try {
      if (bootstrap->rank() == 0) scratch.emplace();
    } catch (const Unavailable& error) {
      problem = error.what();
    }
    problem = bootstrap->broadcast(problem, 0);
    if (!problem.empty()) {
      result.notes.push_back("nothing was tuned: " + problem);
      result.tuned.clear();
      return result;
    }
    database = bootstrap->broadcast(scratch ? (scratch->path() / "startup.db").string() : "", 0);
  }
  TuneOptions tuning;
  tuning.families = result.tuned;
  tuning.database = database;
  tuning.resume = true;
  tuning.budget = options.budget;
  tuning.effort = SearchEffort::for_device(device->kind());
  tuning.measure = MeasureSettings::for_device(device->kind());
  if (options.source) tuning.source = *options.source;
  tuning.command = "startup tune";
  try {
    const TuneResult tuned = tune(*group, tuning, sink);
    add(known, group->environment(), tuned, result.tuned, group->size());
    result.decisions = share_decisions(std::move(known));
    result.notes.insert(result.notes.end(), tuned.notes.begin(), tuned.notes.end());
  } catch (const DatabaseError& error) {  // on every rank
    result.notes.push_back("nothing was tuned: " + std::string(error.what()));
    result.tuned.clear();
  }
  return result;
}

}  // namespace arbiter
