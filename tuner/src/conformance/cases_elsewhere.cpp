// What this machine has no hardware for: listed, because a reader must not take it for proven here.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "conformance/case_list.hpp"

namespace arbiter::tuning {
namespace {

void list_case(CaseList& list, std::string_view area, const ProblemFamily& shape, int world, std::string detail,
               const std::string& reason) {
  CaseResult result = list.describe(area, shape, std::move(detail));
  result.world = world;
  result.cpu_only = true;
  list.add_case(std::move(result), reason, {});
}

/// Number formats whose conversions are instructions from SM 100 on: below, the same bits come from software.
void add_conversions(CaseList& list) {
  const int sm = list.group().capabilities().limits.sm;
  if (!list.area_wanted("quantisation") || sm >= 100) return;
  const std::string pattern = std::string(fused_pattern) + "_nvfp4_linear";
  list_case(list, "quantisation", list.family(pattern, Dtype::bf16, list.hidden(), 1), list.group().size(),
            "NVFP4 by conversion instructions",
            fmt::format("the conversion instructions of NVFP4 exist from SM 100 on; this is SM {}, where software "
                        "gives the bits that were checked",
                        sm));
}

/// Forms of algorithms that use what this machine does not have or was not allowed to use.
void add_other_forms(CaseList& list) {
  if (!list.area_wanted("plain")) return;
  const std::vector<std::string> proven = list.group().capabilities().limits.capabilities;
  for (const AlgorithmEntry* algorithm : list.algorithms()) {
    if (!list.algorithm_wanted(*algorithm)) continue;
    for (const Axis& axis : algorithm->axes) {
      if (axis.capability.empty() || std::find(proven.begin(), proven.end(), axis.capability) != proven.end()) continue;
      CaseResult result = list.describe("plain", list.family(plain_pattern, Dtype::bf16, list.hidden(), 1),
                                        "every case with " + axis.name);
      result.backend = algorithm->backend;
      result.algorithm = algorithm->name;
      result.cpu_only = true;
      list.add_case(std::move(result), "it needs '" + axis.capability + "', which is not proven here", {});
    }
  }
}

void add_larger_worlds(CaseList& list) {
  const int gpus = list.options().gpus;
  if (!list.area_wanted("plain") || list.group().size() != gpus) return;
  std::set<int> worlds;
  for (const AlgorithmEntry* algorithm : list.algorithms()) {
    if (list.algorithm_wanted(*algorithm)) worlds.insert(algorithm->worlds.begin(), algorithm->worlds.end());
  }
  for (const int world : worlds) {
    if (world <= gpus) continue;
    list_case(list, "plain", list.family(plain_pattern, Dtype::bf16, list.hidden(), 1), world, "every case",
              fmt::format("{} ranks need {} GPUs; there are {}", world, world, gpus));
  }
}

}  // namespace

void add_cases_of_elsewhere(CaseList& list) {
  if (list.on_cpu()) return;
  add_conversions(list);
  add_other_forms(list);
  add_larger_worlds(list);
}

}  // namespace arbiter::tuning
