// arbiter tune: measure every candidate on the ranks of this session, and store what won.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "arbiter/db/json.hpp"
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

/// Two documents: the environment, and what was done.
std::string result_documents(const Group& group, const TuneResult& result) {
  return join_documents({environment_json(group.environment()), json_text([&](llvm::json::OStream& json) {
                           json.attribute("world", group.size());
                           json.attribute("problems", static_cast<std::int64_t>(result.problems));
                           json.attribute("measured", static_cast<std::int64_t>(result.measured));
                           json.attribute("resumed", static_cast<std::int64_t>(result.resumed));
                           json.attribute("trials", static_cast<std::int64_t>(result.trials));
                           json.attribute("wrong", static_cast<std::int64_t>(result.wrong));
                           json.attribute("failed", static_cast<std::int64_t>(result.failed));
                           json.attribute("pruned", static_cast<std::int64_t>(result.pruned));
                           json.attribute("never_tried", static_cast<std::int64_t>(result.never_tried));
                           json.attribute("model_pruned", static_cast<std::int64_t>(result.model_pruned));
                           json.attribute("model_predictions", static_cast<std::int64_t>(result.model_predictions));
                           write_number(json, "model_worst_ratio", result.model_worst_ratio);
                           json.attribute("model_worst", result.model_worst);
                           json.attribute("model_controls", static_cast<std::int64_t>(result.model_controls));
                           json.attribute("model_regrets", static_cast<std::int64_t>(result.model_regrets));
                           json.attribute("bisected", static_cast<std::int64_t>(result.bisected));
                           json.attribute("measured_again", static_cast<std::int64_t>(result.measured_again));
                           json.attribute("kernels_loaded", static_cast<std::int64_t>(result.kernels_loaded));
                           json.attribute("decisions", static_cast<std::int64_t>(result.decisions.size()));
                           json.attributeArray("undecided", [&] {
                             for (const std::string& why : result.undecided) json.value(llvm::json::fixUTF8(why));
                           });
                           json.attribute("budget_spent", result.budget_spent);
                           json.attribute("cancelled", result.cancelled);
                           write_number(json, "seconds", result.seconds);
                           json.attributeObject("times", [&] {
                             write_number(json, "load", result.times.load);
                             write_number(json, "compile", result.times.compile);
                             write_number(json, "tensors", result.times.tensors);
                             write_number(json, "verify", result.times.verify);
                             write_number(json, "measure", result.times.measure);
                             write_number(json, "record", result.times.record);
                           });
                           json.attributeArray("notes", [&] {
                             for (const std::string& note : result.notes) json.value(llvm::json::fixUTF8(note));
                           });
                         })});
}

struct Runs {
  std::string environment;
  std::vector<std::string> documents;
  bool cancelled = false;
  std::int64_t decisions = 0;
  std::vector<std::string> undecided;
};

Runs collect(const SessionResult& session) {
  Runs runs;
  for (const std::string& result : session.results) {
    const std::vector<std::string> documents = split_documents(result);
    if (documents.size() != 2) continue;
    if (runs.environment.empty()) runs.environment = documents[0];
    const llvm::json::Object run = parse_document(documents[1]);
    runs.cancelled = runs.cancelled || run.getBoolean("cancelled").value_or(false);
    runs.decisions += run.getInteger("decisions").value_or(0);
    if (const llvm::json::Array* list = run.getArray("undecided")) {
      for (const llvm::json::Value& why : *list) runs.undecided.push_back(why.getAsString().value_or("").str());
    }
    runs.documents.push_back(documents[1]);
  }
  return runs;
}

/// What the cost model left out, and how wrong it was.
std::string model_text(const llvm::json::Object& run) {
  const auto number = [&](const char* key) { return std::to_string(run.getInteger(key).value_or(0)); };
  if (run.getInteger("model_predictions").value_or(0) == 0) return {};
  const double ratio = run.getNumber("model_worst_ratio").value_or(1);
  std::string text = fmt::format(
      "the cost model pruned {} candidates, over all problems, that were then not timed; of {} predictions the worst "
      "was {}% too {} ({})",
      number("model_pruned"), number("model_predictions"), std::lround(100 * std::max(ratio - 1, 1 / ratio - 1)),
      (ratio < 1 ? "high" : "low"), run.getString("model_worst").value_or("").str());
  if (run.getInteger("model_controls").value_or(0) == 0) return text;
  return text + "; of " + number("model_controls") + " that were timed against its advice, " + number("model_regrets") +
         " came within 2% of the best";
}

