// arbiter tune: measure every candidate on the ranks of this session, and store what won.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "arbiter/generator/joined.hpp"
#include "arbiter/runtime/fingerprint.hpp"
#include "arbiter/tuner/tune.hpp"
#include "commands/command.hpp"
#include "options/database.hpp"
#include "options/options.hpp"
#include "options/problem.hpp"
#include "ranks/result_text.hpp"
#include "ranks/session.hpp"
#include "ranks/tools.hpp"
#include "ranks/tune_plan.hpp"
#include "text/json.hpp"
#include "text/print.hpp"
#include "text/table.hpp"
#include "text/text.hpp"
#include "text/tune_tables.hpp"

namespace arbiter::cli {
namespace {

/// A kernel that hangs gives up by its own deadline; what is stuck for so long does not even do that.
constexpr std::chrono::milliseconds least_patience = std::chrono::seconds(60);

std::chrono::milliseconds time_left(std::chrono::system_clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::system_clock::now());
  return std::max(left, std::chrono::milliseconds(1));  // 0 would mean: as long as it takes
}

std::string host_name() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

/// On what this tune measures, before anything is measured.
void announce(const SessionOptions& session, bool asked_for) {
  if (session.device != DeviceKind::cpu) return;
  const std::string why = asked_for ? "" : "no GPU is visible here: ";
  print("%s", wrapped(fmt::format("{}tuning the CPU device, {} ranks. Its decisions serve the CPU device alone{}", why,
                                  joined(session.worlds, " and "),
                                  asked_for ? "" : "; what is missing for GPUs: arbiter doctor"),
                      TerminalStyle::of_stdout().columns)
                  .c_str());
  std::fflush(stdout);
}

}  // namespace

Options tune_options() {
  Options options(
      "tune",
      "Measures every candidate on every problem, after checking that its results are right, and stores what won.\n"
      "Starts one process per GPU itself; under torchrun, mpirun or srun it uses the ranks it is given.\n"
      "Every finished measurement is kept at once: a tune that was stopped goes on with --resume.",
      "arbiter tune --model llama-70b --tp 4,8 --db cluster.db\n"
      "arbiter tune --model llama-70b --tp 4,8 --dry-run\n"
      "arbiter tune --gpus 0-3 --world 2,4 --hidden 8192 --db cluster.db\n"
      "arbiter tune --device cpu --ranks 2,4 --quick\n"
      "torchrun --nproc-per-node 8 --no-python arbiter tune --hidden 4096,8192 --budget 30m");
  declare_database_word(options, "work database to write");
  declare_problem_options(options);
  declare_rank_options(options);
  options
      .value("budget", "TIME",
             "take this long in all (90s, 30m, 2h): sizes first, then changes of winner and close calls")
      .flag("resume", "keep what an earlier run has finished here; skip what was wrong or killed its worker")
      .flag("exhaustive",
            "also try what the catalogue prunes: kernels that can be built, but never won where it was measured")
      .flag("dry-run", "say what would be measured and about how long it would take, and stop")
      .flag("json", "for programs; see docs/cli.md");
  return options;
}

int run_tune(const Options& options) {
  const std::string database = database_path(options).string();
  SessionOptions session = read_rank_options(options, "tune", options.arguments());
  session.most_restarts = 8;
  session.cancellable = true;
  session.isolated = session.device == DeviceKind::cpu && !options.has("in-process") && !session.worker;
  session.budget = options.duration("budget").value_or(std::chrono::milliseconds(0));
  session.on_interrupt = "what is finished is kept in " + database +
                         "; go on with: " + command_text("tune", options.arguments()) +
                         (options.has("resume") ? "" : " --resume");
  const Problems problems = read_problems(options, session.device);
  if (options.has("dry-run")) {
    const TunePlan plan = plan_tune(session, problems.families, problems.tokens, options.has("exhaustive"));
    if (options.has("json")) {
      print_tune_plan_json(plan);
    } else {
      print_tune_plan(plan);
    }
    return exit_success;
  }
  const EnvironmentVariables variables = measuring_variables(session.device);
  const std::shared_ptr<KernelCache> cache = make_cache(variables);

  if (!options.has("json") && !session.worker) announce(session, options.has("device"));

  const SessionResult result = run_session(session, [&](RankContext& context) {
    GroupOptions group_options;
    group_options.variables = variables;
    group_options.nccl = session.device == DeviceKind::cuda;
    group_options.cache = cache;
    const auto group = make_group(context.bootstrap, context.device, group_options);
    TuneOptions tuning;
    tuning.families = problems.families;
    tuning.tokens = problems.tokens;
    tuning.database = database;
    tuning.restarted = context.restarts > 0;
    tuning.resume = options.has("resume") || tuning.restarted;
    tuning.command_started = context.started;
    if (!options.has("resume")) tuning.resume_since = context.started;  // only what these workers' predecessors did
    if (context.deadline) tuning.budget = time_left(*context.deadline);
    tuning.stuck_after = std::max(least_patience, 20 * variables.timeout);
    tuning.on_stuck = [&](const std::string& what) {
      context.give_up(fmt::format("nothing has ended for {} s: {}", tuning.stuck_after.count() / 1000, what));
    };
    tuning.source = CandidateSource::runtime(options.has("exhaustive"));
    tuning.seed = session.seed + 1;
    tuning.effort = SearchEffort::for_device(session.device);
    tuning.measure = MeasureSettings::for_device(session.device);
    tuning.command = command_text("tune", options.arguments());
    tuning.host = host_name();
    tuning.cancel = context.cancel;
    TerminalProgress progress(context.leader());
    const TuneResult tuned = tune(*group, tuning, &progress);
    return context.leader() ? tune_documents(*group, tuned) : std::string();
  });
  if (!result.printer) return exit_success;

  const TuneRuns runs = tune_runs(result);
  if (options.has("json")) {
    print_json([&](llvm::json::OStream& json) {
      json.attribute("schema", json_schema);
      json.attributeBegin("environment");
      json.rawValue(runs.environment);
      json.attributeEnd();
      write_text(json, "database", database);
      write_documents(json, "runs", runs.documents);
    });
  } else {
    print_tune_runs(runs, database);
  }
  if (runs.cancelled) print_error("interrupted; %s\n", session.on_interrupt.c_str());
  for (const std::string& why : runs.undecided) print_error("arbiter: no decision for %s\n", why.c_str());
  if (runs.cancelled) return exit_interrupted;
  return runs.undecided.empty() ? exit_success : exit_failure;
}

}  // namespace arbiter::cli
