// arbiter catalogue: what kernels there are, what they are composed of, and why one is not available.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/device.hpp"
#include "arbiter/generator/joined.hpp"
#include "arbiter/variables.hpp"
#include "commands/command.hpp"
#include "compile/catalogue_counts.hpp"
#include "options/names.hpp"
#include "options/options.hpp"
#include "text/json.hpp"
#include "text/print.hpp"
#include "text/table.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

constexpr std::string_view capabilities[] = {"multicast"};

/// Where the kernels would run.
struct Target {
  std::string name;  ///< "sm_90a", "cpu"
  std::string why;   ///< "", or how it was found out
  TargetLimits limits;
};

Target read_target(const Options& options) {
  Target target;
  if (options.has("target")) {
    target.name = check_target(options.text("target"));
  } else if (cuda_device_count() > 0) {
    const auto device = make_cuda_device(0);
    target.name = device->properties().compile_target;
    target.why = "this device: " + device->properties().name;
  } else {
    target.name = "cpu";
    target.why = "the CPU device: there is no GPU here";
  }
  target.limits = limits_of(target.name);
  if (!options.has("target")) {
    target.limits.capabilities.clear();
    if (EnvironmentVariables::read().multicast) target.limits.capabilities.emplace_back("multicast");
  }
  if (options.has("with")) {
    target.limits.capabilities = options.texts("with");
    std::erase(target.limits.capabilities, "nothing");
    for (const std::string& name : target.limits.capabilities) {
      if (std::find(std::begin(capabilities), std::end(capabilities), name) == std::end(capabilities)) {
        throw UsageError(unknown_name_message("capability", name, capabilities));
      }
    }
  }
  return target;
}

std::string full_name(const AlgorithmEntry& entry) { return std::string(to_string(entry.backend)) + "/" + entry.name; }

std::string tensor_name(Tensor tensor) { return std::string(to_string(tensor)); }

std::string described(const VariantQuery& query) {
  return joined(query.patterns, ", ") + "; " +
         joined(query.dtypes, ", ", [](Dtype dtype) { return std::string(to_string(dtype)); }) + "; " +
         joined(query.worlds, ", ") + " ranks; hidden " + joined(query.hiddens, ", ");
}

std::int64_t excluded_variants(const AlgorithmCount& count) {
  std::int64_t sum = 0;
  for (const auto& [reason, excluded] : count.excluded) sum += excluded.variants;
  return sum;
}

/// "2-8, 16"
std::string ranges(const std::vector<int>& numbers) {
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    text += (text.empty() ? "" : ",") + std::to_string(numbers[i]);
    if (last > i) text += (last == i + 1 ? "," : "-") + std::to_string(numbers[last]);
    i = last + 1;
  }
  return text;
}

void print_algorithms(const CatalogueCounts& counts) {
  print("Algorithms (numerics rank_order_fp32 unless said)\n");
  Table table({"algorithm", "variants", "ranks", "what it does"});
  for (const AlgorithmCount& count : counts.algorithms) {
    const AlgorithmEntry& entry = *count.entry;
    std::string what = entry.summary;
    if (!entry.capabilities.empty()) what += " Needs " + joined(entry.capabilities, ", ") + ".";
    if (entry.numerics != Numerics::rank_order_fp32)
      what += " Numerics " + std::string(to_string(entry.numerics)) + ".";
    table.add({full_name(entry), fmt::format("{} of {}", count.available, count.available + excluded_variants(count)),
               entry.exchange ? ranges(entry.worlds) : "any", what});
  }
  table.print(2);
}

void print_parts() {
  const Catalogue& catalogue = Catalogue::builtin();
  print("\nParts of a pattern, in any combination:\n[prologue_]allreduce[_residual][_norm][_quantisation]\n");
  Table table({"part", "what it does"});
  for (const PartEntry& part : catalogue.parts()) {
    std::string what = part.summary;
    if (!part.reads.empty() || !part.optional.empty()) {
      what += " Reads " + joined(part.reads, ", ", tensor_name);
      if (!part.optional.empty()) what += " [" + joined(part.optional, ", ", tensor_name) + "]";
      what += ".";
    }
    if (!part.writes.empty()) what += " Writes " + joined(part.writes, ", ", tensor_name) + ".";
    table.add({part.name, what});
  }
  table.print(2);
  print("\nUsual patterns\n");
  for (const std::string& pattern : catalogue.usual_patterns()) print("  %s\n", pattern.c_str());
}

