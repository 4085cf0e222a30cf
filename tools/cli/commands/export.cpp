// arbiter export: a database as text, for people, for engines, or to be imported again.
#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <sstream>
#include <string_view>

#include "arbiter/db/contents.hpp"
#include "arbiter/db/export.hpp"
#include "commands/command.hpp"
#include "options/database.hpp"
#include "options/options.hpp"
#include "text/files.hpp"
#include "text/json.hpp"
#include "text/print.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

constexpr std::array<std::string_view, 8> formats = {"jsonl", "csv",    "markdown",     "header",
                                                     "vllm",  "sglang", "tensorrt-llm", "nccl"};

std::vector<DecisionSet> decision_sets(const Contents& contents, const std::string& environment) {
  std::vector<DecisionSet> sets;
  for (const auto& [key, decisions] : contents.decisions) {
    if (key.starts_with(environment)) sets.push_back({contents.environments.at(key), decisions});
  }
  if (sets.empty()) throw DatabaseError("there are no decisions in it for this environment; make some: arbiter tune");
  return sets;
}

/// The key of the one environment that is meant. Formats of one machine's tables cannot hold several.
std::string one_environment(const Contents& contents, const std::string& start, const std::string& format) {
  std::vector<std::string> found;
  for (const auto& [key, environment] : contents.environments) {
    const bool gpu = environment.device != "cpu";
    if (key.starts_with(start) && (gpu || !start.empty() || contents.environments.size() == 1)) found.push_back(key);
  }
  if (found.size() == 1) return found.front();
  std::string message = found.empty() ? "no environment matches" : "format '" + format + "' holds one environment";
  message += "; choose with --environment:";
  for (const auto& [key, environment] : contents.environments) {
    message += "\n  " + key.substr(0, 12) + "  " + environment.gpu_name + " (" + environment.device + ")";
  }
  throw UsageError(message);
}

EngineExport convert(const Contents& contents, const std::string& format, const std::string& environment) {
  if (format == "jsonl") {
    std::ostringstream text;
    write_jsonl(text, contents);
    return {text.str(), {}};
  }
  if (format == "csv") return {decisions_csv(decision_sets(contents, environment)), {}};
  if (format == "markdown") return {decisions_markdown(decision_sets(contents, environment)), {}};
  const std::string key = one_environment(contents, environment, format);
  if (format == "header") return {decisions_header(decision_sets(contents, key).front()), {}};
  if (format == "vllm") return export_vllm(contents, key);
  if (format == "sglang") return export_sglang(contents, key);
  if (format == "nccl") return export_nccl(contents, key);
  return export_tensorrt_llm(contents, key);
}

void print_losses(const std::vector<Loss>& losses) {
  for (const Loss& loss : losses) {
    print_error("%s: loses %.1f%% on average over %zu measured sizes, %.1f%% at worst", loss.what.c_str(),
                loss.mean_percent, loss.points, loss.worst_percent);
    if (loss.unmeasured != 0) print_error("; what it chooses at %zu of them was not measured", loss.unmeasured);
    print_error("\n");
  }
}

void print_as_json(const std::string& format, const std::string& file, const EngineExport& exported) {
  print_json([&](llvm::json::OStream& json) {
    json.attribute("schema", json_schema);
    write_text(json, "format", format);
    write_text(json, "file", file);
    write_field(json, "bytes", exported.text.size());
    json.attributeArray("losses", [&] {
      for (const Loss& loss : exported.losses) {
        json.object([&] {
          write_text(json, "what", loss.what);
          write_number(json, "mean_percent", loss.mean_percent);
          write_number(json, "worst_percent", loss.worst_percent);
          write_field(json, "points", loss.points);
          write_field(json, "unmeasured", loss.unmeasured);
        });
      }
    });
  });
}

}  // namespace

Options export_options() {
  Options options("export",
                  "Writes a work database or a snapshot as text. jsonl: everything, ordered, to compare with diff and\n"
                  "to import again. csv, markdown, header (C++): the decisions. vllm, sglang, tensorrt-llm, nccl: the\n"
                  "tables that these read; what is lost because such a table cannot express the decisions is printed.\n"
                  "nccl: a CSV for NCCL's tuner plugins, for programs without Arbiter (docs/nccl.md).",
                  "arbiter export --db cluster.db --output cluster.jsonl\n"
                  "arbiter export --db cluster.db --format vllm");
  declare_database_word(options, "work database or snapshot to read");
  options.value("format", "NAME", "jsonl (default), csv, markdown, header, vllm, sglang, tensorrt-llm, nccl")
      .choices({formats.begin(), formats.end()})
      .value("environment", "KEY", "only the environment whose key starts with this (not for jsonl)")
      .output("write here (default: standard output)")
      .flag("json", "with --output: report what was written, for programs; see docs/cli.md");
  return options;
}

int run_export(const Options& options) {
  const std::string format = options.text("format", "jsonl");
  if (std::find(formats.begin(), formats.end(), format) == formats.end()) {
    throw UsageError(unknown_name_message("format", format, formats));
  }
  if (format == "jsonl" && options.has("environment")) {
    throw UsageError("--environment: an export in JSON lines always holds everything");
  }
  const std::string output = options.text("output");
  if (options.has("json") && (output.empty() || output == "-")) {
    throw UsageError("--json reports what was written to a file: it needs --output FILE");
  }
  const std::filesystem::path file = database_path(options);
  const Contents contents = read_contents(file);
  mention_kernels(file);
  const EngineExport exported = convert(contents, format, options.text("environment"));
  write_output(output, exported.text);
  if (options.has("json")) {
    print_as_json(format, output, exported);
  } else {
    print_losses(exported.losses);
    if (!output.empty() && output != "-") {
      print("%s: %s, %s\n", output.c_str(), format.c_str(), format_bytes(exported.text.size()).c_str());
    }
  }
  return exit_success;
}

}  // namespace arbiter::cli