/// "31 s waiting for kernels (96 s compiled beside the rest), 4 s ..."
std::string times_text(const llvm::json::Object& run) {
  const llvm::json::Object* times = run.getObject("times");
  if (times == nullptr) return {};
  double left = run.getNumber("seconds").value_or(0);
  const auto part = [&](const char* key) {
    const double seconds = times->getNumber(key).value_or(0);
    left -= seconds;
    return format_seconds(seconds);
  };
  const std::string load = part("load"), tensors = part("tensors"), verify = part("verify"), measure = part("measure"),
                    record = part("record");
  return "the time: " + load + " waiting for kernels (" + format_seconds(times->getNumber("compile").value_or(0)) +
         " of compiling beside the rest), " + verify + " verifying, " + measure + " measuring, " + tensors +
         " allocating, " + record + " recording and agreeing, " + format_seconds(std::max(left, 0.0)) + " searching";
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

std::string sizes_text(const std::vector<std::int64_t>& tokens) {
  if (tokens.size() <= 6) return joined(tokens, ",");
  return fmt::format("{} from {} to {}", tokens.size(), tokens.front(), tokens.back());
}

void print_plan(const TunePlan& plan, bool as_json) {
  if (as_json) {
    print_json([&](llvm::json::OStream& json) {
      json.attribute("schema", json_schema);
      write_text(json, "device", plan.device);
      json.attributeArray("problems", [&] {
        for (const PlannedFamily& planned : plan.families) {
          json.object([&] {
            write_text(json, "pattern", planned.family.pattern);
            write_text(json, "dtype", to_string(planned.family.dtype));
            json.attribute("hidden", planned.family.hidden);
            json.attribute("world", planned.world);
            write_text(json, "mode", to_string(planned.family.mode));
            json.attributeArray("tokens", [&] {
              for (const std::int64_t tokens : planned.tokens) json.value(tokens);
            });
            json.attribute("kernels", static_cast<std::int64_t>(planned.kernels));
            json.attribute("candidates", static_cast<std::int64_t>(planned.trials));
          });
        }
      });
      json.attribute("kernels", static_cast<std::int64_t>(plan.kernels));
      json.attribute("candidates", static_cast<std::int64_t>(plan.trials));
      write_number(json, "seconds", plan.seconds);
      write_number(json, "seconds_low", plan.seconds / uncertainty);
      write_number(json, "seconds_high", plan.seconds * uncertainty);
    });
    return;
  }
  print("on %s; nothing is measured now\n\n", plan.device.c_str());
  Table table({"ranks", "pattern", "dtype", "hidden", "mode", "sizes (tokens)", "variants"});
  for (const PlannedFamily& planned : plan.families) {
    table.add({std::to_string(planned.world), planned.family.pattern, std::string(to_string(planned.family.dtype)),
               std::to_string(planned.family.hidden), std::string(to_string(planned.family.mode)),
               sizes_text(planned.tokens), std::to_string(planned.kernels)});
  }
  table.print();
  print(
      "\nkernels to compile: about %zu for each rank, less what is in the cache\n"
      "candidates to verify and time: about %zu\n"
      "estimated time: %s (%s to %s); less with kernels in the cache\n",
      plan.kernels, plan.trials, format_seconds(plan.seconds).c_str(),
      format_seconds(plan.seconds / uncertainty).c_str(), format_seconds(plan.seconds * uncertainty).c_str());
}

void print_tables(const Runs& runs, const std::string& database) {
  Table table({"ranks", "problems", "measured", "resumed", "trials", "wrong", "failed", "screened out",
               "pruned by model", "never tried", "time"});
  std::vector<std::string> notes;
  for (const std::string& document : runs.documents) {
    const llvm::json::Object run = parse_document(document);
    const auto number = [&](const char* key) { return std::to_string(run.getInteger(key).value_or(0)); };
    table.add({number("world"), number("problems"), number("measured"), number("resumed"), number("trials"),
               number("wrong"), number("failed"), number("pruned"), number("model_pruned"), number("never_tried"),
               format_seconds(run.getNumber("seconds").value_or(0))});
    if (std::string said = model_text(run); !said.empty()) notes.push_back(number("world") + " ranks: " + said);
    if (std::string said = times_text(run); !said.empty()) notes.push_back(number("world") + " ranks: " + said);
    if (run.getBoolean("budget_spent").value_or(false)) {
      notes.push_back(number("world") + " ranks: the budget is spent; go on with --resume");
    }
    if (const llvm::json::Array* list = run.getArray("notes")) {
      for (const llvm::json::Value& note : *list) notes.push_back(note.getAsString().value_or("").str());
    }
  }
  table.print();
  const int columns = TerminalStyle::of_stdout().columns;
  for (const std::string& note : notes) print("%s", wrapped("note: " + note, columns, 2).c_str());
  print("\ndecisions made: %lld, stored in %s; see them with: arbiter show --db %s\n",
        static_cast<long long>(runs.decisions), database.c_str(), database.c_str());
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
    print_plan(plan_tune(session, problems.families, problems.tokens, options.has("exhaustive")), options.has("json"));
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
    return context.leader() ? result_documents(*group, tuned) : std::string();
  });
  if (!result.printer) return exit_success;

  const Runs runs = collect(result);
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
    print_tables(runs, database);
  }
  if (runs.cancelled) print_error("interrupted; %s\n", session.on_interrupt.c_str());
  for (const std::string& why : runs.undecided) print_error("arbiter: no decision for %s\n", why.c_str());
  if (runs.cancelled) return exit_interrupted;
  return runs.undecided.empty() ? exit_success : exit_failure;
}

}  // namespace arbiter::cli
