// arbiter compile: compile variants for given targets, without running them, and say what that took.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "arbiter/generator/compile.hpp"
#include "arbiter/runtime/candidate.hpp"
#include "arbiter/variables.hpp"
#include "commands/command.hpp"
#include "compile/coverage.hpp"
#include "compile/jobs.hpp"
#include "compile/resource_record.hpp"
#include "compile/tables.hpp"
#include "compile/variant_options.hpp"
#include "options/names.hpp"
#include "options/options.hpp"
#include "text/files.hpp"
#include "text/print.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

VariantQuery whole_catalogue() {
  VariantQuery query;
  query.patterns = Catalogue::builtin().usual_patterns();
  query.dtypes = {Dtype::bf16, Dtype::fp16, Dtype::fp32};
  query.worlds = {2, 4, 8};
  query.hiddens = {8192};
  return query;
}

std::vector<std::string> read_targets(const Options& options, const std::vector<std::string>& otherwise) {
  std::vector<std::string> targets = options.texts("target");
  for (const std::string& target : targets) check_target(target);
  return targets.empty() ? otherwise : targets;
}

/// The kernels of the plan for all targets, less those for targets that this NVRTC does not know, which it says. The
/// plan itself does not depend on NVRTC, so that a record of another one is about the same kernels.
std::vector<CompileTask> compilable_tasks() {
  std::vector<CompileTask> tasks = covering_tasks(Catalogue::builtin(), {gpu_targets.begin(), gpu_targets.end()});
  for (const std::string_view target : gpu_targets) {
    const std::string name(target);
    if (nvrtc_target(limits_of(name).sm) == name) continue;
    print_error("NVRTC %s does not compile for %s: left out\n", nvrtc_version().c_str(), name.c_str());
    std::erase_if(tasks, [&](const CompileTask& task) { return task.target == name; });
  }
  return tasks;
}

std::vector<CompileTask> read_tasks(const Options& options) {
  if (options.has("coverage")) {
    for (const char* other : {"all", "algorithm", "variant", "model", "pattern", "dtype", "world", "hidden", "rank"}) {
      if (options.has(other))
        throw UsageError("--coverage chooses the kernels itself; leave out --" + std::string(other));
    }
    if (!options.has("target")) return compilable_tasks();
    return covering_tasks(Catalogue::builtin(), read_targets(options, {}));
  }
  if (!options.has("all") && !options.has("model") && !options.has("algorithm") && !options.has("variant")) {
    throw UsageError("say what to compile: --all, --model NAME, --coverage, --algorithm NAME or --variant NAME");
  }
  const VariantQuery query = read_variant_options(options, options.has("all") ? whole_catalogue() : one_problem());
  const auto rank = static_cast<int>(options.integer("rank", 0, max_world - 1, 0));
  const std::vector<std::string> targets = read_targets(options, {"sm_90a"});
  const EnvironmentVariables variables = EnvironmentVariables::read();
  std::vector<CompileTask> tasks;
  for (const std::string& target : targets) {
    TargetLimits limits = limits_of(target);
    // What a model needs is what a tune of it would compile: multicast and 8-bit transport only where they are asked
    // for.
    const bool model = options.has("model");
    if (model && !variables.multicast) std::erase(limits.capabilities, "multicast");
    for (const Variant& variant : find_variants(query, limits)) {
      if (model && !allows(variables.numerics, numerics_of(Catalogue::builtin(), variant))) continue;
      tasks.push_back({target, variant, rank});
    }
  }
  if (tasks.empty()) throw UsageError("no variant matches; see what there is with: arbiter render --list");
  return tasks;
}

std::vector<RecordedKernel> recorded(const std::vector<CompileOutcome>& outcomes) {
  std::vector<RecordedKernel> kernels;
  for (const CompileOutcome& outcome : outcomes) {
    if (!outcome.error.empty() || outcome.resources.registers < 0)
      continue;  // PTX and the CPU device have no registers
    kernels.push_back({outcome.task.target, outcome.task.variant.full_name(), outcome.resources});
  }
  return kernels;
}

ResourceRecord read_baseline(const std::string& file) {
  const std::string text = read_input(file);
  try {
    return read_record(text);
  } catch (const Error& error) {
    throw Error(file + ": " + error.what() + "\nMake it anew: arbiter compile --coverage --record " + file);
  }
}

