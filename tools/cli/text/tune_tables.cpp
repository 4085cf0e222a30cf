#include "text/tune_tables.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "arbiter/generator/joined.hpp"
#include "ranks/result_text.hpp"
#include "text/json.hpp"
#include "text/print.hpp"
#include "text/table.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

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

std::string sizes_text(const std::vector<std::int64_t>& tokens) {
  if (tokens.size() <= 6) return joined(tokens, ",");
  return fmt::format("{} from {} to {}", tokens.size(), tokens.front(), tokens.back());
}

}  // namespace

void print_tune_plan_json(const TunePlan& plan) {
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
          write_field(json, "kernels", planned.kernels);
          write_field(json, "candidates", planned.trials);
        });
      }
    });
    write_field(json, "kernels", plan.kernels);
    write_field(json, "candidates", plan.trials);
    write_number(json, "seconds", plan.seconds);
    write_number(json, "seconds_low", plan.seconds / uncertainty);
    write_number(json, "seconds_high", plan.seconds * uncertainty);
  });
}

void print_tune_plan(const TunePlan& plan) {
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

void print_tune_runs(const TuneRuns& runs, const std::string& database) {
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
  print("\ndecisions made: %lld, stored in %s\nsee them with: arbiter show %s\n",
        static_cast<long long>(runs.decisions), database.c_str(), database.c_str());
}

}  // namespace arbiter::cli
