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
      if (compatibility(here, set.environment, decision.candidate, decision.use).verdict == Compatibility::incompatible)
        continue;
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

/// The clock of rank 0, which all ranks follow.
class SharedClock {
 public:
  SharedClock(Bootstrap& bootstrap, const StartupTuneOptions& options)
      : bootstrap_(bootstrap), now_(options.now), start_(read()) {}
  /// Collective.
  std::chrono::milliseconds elapsed() const {
    std::int64_t count = std::chrono::duration_cast<std::chrono::milliseconds>(read() - start_).count();
    bootstrap_.broadcast(&count, sizeof(count), 0);
    return std::chrono::milliseconds(count);
  }

 private:
  std::chrono::steady_clock::time_point read() const { return now_ ? now_() : std::chrono::steady_clock::now(); }
  Bootstrap& bootstrap_;
  std::function<std::chrono::steady_clock::time_point()> now_;
  std::chrono::steady_clock::time_point start_;
};

/// With a deadline of its own, and an NCCL of its own: a candidate that hangs costs the communicator neither.
std::unique_ptr<Group> make_tuning_group(const std::shared_ptr<Bootstrap>& bootstrap,
                                         const std::shared_ptr<Device>& device, const CommunicatorOptions& options) {
  GroupOptions group;
  group.variables = options.variables;
  group.variables.timeout = std::min<std::chrono::milliseconds>(group.variables.timeout, deadline_of_a_candidate);
  if (device->kind() == DeviceKind::cpu) group.variables.timeout = options.variables.timeout;
  group.variables.first_timeout = group.variables.timeout;
  group.nccl = options.nccl && device->kind() == DeviceKind::cuda;
  group.cache = options.cache;
  return make_group(bootstrap, device, group);
}

/// A folder of rank 0's for a database that nobody keeps; the reason where there is none.
std::string make_scratch(Bootstrap& bootstrap, std::optional<TemporaryFolder>& scratch) {
  std::string problem;
  try {
    if (bootstrap.rank() == 0) scratch.emplace();
  } catch (const Unavailable& error) {
    problem = error.what();
  }
  return bootstrap.broadcast(problem, 0);
}

/// Measures all of `families`; what is found goes in front of what is known.
void tune_families(Group& group, const StartupTuneOptions& options, const std::vector<ProblemFamily>& families,
                   const SharedClock& clock, std::vector<DecisionSet>& known, StartupTuneResult& result,
                   ProgressSink* sink) {
  TuneOptions tuning;
  tuning.families = families;
  tuning.resume = true;
  tuning.now = options.now;
  tuning.effort = SearchEffort::for_device(group.device().kind());
  tuning.measure = MeasureSettings::for_device(group.device().kind());
  if (options.source) tuning.source = *options.source;
  tuning.command = "startup tune";
  Bootstrap& bootstrap = group.bootstrap();
  std::optional<TemporaryFolder> scratch;
  const std::string wanted = bootstrap.broadcast(options.database.string(), 0);
  for (const bool kept : {true, false}) {
    if (kept && wanted.empty()) continue;
    tuning.budget = options.budget - clock.elapsed();
    if (tuning.budget.count() <= 0) {
      result.notes.emplace_back("the time was spent before anything was measured");
      return;
    }
    tuning.database = wanted;
    if (!kept) {
      if (const std::string problem = make_scratch(bootstrap, scratch); !problem.empty()) {
        result.notes.push_back("nothing was tuned: " + problem);
        return;
      }
      if (scratch) tuning.database = scratch->path() / "startup.db";
      tuning.database = bootstrap.broadcast(tuning.database.string(), 0);
    }
    try {
      const TuneResult tuned = tune(group, tuning, sink);
      result.tuned = families;
      add(known, group.environment(), tuned, families, group.size());
      result.notes.insert(result.notes.end(), tuned.notes.begin(), tuned.notes.end());
      return;
    } catch (const DatabaseError& error) {  // on every rank
      result.notes.push_back((kept ? "what is measured is not kept: " : "nothing was tuned: ") +
                             std::string(error.what()));
    }
  }
}

/// Only what strict numerics would take: the winner among others would be of no use.
CandidateSource strict(CandidateSource source) {
  source.enumerate = [all = std::move(source.enumerate)](Group& group, const ProblemFamily& family,
                                                         std::span<const CandidateSpec> best_plain) {
    std::vector<CandidateSpec> specs = all(group, family, best_plain);
    std::erase_if(specs, [&](const CandidateSpec& spec) {
      return !spec.kernel || group.catalogue().algorithm(spec.kernel->backend, spec.kernel->algorithm).numerics !=
                                 Numerics::rank_order_fp32;
    });
    return specs;
  };
  return source;
}

}  // namespace

StartupTuneResult tune_at_startup(const std::shared_ptr<Bootstrap>& bootstrap, const std::shared_ptr<Device>& device,
                                  const StartupTuneOptions& options, ProgressSink* sink) {
  if (options.budget.count() <= 0) {
    throw InvalidArgument(
        fmt::format("the budget of a startup tune is {} ms; expected more than 0", options.budget.count()));
  }
  const SharedClock clock(*bootstrap, options);
  StartupTuneResult result;
  std::vector<DecisionSet> known = given_decisions(*bootstrap, options.communicator, result.notes);
  result.decisions = share_decisions(known);
  if (bootstrap->size() < 2) return result;  // a single rank has nothing to choose

  const std::unique_ptr<Group> group = make_tuning_group(bootstrap, device, options.communicator);
  std::vector<ProblemFamily> missing;
  for (const ProblemFamily& family : options.families) {
    if (!answered(family, group->size(), group->environment(), known)) missing.push_back(family);
  }
  if (!missing.empty()) tune_families(*group, options, missing, clock, known, result, sink);
  result.decisions = share_decisions(std::move(known));
  result.spent = clock.elapsed();
  return result;
}

StartupTuner startup_tuner(StartupTuneOptions settings) {
  return [settings = std::move(settings)](const StartupTuneOrder& order) {
    StartupTuneOptions options = settings;
    options.families = order.families;
    options.budget = order.budget;
    options.database = order.database;
    options.communicator = order.options;
    options.communicator.decisions = share_decisions();  // the communicator found nothing in them
    if (order.options.variables.numerics == NumericsPolicy::strict) {
      options.source =
          std::make_shared<CandidateSource>(strict(options.source ? *options.source : CandidateSource::runtime()));
    }
    const StartupTuneResult found = tune_at_startup(order.bootstrap, order.device, options);
    return StartupTuneAnswer{found.decisions, found.notes, found.spent};
  };
}

}  // namespace arbiter
