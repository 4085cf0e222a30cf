// arbiter bench: auto beside every backend, NCCL first; and how long a process takes to its first call.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/db/json.hpp"
#include "arbiter/tuner/bench.hpp"
#include "commands/bench_setup.hpp"
#include "commands/bench_stages.hpp"
#include "commands/bench_startup.hpp"
#include "commands/command.hpp"
#include "options/database.hpp"
#include "options/names.hpp"
#include "options/options.hpp"
#include "options/problem.hpp"
#include "ranks/result_text.hpp"
#include "ranks/session.hpp"
#include "ranks/tools.hpp"
#include "text/bench_table.hpp"
#include "text/json.hpp"
#include "text/print.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

BenchSetup read_setup(const Options& options, DeviceKind device) {
  BenchSetup setup;
  setup.variables = measuring_variables(device);
  setup.cache = make_cache(setup.variables);
  setup.database = database_path(options);
  setup.nccl = device == DeviceKind::cuda;
  const bool asked_for = options.has("db") || !setup.variables.db.empty();
  std::error_code ignored;
  // Nobody asked for the code of a file that happens to lie in this directory.
  if (!asked_for) setup.variables.kernels = false;
  if (!std::filesystem::exists(setup.database, ignored)) {
    if (asked_for) throw DatabaseError(setup.database.string() + " does not exist; make it with: arbiter tune");
    setup.database.clear();
  }
  return setup;
}

std::vector<Problem> problems_of(const Problems& problems, int world) {
  std::vector<Problem> list;
  for (const ProblemFamily& family : problems.families) {
    std::vector<std::int64_t> tokens = problems.tokens;
    for (std::int64_t power = 1; problems.tokens.empty() && power <= family.max_tokens; power *= 2) {
      tokens.push_back(power);
    }
    for (const std::int64_t count : tokens) {
      Problem problem;
      problem.pattern = family.pattern;
      problem.dtype = family.dtype;
      problem.hidden = family.hidden;
      problem.tokens = count;
      problem.world = world;
      problem.mode = family.mode;
      list.push_back(problem);
    }
  }
  return list;
}

/// "nccl", "nccl_symmetric", "nccl_registered", "trtllm/oneshot_push", ...
std::vector<std::string> baselines() {
  std::vector<std::string> names = algorithm_names();
  names.insert(names.begin(), {"nccl", "nccl_symmetric", "nccl_registered"});
  return names;
}

std::vector<std::string> read_against(const Options& options) {
  const std::vector<std::string> valid = baselines();
  const std::vector<std::string_view> names(valid.begin(), valid.end());
  std::vector<std::string> against = options.texts("against");
  for (const std::string& name : against) {
    if (std::find(valid.begin(), valid.end(), name) == valid.end()) {
      throw UsageError(unknown_name_message("result", name, names));
    }
  }
  return against;
}

void print_as_json(const std::vector<std::string>& documents, const std::string& command) {
  print_json([&](llvm::json::OStream& json) {
    json.attribute("schema", json_schema);
    if (!command.empty()) write_text(json, "command", command);
    json.attributeBegin("environment");
    json.rawValue(member_text(documents.front(), "environment"));
    json.attributeEnd();
    std::vector<std::string> rows;
    for (const std::string& document : documents) {
      for (std::string& row : element_texts(member_text(document, "rows"))) rows.push_back(std::move(row));
    }
    write_documents(json, "rows", rows);
  });
}

}  // namespace

Options bench_options() {
  Options options("bench",
                  "Times auto beside every backend on the same problems in the same minutes, NCCL first. auto decides\n"
                  "as it does in a program: from the database, through the communicator. Every result is verified\n"
                  "before it is timed.",
                  "arbiter bench --db cluster.db --world 4 --tokens 1,16,256 --against nccl\n"
                  "arbiter bench --device cpu --ranks 2 --quick\n"
                  "arbiter bench --stages --pattern allreduce_residual_rmsnorm,allreduce_residual_rmsnorm_fp8_static\n"
                  "arbiter bench --startup --db cluster.db --world 4 --pattern allreduce_residual_rmsnorm");
  declare_database_word(options, "database or snapshot that auto decides from");
  declare_problem_options(options);
  declare_rank_options(options);
  options
      .list("against", "NAME",
            "show only these beside auto: nccl, nccl_symmetric, nccl_registered,\ntrtllm/oneshot_push, ...")
      .choices(baselines())
      .value("samples", "N", "samples for each result, at least (default: 30; 5 on the CPU device)")
      .flag("startup",
            "instead: where the time from process start to the first call goes, with an empty and a warm cache")
      .flag("stages", "instead: what the stages behind the sum cost, as kernels of their own on one device")
      .flag("record", "with --json: add the command, as files under bench/results/ have it")
      .flag("json", "for programs; see docs/cli.md")
      .internal("startup-probe");
  return options;
}

int run_bench(const Options& options) {
  const SessionOptions session = read_rank_options(options, "bench", options.arguments());
  const Problems problems = read_problems(options, session.device);
  const std::vector<std::string> against = read_against(options);
  const bool on_cpu = session.device == DeviceKind::cpu;
  const auto samples = static_cast<int>(options.integer("samples", 1, 100'000, on_cpu ? 5 : 30));
  if (options.has("record") && !options.has("json")) throw UsageError("--record needs --json");
  const BenchSetup setup = read_setup(options, session.device);
  if (options.has("startup")) return run_startup(session, options.has("json"));
  if (options.has("stages")) return run_stages(options, session, problems);

  const SessionResult result = run_session(session, [&](RankContext& context) {
    if (options.has("startup-probe")) return probe_startup(context, setup, problems);
    const auto group = setup.group(context);
    Communicator communicator = setup.communicator(context);
    BenchOptions bench_options;
    bench_options.problems = problems_of(problems, context.size());
    bench_options.database = setup.database;
    bench_options.measure = MeasureSettings::for_device(session.device);
    bench_options.samples = samples;
    bench_options.seed = session.seed + 1;
    bench_options.cancel = context.cancel;
    TerminalProgress progress(context.leader());
    const std::vector<BenchRow> rows = bench(*group, communicator, bench_options, &progress);
    return context.leader() ? bench_json(group->environment(), rows) : std::string();
  });
  if (!result.printer) return exit_success;
  if (options.has("startup-probe")) {
    for (const std::string& text : result.results) std::fputs(text.c_str(), stdout);
    return exit_success;
  }
  if (options.has("json")) {
    print_as_json(result.results, options.has("record") ? command_text("bench", options.arguments()) : "");
  } else {
    for (const std::string& document : result.results) print_bench_table(parse_document(document), against);
  }
  return exit_success;
}

}  // namespace arbiter::cli
