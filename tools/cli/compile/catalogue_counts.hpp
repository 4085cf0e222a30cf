// How many variants of each algorithm there are for given problems and a given target, and why there are not more.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "arbiter/generator/variant.hpp"
#include "compile/variant_options.hpp"

namespace arbiter::cli {

struct ExcludedCount {
  std::int64_t variants = 0;  ///< 0: the algorithm, or the problem, as a whole
  std::string example;        ///< full name of one of them; the problem where there is none
};

struct AlgorithmCount {
  const AlgorithmEntry* entry = nullptr;
  std::int64_t available = 0;
  std::map<std::string, ExcludedCount> excluded;  ///< by reason
};

struct CatalogueCounts {
  std::vector<AlgorithmCount> algorithms;  ///< in catalogue order: those that the query and the backend admit
  /// Problems that no device can do, with the reason: "allreduce_nvfp4_linear fp32, hidden 8192" -> "...".
  std::map<std::string, std::string> impossible;
};

/// Every combination of the query's patterns, dtypes, numbers of ranks and hidden sizes. The stand-alone kernel
/// counts once for all numbers of ranks.
CatalogueCounts count_variants(const VariantQuery&, Backend, const TargetLimits&);

}  // namespace arbiter::cli
