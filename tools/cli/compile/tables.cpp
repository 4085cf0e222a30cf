#include "compile/tables.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <utility>

#include "text/json.hpp"
#include "text/print.hpp"
#include "text/table.hpp"
#include "text/text.hpp"

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

}  // namespace

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
          write_field(json, "image_bytes", outcome.image_bytes);
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
               sum.most <= 0 ? "-" : fmt::format("{}-{}", sum.least, sum.most), std::to_string(sum.spilling),
               std::to_string(sum.failed)});
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
  print("\n%zu kernel%s in %s: %d compiled%s, %d from the cache\n", outcomes.size(), outcomes.size() == 1 ? "" : "s",
        format_seconds(seconds).c_str(), compiled,
        compiled == 0 ? "" : (" (" + one_decimal(milliseconds / compiled) + " ms each)").c_str(), cached);
  for (const CompileOutcome& outcome : outcomes) {
    if (outcome.error.empty()) continue;
    print_error("\n%s for %s:\n%s\n", outcome.task.variant.full_name().c_str(), outcome.task.target.c_str(),
                outcome.error.c_str());
  }
}

}  // namespace arbiter::cli