void print_constraints(const std::string& title, const std::vector<Constraint>& constraints) {
  if (constraints.empty()) return;
  print("\n%s", wrapped(title, TerminalStyle::of_stdout().columns, 2).c_str());
  Table table({"must hold", "or else"});
  for (const Constraint& constraint : constraints) table.add({constraint.require, constraint.reason});
  table.print(2);
}

void print_details(const AlgorithmEntry& entry) {
  print("\nAxes of %s\n", full_name(entry).c_str());
  Table axes({"axis", "values", "fixed when", "needs"});
  for (const Axis& axis : entry.axes) {
    axes.add({axis.name, joined(axis.values, ","), axis.launch ? "launched" : "compiled",
              axis.capability.empty() ? "-" : axis.capability});
  }
  axes.print(2);
  print_constraints("Constraints of " + full_name(entry), entry.constraints);
  print_constraints("Pruning of " + full_name(entry) + " (arbiter tune --exhaustive goes without)", entry.pruning);
}

/// "cluster=1,threads=256" of a variant's full name: the rest stands in the columns before, and above the table.
std::string parameters_of(const std::string& full_name) {
  const std::size_t colon = full_name.find(':');
  if (colon == std::string::npos) return "-";
  return full_name.substr(colon + 1, full_name.find(' ', colon) - colon - 1);
}

void print_reasons(const CatalogueCounts& counts) {
  print("\nWhat is not available, and why\n");
  Table table({"what", "variants", "why not", "for example"});
  bool any = false;
  for (const auto& [problem, reason] : counts.impossible) {
    any = true;
    table.add({problem, "all", reason, "-"});
  }
  for (const AlgorithmCount& count : counts.algorithms) {
    for (const auto& [reason, excluded] : count.excluded) {
      any = true;
      table.add({full_name(*count.entry), excluded.variants == 0 ? "all" : std::to_string(excluded.variants), reason,
                 parameters_of(excluded.example)});
    }
  }
  if (any) {
    table.print(2);
  } else {
    print("  everything is available\n");
  }
}

void write_constraints(llvm::json::OStream& json, const char* name, const std::vector<Constraint>& constraints) {
  json.attributeArray(name, [&] {
    for (const Constraint& constraint : constraints) {
      json.object([&] {
        write_text(json, "require", constraint.require);
        write_text(json, "reason", constraint.reason);
      });
    }
  });
}

template <typename List, typename Text>
void write_list(llvm::json::OStream& json, const char* name, const List& list, Text text) {
  json.attributeArray(name, [&] {
    for (const auto& value : list) json.value(text(value));
  });
}

void write_list(llvm::json::OStream& json, const char* name, const std::vector<std::string>& list) {
  write_list(json, name, list, [](const std::string& text) { return text; });
}

void write(llvm::json::OStream& json, const AlgorithmCount& count) {
  const AlgorithmEntry& entry = *count.entry;
  json.object([&] {
    write_text(json, "backend", to_string(entry.backend));
    write_text(json, "algorithm", entry.name);
    write_text(json, "numerics", to_string(entry.numerics));
    json.attribute("exchange", entry.exchange);
    write_list(json, "worlds", entry.worlds, [](int world) { return world; });
    write_list(json, "capabilities", entry.capabilities);
    write_text(json, "summary", entry.summary);
    json.attributeArray("axes", [&] {
      for (const Axis& axis : entry.axes) {
        json.object([&] {
          write_text(json, "name", axis.name);
          write_list(json, "values", axis.values, [](int value) { return value; });
          json.attribute("launch", axis.launch);
          write_text(json, "capability", axis.capability);
        });
      }
    });
    write_constraints(json, "constraints", entry.constraints);
    write_constraints(json, "pruning", entry.pruning);
    if (entry.exchange) {
      write_text(json, "transport", to_string(*entry.transport));
      json.attribute("steps", entry.steps);
      write_text(json, "link_rows", entry.link_rows);
      write_text(json, "protocol", entry.protocol);
    }
    json.attribute("variants", count.available);
    json.attributeArray("excluded", [&] {
      for (const auto& entry_of : count.excluded) {
        json.object([&] {
          write_text(json, "reason", entry_of.first);
          json.attribute("variants", entry_of.second.variants);
          write_text(json, "example", entry_of.second.example);
        });
      }
    });
  });
}

void write(llvm::json::OStream& json, const PartEntry& part) {
  json.object([&] {
    write_text(json, "name", part.name);
    write_text(json, "kind", to_string(part.kind));
    write_text(json, "summary", part.summary);
    write_text(json, "parameter", part.parameter);
    write_list(json, "reads", part.reads, tensor_name);
    write_list(json, "optional", part.optional, tensor_name);
    write_list(json, "writes", part.writes, tensor_name);
    write_constraints(json, "problem", part.problem);
    write_constraints(json, "constraints", part.constraints);
  });
}

