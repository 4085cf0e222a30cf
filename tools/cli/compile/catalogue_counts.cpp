#include "compile/catalogue_counts.hpp"

#include <fmt/format.h>

#include <set>
#include <utility>

namespace arbiter::cli {
namespace {

/// Flat patterns give the same variants for every hidden size: each counts once.
class Counter {
 public:
  Counter(const VariantQuery& query, CatalogueCounts& counts) : query_(query), counts_(counts) {}

  void add(const Enumeration& enumeration) {
    for (const Variant& variant : enumeration.variants) {
      if (AlgorithmCount* count = count_of(variant)) ++count->available;
    }
    for (const Excluded& excluded : enumeration.excluded) {
      AlgorithmCount* count = count_of(excluded.variant);
      if (count == nullptr) continue;
      ExcludedCount& reason = count->excluded[excluded.reason];
      // An algorithm that cannot run at all is excluded once, without parameters.
      reason.variants += excluded.variant.parameters.empty() ? 0 : 1;
      if (reason.example.empty()) reason.example = excluded.variant.full_name();
    }
  }

 private:
  AlgorithmCount* count_of(const Variant& variant) {
    const bool asked = query_.name.empty() || variant.parameters.empty() || is_named(variant, query_.name);
    if (!asked || !seen_.insert(variant).second) return nullptr;
    for (AlgorithmCount& count : counts_.algorithms) {
      if (count.entry->backend == variant.backend && count.entry->name == variant.algorithm) return &count;
    }
    return nullptr;
  }

  const VariantQuery& query_;
  CatalogueCounts& counts_;
  std::set<Variant> seen_;
};

}  // namespace

CatalogueCounts count_variants(const VariantQuery& query, Backend backend, const TargetLimits& limits) {
  const Catalogue& catalogue = Catalogue::builtin();
  CatalogueCounts counts;
  for (const AlgorithmEntry& entry : catalogue.algorithms()) {
    const std::string full = std::string(to_string(entry.backend)) + "/" + entry.name;
    if (backend != Backend::automatic && backend != entry.backend) continue;
    if (!query.algorithm.empty() && query.algorithm != entry.name && query.algorithm != full) continue;
    counts.algorithms.push_back({&entry, 0, {}});
  }
  Counter counter(query, counts);
  for (const std::string& name : query.patterns) {
    const Pattern pattern = catalogue.pattern(name);
    for (const Dtype dtype : query.dtypes) {
      for (const int hidden : query.hiddens) {
        if (const auto reason = impossible(pattern, dtype, hidden)) {
          counts.impossible[fmt::format("{} {}, hidden {}", name, to_string(dtype), hidden)] = *reason;
          continue;
        }
        for (const int world : query.worlds) counter.add(enumerate(catalogue, name, dtype, world, hidden, limits));
        if (pattern.rows) counter.add(enumerate_standalone(catalogue, name, dtype, hidden, limits));
      }
    }
  }
  return counts;
}

}  // namespace arbiter::cli
