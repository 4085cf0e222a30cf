// arbiter compile: compile variants for given targets, without running them, and say what that took.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "arbiter/generator/cache.hpp"
#include "arbiter/generator/compile.hpp"
#include "arbiter/generator/render.hpp"
#include "arbiter/runtime/environment.hpp"
#include "command.hpp"
#include "json.hpp"
#include "options.hpp"
#include "text.hpp"
#include "variant_options.hpp"

namespace arbiter::cli {
namespace {

struct Outcome {
  std::string target;
  Variant variant;
  bool cached = false;
  double milliseconds = 0;  ///< compiling, or reading from the cache
  std::size_t image_bytes = 0;
  KernelResources resources;
  std::string error;  ///< empty when it compiled
};

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

Outcome compile_one(const Variant& variant, int rank, const std::string& target, const Compiler& compiler,
                    KernelCache& cache) {
  Outcome outcome;
  outcome.target = target;
  outcome.variant = variant;
  const auto start = std::chrono::steady_clock::now();
  try {
    const Dialect dialect = target == "cpu" ? Dialect::host : Dialect::cuda;
    const int compiled_rank = std::min(rank, variant.world - 1);  // a stand-alone epilogue has rank 0 only
    const Source source = render_kernel(Catalogue::builtin(), variant, compiled_rank, dialect);
    const std::uint64_t misses = cache.statistics().misses;
    const CompiledKernel kernel =
        cache.get(source, compiler, variant.full_name() + " rank=" + std::to_string(compiled_rank));
    outcome.cached = cache.statistics().misses == misses;
    outcome.image_bytes = kernel.image.size();
    outcome.resources = kernel.resources;
  } catch (const Unavailable&) {
    throw;  // no compiler at all: no other variant will fare better
  } catch (const std::exception& error) {
    outcome.error = error.what();
  }
  outcome.milliseconds = milliseconds_since(start);
  return outcome;
}

void print_as_json(const std::vector<Outcome>& outcomes, double seconds) {
  print_json([&](llvm::json::OStream& json) {
    json.attribute("schema", json_schema);
    write_text(json, "nvrtc", nvrtc_version());
    write_microseconds(json, "seconds", seconds);
    json.attributeArray("kernels", [&] {
      for (const Outcome& outcome : outcomes) {
        json.object([&] {
          write_text(json, "target", outcome.target);
          write_text(json, "variant", outcome.variant.full_name());
          json.attribute("cached", outcome.cached);
          write_microseconds(json, "milliseconds", outcome.milliseconds);
          json.attribute("registers", outcome.resources.registers);
          json.attribute("shared_bytes", outcome.resources.shared_bytes);
          json.attribute("spill_bytes", outcome.resources.spill_bytes);
          json.attribute("image_bytes", static_cast<std::int64_t>(outcome.image_bytes));
          if (!outcome.error.empty()) write_text(json, "error", outcome.error);
        });
      }
    });
  });
}

void print_each(const std::vector<Outcome>& outcomes) {
  Table table({"target", "variant", "ms", "registers", "shared bytes", "spilled bytes", ""});
  for (const Outcome& outcome : outcomes) {
    char milliseconds[32];
    std::snprintf(milliseconds, sizeof milliseconds, "%.1f", outcome.milliseconds);
    table.add({outcome.target, outcome.variant.full_name(), milliseconds, std::to_string(outcome.resources.registers),
               std::to_string(outcome.resources.shared_bytes), std::to_string(outcome.resources.spill_bytes),
               !outcome.error.empty() ? "failed"
               : outcome.cached       ? "cached"
                                      : ""});
  }
  table.print();
}

void print_by_algorithm(const std::vector<Outcome>& outcomes) {
  struct Sum {
    int kernels = 0, compiled = 0, failed = 0, spilled = 0, least = 1 << 20, most = 0;
    double milliseconds = 0;
  };
  std::map<std::pair<std::string, std::string>, Sum> sums;
  std::vector<std::pair<std::string, std::string>> order;
  for (const Outcome& outcome : outcomes) {
    const auto key = std::pair(outcome.target, std::string(to_string(outcome.variant.backend)) + "/" +
                                                   outcome.variant.algorithm + " " + outcome.variant.pattern);
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
    sum.spilled += outcome.resources.spill_bytes > 0 ? 1 : 0;
    sum.least = std::min(sum.least, outcome.resources.registers);
    sum.most = std::max(sum.most, outcome.resources.registers);
  }
  Table table({"target", "algorithm and pattern", "kernels", "compiled", "ms each", "registers", "spilling", "failed"});
  for (const auto& key : order) {
    const Sum& sum = sums[key];
    char each[32] = "-";
    if (sum.compiled > 0) std::snprintf(each, sizeof each, "%.1f", sum.milliseconds / sum.compiled);
    table.add({key.first, key.second, std::to_string(sum.kernels), std::to_string(sum.compiled), each,
               sum.most == 0 ? "-" : std::to_string(sum.least) + "-" + std::to_string(sum.most),
               std::to_string(sum.spilled), std::to_string(sum.failed)});
  }
  table.print();
}

void print_summary(const std::vector<Outcome>& outcomes, double seconds) {
  double milliseconds = 0;
  int compiled = 0;
  for (const Outcome& outcome : outcomes) {
    if (outcome.cached || !outcome.error.empty()) continue;
    ++compiled;
    milliseconds += outcome.milliseconds;
  }
  std::printf("\n%zu kernels in %s: %d compiled", outcomes.size(), format_seconds(seconds).c_str(), compiled);
  if (compiled > 0) std::printf(" (%.1f ms each)", milliseconds / compiled);
  std::printf(", the others from the cache\n");
  for (const Outcome& outcome : outcomes) {
    if (outcome.error.empty()) continue;
    std::fprintf(stderr, "\n%s for %s:\n%s\n", outcome.variant.full_name().c_str(), outcome.target.c_str(),
                 outcome.error.c_str());
  }
}

}  // namespace

int run_compile(Arguments arguments) {
  Options options("compile",
                  "Compiles kernel variants for the given targets without running them: it needs NVRTC, but no GPU.\n"
                  "Prints the time, registers and spills. Results go to the kernel cache.",
                  "arbiter compile --all --target sm_90a --target sm_100a\n"
                  "arbiter compile --algorithm twoshot_push --hidden 7168 --world 4 --target sm_90a --no-cache");
  declare_variant_options(options);
  options
      .list("target", "NAME",
            "sm_80, sm_86, sm_89, sm_90a, sm_100a, sm_103a, sm_120a, compute_XX (PTX), cpu\n(default: sm_90a)")
      .value("rank", "R", "the rank that is compiled in (default: 0)")
      .flag("all",
            "every variant of the catalogue: all patterns and dtypes, 2, 4 and 8 ranks, hidden size 8192,\n"
            "each of which --pattern, --dtype, --world and --hidden narrow or change")
      .flag("each", "with --all: one line for each kernel instead of one for each algorithm")
      .flag("no-cache", "compile even what is in the cache, and store nothing")
      .flag("json", "for programs; see docs/cli.md");
  if (!options.parse(arguments)) return exit_success;

  VariantQuery everything;
  for (const EpilogueEntry& epilogue : Catalogue::builtin().epilogues())
    everything.patterns.push_back(epilogue.pattern);
  everything.dtypes = {Dtype::bf16, Dtype::fp16, Dtype::fp32};
  everything.worlds = {2, 4, 8};
  everything.hiddens = {8192};
  const VariantQuery one{.patterns = {"allreduce"},
                         .dtypes = {Dtype::bf16},
                         .worlds = {2},
                         .hiddens = {8192},
                         .algorithm = {},
                         .name = {}};
  const bool all = options.has("all");
  if (!all && !options.has("algorithm") && !options.has("variant")) {
    throw UsageError("say what to compile: --all, --algorithm NAME or --variant NAME");
  }
  const VariantQuery query = read_variant_options(options, all ? everything : one);
  const auto rank = static_cast<int>(options.integer("rank", 0, max_world - 1, 0));
  std::vector<std::string> targets = options.texts("target");
  if (targets.empty()) targets.emplace_back("sm_90a");
  for (const std::string& target : targets) check_target(target);

  const EnvironmentVariables variables = EnvironmentVariables::read();
  CacheOptions cache_options;
  if (!options.has("no-cache")) cache_options.directory = variables.cache_dir;
  cache_options.compile_on_miss = variables.jit;
  KernelCache cache(cache_options);

  std::vector<Outcome> outcomes;
  const auto start = std::chrono::steady_clock::now();
  {
    Progress progress;
    for (const std::string& target : targets) {
      const std::vector<Variant> variants = find_variants(query, limits_of(target));
      const std::unique_ptr<Compiler> compiler = target == "cpu" ? make_host_compiler() : make_nvrtc_compiler(target);
      for (std::size_t i = 0; i < variants.size(); ++i) {
        progress.update(target + " " + std::to_string(i + 1) + "/" + std::to_string(variants.size()) + " " +
                        variants[i].full_name());
        outcomes.push_back(compile_one(variants[i], rank, target, *compiler, cache));
      }
    }
  }
  const double seconds = milliseconds_since(start) / 1000;
  if (outcomes.empty()) throw UsageError("no variant matches; see what there is with: arbiter render --list");
  if (options.has("json")) {
    print_as_json(outcomes, seconds);
  } else {
    if (all && !options.has("each")) {
      print_by_algorithm(outcomes);
    } else {
      print_each(outcomes);
    }
    print_summary(outcomes, seconds);
  }
  const bool failed = std::any_of(outcomes.begin(), outcomes.end(), [](const Outcome& o) { return !o.error.empty(); });
  return failed ? exit_failure : exit_success;
}

}  // namespace arbiter::cli
