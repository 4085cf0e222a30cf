// arbiter verify: the conformance cases, on the ranks of this session.
#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/generator/joined.hpp"
#include "arbiter/tuner/conformance.hpp"
#include "commands/command.hpp"
#include "commands/link_seeds.hpp"
#include "options/names.hpp"
#include "options/options.hpp"
#include "ranks/result_text.hpp"
#include "ranks/session.hpp"
#include "ranks/tools.hpp"
#include "text/json.hpp"
#include "text/print.hpp"
#include "text/table.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

/// Area names have spaces; on a command line a dash is as good.
std::vector<std::string> read_areas(const Options& options) {
  const std::vector<std::string_view>& valid = conformance_areas();
  std::vector<std::string> areas = options.texts("area");
  for (std::string& area : areas) {
    std::replace(area.begin(), area.end(), '-', ' ');
    if (std::find(valid.begin(), valid.end(), area) == valid.end()) {
      throw UsageError(unknown_name_message("area", area, valid));
    }
  }
  return areas;
}

struct Cases {
  std::string environment;
  std::vector<std::string> texts;
  std::int64_t passed = 0;
  std::int64_t failed = 0;
  std::int64_t skipped = 0;
};

Cases collect(const SessionResult& session) {
  Cases cases;
  for (const std::string& document : session.results) {
    if (cases.environment.empty()) cases.environment = member_text(document, "environment");
    const llvm::json::Object totals = parse_document(document);
    cases.passed += totals.getInteger("passed").value_or(0);
    cases.failed += totals.getInteger("failed").value_or(0);
    cases.skipped += totals.getInteger("skipped").value_or(0);
    for (std::string& text : element_texts(member_text(document, "cases"))) cases.texts.push_back(std::move(text));
  }
  return cases;
}

void print_as_json(const Cases& cases, const std::string& command) {
  print_json([&](llvm::json::OStream& json) {
    json.attribute("schema", json_schema);
    if (!command.empty()) write_text(json, "command", command);
    json.attributeBegin("environment");
    json.rawValue(cases.environment);
    json.attributeEnd();
    json.attribute("passed", cases.passed);
    json.attribute("failed", cases.failed);
    json.attribute("skipped", cases.skipped);
    write_documents(json, "cases", cases.texts);
  });
}

std::string name_of(const llvm::json::Object& one) {
  const auto text = [&](const char* key) { return one.getString(key).value_or("").str(); };
  const auto number = [&](const char* key) { return std::to_string(one.getInteger(key).value_or(0)); };
  std::string name = text("area") + ": " + text("backend");
  if (!text("algorithm").empty()) name += "/" + text("algorithm");
  name += " " + text("pattern") + " " + text("dtype") + " ranks=" + number("world") + " hidden=" + number("hidden") +
          " tokens=" + number("tokens");
  return text("detail").empty() ? name : name + " (" + text("detail") + ")";
}

void print_as_table(const Cases& cases) {
  struct Sum {
    int passed = 0, failed = 0, skipped = 0;
  };
  std::map<std::string, Sum, std::less<>> sums;
  std::map<std::string, int> skipped;   // reason -> cases
  std::map<std::string, int> cpu_only;  // the same, of cases that the CPU device runs
  for (const std::string& text : cases.texts) {
    const llvm::json::Object one = parse_document(text);
    Sum& sum = sums[one.getString("area").value_or("").str()];
    const std::string status = one.getString("status").value_or("").str();
    const std::string reason = one.getString("reason").value_or("").str();
    if (status == to_string(CaseStatus::passed)) {
      ++sum.passed;
    } else if (status == to_string(CaseStatus::skipped)) {
      ++sum.skipped;
      ++(one.getBoolean("cpu_only").value_or(false) ? cpu_only : skipped)[reason];
    } else {
      ++sum.failed;
      print("FAILED %s\n       %s\n", name_of(one).c_str(), reason.c_str());
    }
  }
  if (cases.failed > 0) print("\n");
  Table table({"area", "passed", "failed", "skipped"});
  for (const std::string_view area : conformance_areas()) {
    const auto found = sums.find(area);
    if (found == sums.end()) continue;
    table.add({std::string(area), std::to_string(found->second.passed), std::to_string(found->second.failed),
               std::to_string(found->second.skipped)});
  }
  table.print();
  for (const auto& [reason, count] : skipped) print("skipped %d: %s\n", count, reason.c_str());
  if (!cpu_only.empty()) print("\nproven on the CPU device only:\n");
  for (const auto& [reason, count] : cpu_only) print("  %d: %s\n", count, reason.c_str());
  print("\n%lld passed, %lld failed, %lld skipped\n", static_cast<long long>(cases.passed),
        static_cast<long long>(cases.failed), static_cast<long long>(cases.skipped));
}

}  // namespace