void print_as_json(const CatalogueCounts& counts, const VariantQuery& query, const Target& target) {
  const Catalogue& catalogue = Catalogue::builtin();
  print_json([&](llvm::json::OStream& json) {
    json.attribute("schema", json_schema);
    write_text(json, "hash", catalogue.hash());
    json.attributeObject("counted", [&] {
      write_text(json, "target", target.name);
      write_list(json, "with", target.limits.capabilities);
      write_list(json, "patterns", query.patterns);
      write_list(json, "dtypes", query.dtypes, [](Dtype dtype) { return std::string(to_string(dtype)); });
      write_list(json, "worlds", query.worlds, [](int world) { return world; });
      write_list(json, "hiddens", query.hiddens, [](int hidden) { return hidden; });
    });
    json.attributeArray("algorithms", [&] {
      for (const AlgorithmCount& count : counts.algorithms) write(json, count);
    });
    json.attributeArray("impossible", [&] {
      for (const auto& entry : counts.impossible) {
        json.object([&] {
          write_text(json, "problem", entry.first);
          write_text(json, "reason", entry.second);
        });
      }
    });
    json.attributeArray("parts", [&] {
      for (const PartEntry& part : catalogue.parts()) write(json, part);
    });
    write_list(json, "usual_patterns", catalogue.usual_patterns());
  });
}

}  // namespace

Options catalogue_options() {
  Options options(
      "catalogue",
      "Lists the algorithms and the parts that patterns are composed of, and counts the variants of a problem\n"
      "on a target. With --algorithm also its parameters and the constraints between them. --explain says why\n"
      "a variant, an algorithm or a problem is not available there. NCCL is not in it: it is always there.",
      "arbiter catalogue\n"
      "arbiter catalogue --algorithm twoshot_push --pattern allreduce_residual_rmsnorm --world 4\n"
      "arbiter catalogue --explain --hidden 16384 --world 16 --target sm_80");
  declare_variant_options(options);
  options.value("backend", "NAME", "only this one: trtllm, mnnvl, custom, nvls")
      .choices(backend_names())
      .value("target", "NAME", "count for this target instead of this device: sm_90a, compute_XX, cpu, ...")
      .choices(target_names())
      .list("with", "NAME",
            "what is proven there beyond peer stores: multicast or nothing\n"
            "(default: multicast; without --target only if ARBITER_MULTICAST is on)")
      .choices({"multicast", "nothing"})
      .flag("explain", "why variants, algorithms and problems are not available")
      .flag("json", "for programs; see docs/cli.md");
  return options;
}

int run_catalogue(const Options& options) {
  const VariantQuery query = read_variant_options(options, one_problem());
  const Backend backend = options.has("backend") ? parse_backend(options.text("backend")) : Backend::automatic;
  const Target target = read_target(options);
  const CatalogueCounts counts = count_variants(query, backend, target.limits);
  if (counts.algorithms.empty()) {
    throw UsageError("no algorithm of the catalogue matches" +
                     std::string(backend == Backend::nccl ? ": NCCL has no kernels of ours" : ""));
  }
  std::int64_t available = 0, excluded = 0;
  for (const AlgorithmCount& count : counts.algorithms) {
    available += count.available;
    excluded += excluded_variants(count);
  }
  if (!query.name.empty() && available + excluded == 0) {
    throw UsageError("the catalogue has no variant '" + query.name +
                     "' for this problem; see the names with: " + "arbiter render --list");
  }
  if (options.has("json")) {
    print_as_json(counts, query, target);
    return exit_success;
  }
  print_algorithms(counts);
  const std::string counted = fmt::format("{} variants of {}", available, available + excluded);
  print("%s", wrapped(fmt::format("  {}: {}; on {}{}", counted, described(query), target.name,
                                  target.why.empty() ? "" : " (" + target.why + ")"),
                      TerminalStyle::of_stdout().columns, 4)
                  .c_str());
  if (options.has("algorithm")) {
    for (const AlgorithmCount& count : counts.algorithms) print_details(*count.entry);
  } else if (!options.has("explain")) {
    print_parts();
  }
  if (options.has("explain")) {
    print_reasons(counts);
  } else if (excluded != 0 || !counts.impossible.empty()) {
    print("\nWhy some are not available: the same command with --explain\n");
  }
  return exit_success;
}

}  // namespace arbiter::cli
