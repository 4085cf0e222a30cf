// arbiter compile: compile variants for given targets, without running them, and say what that took.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "arbiter/generator/compile.hpp"
#include "arbiter/runtime/environment.hpp"
#include "command.hpp"
#include "compile_coverage.hpp"
#include "compile_jobs.hpp"
#include "files.hpp"
#include "json.hpp"
#include "names.hpp"
#include "options.hpp"
#include "text.hpp"
#include "variant_options.hpp"

namespace arbiter::cli {
namespace {

std::string one_decimal(double number) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.1f", number);
  return digits;
}

/// Compilers do not say everything: what is unknown is negative.
std::string known(int number) { return number < 0 ? "-" : std::to_string(number); }

void write_known(llvm::json::OStream& json, std::string_view name, int number) {
  if (number < 0) {
    json.attribute(llvm::StringRef(name.data(), name.size()), nullptr);
  } else {
    json.attribute(llvm::StringRef(name.data(), name.size()), number);
  }
}

void print_as_json(const std::vector<CompileOutcome>& outcomes, double seconds) {
  print_json([&](llvm::json::OStream& json) {
    json.attribute("schema", json_schema);
    write_text(json, "nvrtc", nvrtc_version());
    write_number(json, "seconds", seconds);
    json.attributeArray("kernels", [&] {
      for (const CompileOutcome& outcome : outcomes) {
        json.object([&] {
          write_text(json, "target", outcome.task.target);
          write_text(json, "variant", outcome.task.variant.full_name());
          json.attribute("cached", outcome.cached);
          write_number(json, "milliseconds", outcome.milliseconds);
          write_known(json, "registers", outcome.resources.registers);
          write_known(json, "shared_bytes", outcome.resources.shared_bytes);
          write_known(json, "spill_bytes", outcome.resources.spill_bytes);
          json.attribute("image_bytes", static_cast<std::int64_t>(outcome.image_bytes));
          if (!outcome.error.empty()) write_text(json, "error", outcome.error);
        });
      }
    });
  });
}

void print_each(const std::vector<CompileOutcome>& outcomes) {
  Table table({"target", "variant", "ms", "registers", "shared bytes", "spilled bytes", ""});
  for (const CompileOutcome& outcome : outcomes) {
    table.add({outcome.task.target, outcome.task.variant.full_name(), one_decimal(outcome.milliseconds),
               known(outcome.resources.registers), known(outcome.resources.shared_bytes),
               known(outcome.resources.spill_bytes),
               !outcome.error.empty() ? "failed"
               : outcome.cached       ? "cached"
                                      : ""});
  }
  table.print();
}

void print_by_algorithm(const std::vector<CompileOutcome>& outcomes) {
  struct Sum {
    int kernels = 0, compiled = 0, failed = 0, spilling = 0, least = 1 << 20, most = 0;
    double milliseconds = 0;
  };
  using Key = std::pair<std::string, std::string>;
  std::map<Key, Sum> sums;
  std::vector<Key> order;
  for (const CompileOutcome& outcome : outcomes) {
    const Variant& variant = outcome.task.variant;
    const Key key(outcome.task.target,
                  std::string(to_string(variant.backend)) + "/" + variant.algorithm + " " + variant.pattern);
    if (!sums.contains(key)) order.push_back(key);
    Sum& sum = sums[key];
    ++sum.kernels;
    if (!outcome.error.empty()) {
      ++sum.failed;
      continue;
    }
    if (!outcome.cached) {
      ++sum.compiled;
      sum.milliseconds += outcome.milliseconds;
    }
    sum.spilling += outcome.resources.spill_bytes > 0 ? 1 : 0;
    sum.least = std::min(sum.least, outcome.resources.registers);
    sum.most = std::max(sum.most, outcome.resources.registers);
  }
  Table table({"target", "algorithm and pattern", "kernels", "compiled", "ms each", "registers", "spilling", "failed"});
  for (const Key& key : order) {
    const Sum& sum = sums[key];
    table.add({key.first, key.second, std::to_string(sum.kernels), std::to_string(sum.compiled),
               sum.compiled == 0 ? "-" : one_decimal(sum.milliseconds / sum.compiled),
               sum.most <= 0 ? "-" : std::to_string(sum.least) + "-" + std::to_string(sum.most),
               std::to_string(sum.spilling), std::to_string(sum.failed)});
  }
  table.print();
}

void print_summary(const std::vector<CompileOutcome>& outcomes, double seconds) {
  double milliseconds = 0;
  int compiled = 0;
  int cached = 0;
  for (const CompileOutcome& outcome : outcomes) {
    if (!outcome.error.empty()) continue;
    compiled += outcome.cached ? 0 : 1;
    cached += outcome.cached ? 1 : 0;
    milliseconds += outcome.cached ? 0 : outcome.milliseconds;
  }
  std::printf("\n%zu kernels in %s: %d compiled%s, %d from the cache\n", outcomes.size(),
              format_seconds(seconds).c_str(), compiled,
              compiled == 0 ? "" : (" (" + one_decimal(milliseconds / compiled) + " ms each)").c_str(), cached);
  for (const CompileOutcome& outcome : outcomes) {
    if (outcome.error.empty()) continue;
    std::fprintf(stderr, "\n%s for %s:\n%s\n", outcome.task.variant.full_name().c_str(), outcome.task.target.c_str(),
                 outcome.error.c_str());
  }
}

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

std::vector<CompileTask> read_tasks(const Options& options) {
  if (options.has("coverage")) {
    for (const char* other : {"all", "algorithm", "variant", "pattern", "dtype", "world", "hidden", "rank"}) {
      if (options.has(other))
        throw UsageError("--coverage chooses the kernels itself; leave out --" + std::string(other));
    }
    return covering_tasks(Catalogue::builtin(), read_targets(options, {gpu_targets.begin(), gpu_targets.end()}));
  }
  if (!options.has("all") && !options.has("algorithm") && !options.has("variant")) {
    throw UsageError("say what to compile: --all, --coverage, --algorithm NAME or --variant NAME");
  }
  const VariantQuery query = read_variant_options(options, options.has("all") ? whole_catalogue() : one_problem());
  const auto rank = static_cast<int>(options.integer("rank", 0, max_world - 1, 0));
  const std::vector<std::string> targets = read_targets(options, {"sm_90a"});
  std::vector<CompileTask> tasks;
  for (const std::string& target : targets) {
    for (const Variant& variant : find_variants(query, limits_of(target))) tasks.push_back({target, variant, rank});
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

/// False if a kernel spills that did not when the record was made.
bool compare_with_record(const std::string& file, const std::vector<CompileOutcome>& outcomes) {
  const ResourceRecord record = read_record(read_input(file));
  if (record.nvrtc != nvrtc_version()) {
    std::fprintf(stderr,
                 "%s was made with NVRTC %s; this is %s, which may allocate registers in another way: spills are "
                 "not compared\n",
                 file.c_str(), record.nvrtc.c_str(), nvrtc_version().c_str());
    return true;
  }
  const std::vector<std::string> spills = new_spills(record, recorded(outcomes));
  for (const std::string& spill : spills) std::fprintf(stderr, "new spill: %s\n", spill.c_str());
  if (spills.empty()) return true;
  std::fprintf(stderr,
               "%zu kernels spill that did not. Spilling costs time; if it is meant, record it: arbiter compile "
               "--coverage --record %s\n",
               spills.size(), file.c_str());
  return false;
}

}  // namespace

Options compile_options() {
  Options options("compile",
                  "Compiles kernel variants for the given targets without running them: it needs NVRTC, but no GPU.\n"
                  "Prints the time, registers and spills. Results go to the kernel cache.",
                  "arbiter compile --all --target sm_90a --target sm_100a\n"
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
            "a few hundred kernels, chosen so that every combination of parameters meets every target, and every part\n"
            "of a pattern every algorithm, dtype and target (default targets: all with an sm_ number)")
      .value("record", "FILE", "write registers, spills and shared memory of each kernel, to be kept in git")
      .value("baseline", "FILE", "fail if a kernel spills that did not when this record was made")
      .flag("each", "with --all or --coverage: one line for each kernel instead of one for each algorithm")
      .value("jobs", "N", "processes that compile at the same time (default: one for each processor)")
      .flag("no-cache", "compile even what is in the cache, and store nothing")
      .flag("json", "for programs; see docs/cli.md");
  return options;
}

int run_compile(const Options& options) {
  const std::vector<CompileTask> tasks = read_tasks(options);
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
      progress.update(std::to_string(done) + "/" + std::to_string(tasks.size()) + " " + outcome.task.target + " " +
                      outcome.task.variant.full_name());
    });
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  if (options.has("json")) {
    print_as_json(outcomes, elapsed.count());
  } else {
    if ((options.has("all") || options.has("coverage")) && !options.has("each")) {
      print_by_algorithm(outcomes);
    } else {
      print_each(outcomes);
    }
    print_summary(outcomes, elapsed.count());
  }
  bool good = std::none_of(outcomes.begin(), outcomes.end(),
                           [](const CompileOutcome& outcome) { return !outcome.error.empty(); });
  if (options.has("record")) write_output(options.text("record"), write_record(nvrtc_version(), recorded(outcomes)));
  if (options.has("baseline")) good = compare_with_record(options.text("baseline"), outcomes) && good;
  return good ? exit_success : exit_failure;
}

}  // namespace arbiter::cli
