#include "communicator/startup_tune.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "arbiter/error.hpp"
#include "arbiter/generator/folder.hpp"
#include "communicator/impl.hpp"
#include "group/collective.hpp"

namespace arbiter {
namespace {

constexpr const char* file_name = "startup.db";

std::string system_error(int code) { return std::generic_category().message(code); }

bool measured(const PlannedInterval& interval) {
  return interval.rule != Rule::heuristic && interval.rule != Rule::fallback;
}

}  // namespace

std::chrono::milliseconds startup_budget(const CommunicatorOptions& options) noexcept {
  const EnvironmentVariables& variables = options.variables;
  const bool chooses = !variables.off && variables.backend == Backend::automatic && options.candidate.empty();
  return options.startup_tuner && chooses ? variables.startup_tune : std::chrono::milliseconds(0);
}

KeptDecisions kept_decisions(const EnvironmentVariables& variables) {
  KeptDecisions kept;
  const auto because = [&](const std::string& reason) {
    kept.problem = fmt::format("what a start measures is not kept in '{}': {}",
                               (variables.cache_dir / file_name).string(), reason);
    return kept;
  };
  if (variables.cache_dir.empty()) return because("there is no folder for it; set ARBITER_CACHE_DIR");
  const bool made = make_private_folders(variables.cache_dir);
  const int error = errno;
  const FolderResult folder = open_trusted_folder(variables.cache_dir);
  if (!folder.untrusted.empty()) return because(folder.untrusted);
  if (!folder.folder) return because(system_error(made ? errno : error));
  struct stat info {};
  if (fstatat(folder.folder.get(), file_name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno != ENOENT) return because(system_error(errno));
    kept.database = variables.cache_dir / file_name;
    return kept;
  }
  if (!S_ISREG(info.st_mode)) return because("it is no regular file");
  if (const std::string reason = distrust(info); !reason.empty()) return because(reason);
  try {
    kept.bytes = read_for_broadcast(variables.cache_dir / file_name);
    kept.database = variables.cache_dir / file_name;
  } catch (const std::exception& failure) {
    return because(failure.what());
  }
  return kept;
}

/// The families whose whole plan is a guess. Kernels take whole vectors, so there is nothing to measure for other rows.
std::vector<ProblemFamily> Communicator::Impl::unmeasured(const std::vector<ProblemFamily>& families) {
  std::vector<ProblemFamily> unknown;
  everywhere(group->bootstrap(), "look for decisions", [&] {
    std::span<const DecisionSet> shipped;
    if (options.shipped_decisions) shipped = shipped_decisions();
    Resolver resolver(group->capabilities(), decisions.sets, policy(), shipped);
    for (const ProblemFamily& family : families) {
      if (static_cast<std::size_t>(family.hidden) % vector_elements(family.dtype) != 0) continue;
      try {
        const std::vector<PlannedInterval> plan = resolver.plan(family, refusals);
        if (std::none_of(plan.begin(), plan.end(), measured)) unknown.push_back(family);
      } catch (const Unsupported&) {  // loading says why
      }
    }
  });
  return unknown;
}

/// What earlier starts of this user have measured: rank 0's file, as with every database.
void Communicator::Impl::recall_startup_tunes() {
  startup.recalled = true;
  Bootstrap& bootstrap = group->bootstrap();
  KeptDecisions kept;
  if (bootstrap.rank() == 0) kept = kept_decisions(options.variables);
  const std::vector<std::string> fields =
      unpack(bootstrap.broadcast(pack({kept.database.string(), kept.bytes, kept.problem}), 0));
  everywhere(bootstrap, "read what earlier starts measured", [&] {
    if (fields.size() != 3) throw Disagreement("prepare: rank 0 sent no message about earlier starts");
    startup.database = fields[0];
    if (fields[1].empty()) return;
    // Behind what was given: that is what the user asked for.
    std::vector<DecisionSet> sets = read_decisions_from_bytes(fields[1], fields[0]);
    decisions.sets.insert(decisions.sets.end(), sets.begin(), sets.end());
  });
  if (bootstrap.rank() == 0 && !kept.problem.empty()) log.warn(kept.problem);
}

void Communicator::Impl::tune_unknown(const std::vector<ProblemFamily>& families) {
  if (startup.left.count() <= 0 || group->size() < 2) return;
  std::vector<ProblemFamily> unknown = unmeasured(families);
  if (!unknown.empty() && !startup.recalled) {
    recall_startup_tunes();
    unknown = unmeasured(families);
  }
  if (unknown.empty()) return;
  const bool speaks = group->rank() == 0;
  if (speaks) {
    log.info(fmt::format("nothing was measured for {} of {} families: measuring for {} ms at most", unknown.size(),
                         families.size(), startup.left.count()));
  }
  const StartupTuneAnswer answer = options.startup_tuner(
      {group->shared_bootstrap(), group->shared_device(), unknown, startup.left, startup.database, options});
  startup.left -= std::min(answer.spent, startup.left);
  std::size_t found = 0;
  if (answer.decisions) {
    for (const DecisionSet& set : *answer.decisions) found += set.decisions.size();
    // In front: it was measured just now, for what the others had no answer to.
    decisions.sets.insert(decisions.sets.begin(), answer.decisions->begin(), answer.decisions->end());
  }
  if (!speaks) return;
  for (const std::string& note : answer.notes) log.warn("measuring at start: " + note);
  log.info(fmt::format("{} decisions were measured in {} ms{}", found, answer.spent.count(),
                       startup.database.empty() ? "" : " and are kept in '" + startup.database.string() + "'"));
}

}  // namespace arbiter