/// False if a kernel spills that did not when the record was made. Everything else that differs is only told.
bool compare_with_record(const std::string& file, const ResourceRecord& record,
                         const std::vector<CompileOutcome>& outcomes, bool coverage) {
  RecordComparison comparison = compare(record, {nvrtc_version(), recorded(outcomes)});
  if (!coverage) comparison.not_compiled.clear();  // nobody asked for the others
  print_error("%s", describe(comparison, file).c_str());
  return comparison.new_spills.empty();
}

}  // namespace

Options compile_options() {
  Options options("compile",
                  "Compiles kernel variants for the given targets without running them: it needs NVRTC, but no GPU.\n"
                  "Prints the time, registers and spills. Results go to the kernel cache.",
                  "arbiter compile --all --target sm_90a --target sm_100a\n"
                  "arbiter compile --model llama-70b --world 4 --target sm_90a,sm_100a\n"
                  "arbiter compile --coverage --record before.tsv\n"
                  "arbiter compile --coverage --baseline before.tsv\n"
                  "arbiter compile --algorithm twoshot_push --hidden 7168 --world 4 --target sm_90a --no-cache");
  declare_variant_options(options);
  options
      .list("target", "NAME",
            "sm_80, sm_86, sm_89, sm_90a, sm_100a, sm_103a, sm_120a, compute_XX (PTX), cpu\n(default: sm_90a)")
      .choices(target_names())
      .value("rank", "R", "the rank that is compiled in (default: 0)")
      .flag("all",
            "every variant of the catalogue: the usual patterns, all dtypes, 2, 4 and 8 ranks, hidden size 8192,\n"
            "each of which --pattern, --dtype, --world and --hidden narrow or change")
      .flag("coverage",
            "some 660 kernels, chosen so that every algorithm meets every target, every combination of parameters\n"
            "every family of targets, and every part of a pattern every algorithm, dtype and target (default targets:\n"
            "all with an sm_ number that this NVRTC knows)")
      .value("record", "FILE", "write registers, spills and shared memory of each kernel, to be kept in git")
      .value("baseline", "FILE", "fail if a kernel spills that did not when this record was made")
      .flag("each", "with --all, --model or --coverage: one line for each kernel instead of one for each algorithm")
      .value("jobs", "N", "processes that compile at the same time (default: one for each processor)")
      .flag("no-cache", "compile even what is in the cache, and store nothing")
      .flag("json", "for programs; see docs/cli.md");
  return options;
}

int run_compile(const Options& options) {
  const std::vector<CompileTask> tasks = read_tasks(options);
  // Read before it may be written, and before minutes are spent on a comparison with something that is no record.
  std::optional<ResourceRecord> baseline;
  if (options.has("baseline")) baseline = read_baseline(options.text("baseline"));
  const int processors = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 64);
  const auto jobs = static_cast<int>(options.integer("jobs", 1, 256, processors));
  const EnvironmentVariables variables = EnvironmentVariables::read();
  CacheOptions cache;
  if (!options.has("no-cache")) cache.directory = variables.cache_dir;
  cache.compile_on_miss = variables.jit;

  const auto start = std::chrono::steady_clock::now();
  std::vector<CompileOutcome> outcomes;
  {
    ProgressLine progress;
    outcomes = compile_all(tasks, cache, jobs, [&](const CompileOutcome& outcome, std::size_t done) {
      progress.update(
          fmt::format("{}/{} {} {}", done, tasks.size(), outcome.task.target, outcome.task.variant.full_name()));
    });
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  // Before anything is printed: what fails is the only thing that is said then.
  if (options.has("record")) write_output(options.text("record"), write_record({nvrtc_version(), recorded(outcomes)}));
  if (options.has("json")) {
    print_as_json(outcomes, elapsed.count());
  } else {
    if ((options.has("all") || options.has("model") || options.has("coverage")) && !options.has("each")) {
      print_by_algorithm(outcomes);
    } else {
      print_each(outcomes);
    }
    print_summary(outcomes, elapsed.count());
  }
  bool good = std::none_of(outcomes.begin(), outcomes.end(),
                           [](const CompileOutcome& outcome) { return !outcome.error.empty(); });
  if (baseline) {
    good = compare_with_record(options.text("baseline"), *baseline, outcomes, options.has("coverage")) && good;
  }
  return good ? exit_success : exit_failure;
}

}  // namespace arbiter::cli