Options verify_options() {
  Options options("verify",
                  "Runs the conformance cases on whatever device this is: every kernel against an exact reference, in\n"
                  "every way it may be called. Exit status 1 if any case fails.",
                  "arbiter verify --gpus 0-3 --world 2,3,4 --full\n"
                  "arbiter verify --device cpu --ranks 2 --area plain,fusion --algorithm oneshot_push\n"
                  "arbiter verify --device cuda --in-process --gpus 0,1,0,1 --world 4\n"
                  "arbiter verify --device cpu --world 2,3,4 --link-seeds 1001-2000");
  declare_rank_options(options);
  const auto& area_names = conformance_areas();
  options.list("area", "NAME", "only these (default: all):\n" + joined(area_names, ", "))
      .choices({area_names.begin(), area_names.end()})
      .list("algorithm", "NAME", "only these: oneshot_push, or with its backend: trtllm/oneshot_push")
      .choices(algorithm_names())
      .value("link-seeds", "RANGE",
             "instead: every exchange algorithm under the link model of the CPU device, for seeds\n"
             "1 to N or FIRST-LAST (default for --world: 2,3,4)")
      .flag("full", "the whole list; without it a selection that takes minutes at most")
      .flag("record", "with --json: add the command, as files under bench/results/ have it")
      .flag("json", "for programs; see docs/cli.md");
  return options;
}

int run_verify(const Options& options) {
  if (options.has("record") && !options.has("json")) throw UsageError("--record needs --json");
  if (options.has("link-seeds")) return run_link_seeds(options);
  ConformanceOptions conformance;
  conformance.areas = read_areas(options);
  conformance.algorithms = options.texts("algorithm");
  conformance.size = options.has("full") ? ConformanceSize::full : ConformanceSize::quick;
  SessionOptions session = read_rank_options(options, "verify", options.arguments());
  conformance.seed = session.seed + 1;
  conformance.gpus = static_cast<int>(session.gpus.size());
  session.cancellable = true;
  session.on_interrupt = "the cases that were not reached are skipped";
  GroupOptions group;
  group.variables = measuring_variables(session.device);
  group.nccl = session.device == DeviceKind::cuda;
  if (session.device == DeviceKind::cpu) group.variables.multicast = true;  // costs nothing there
  group.cache = make_cache(group.variables);

  const SessionResult result = run_session(session, [&](RankContext& context) {
    ConformanceOptions mine = conformance;
    mine.cancel = context.cancel;
    TerminalProgress progress(context.leader());
    const ConformanceReport report = run_conformance(context.bootstrap, context.device, group, mine, &progress);
    return context.leader() ? conformance_json({report}) : std::string();
  });
  if (!result.printer) return exit_success;
  const Cases cases = collect(result);
  if (options.has("json")) {
    print_as_json(cases, options.has("record") ? command_text("verify", options.arguments()) : "");
  } else {
    print_as_table(cases);
  }
  if (result.cancelled) {
    print_error("interrupted; %s\n", session.on_interrupt.c_str());
    return exit_interrupted;
  }
  return cases.failed == 0 && cases.passed > 0 ? exit_success : exit_failure;
}

}  // namespace arbiter::cli
