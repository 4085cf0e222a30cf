#include "compile/coverage.hpp"

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <utility>

#include "compile/variant_options.hpp"

namespace arbiter::cli {
namespace {

/// Hidden sizes of models in use, and a few that no power of two divides well.
constexpr int hiddens[] = {1024, 2048, 2880, 3072, 4096, 5120, 6144, 7168, 8192, 12288, 16384, 1000, 4104};
constexpr int groups[] = {128, 64, 32, 16, 8, 256, 512, 3, 6, 12, 24, 48};
constexpr Dtype dtypes[] = {Dtype::bf16, Dtype::fp16, Dtype::fp32};
constexpr std::size_t problems_per_family = 560;

/// What a task stands for, by kind: "algorithm" -> "mnnvl/twoshot_push", "quantisation" -> "fp8_token", ...
using Features = std::map<std::string, std::string>;

/// Two kinds of choices that every kernel combines. All combinations that exist are compiled.
constexpr std::pair<const char*, const char*> covered[] = {
    {"parameters", "family"},   {"algorithm", "target"},       {"algorithm", "prologue"},
    {"algorithm", "norm"},      {"algorithm", "quantisation"}, {"algorithm", "residual"},
    {"algorithm", "dtype"},     {"algorithm", "world"},        {"algorithm", "hidden"},
    {"quantisation", "target"}, {"quantisation", "dtype"},     {"quantisation", "prologue"},
    {"quantisation", "norm"},   {"quantisation", "hidden"},    {"quantisation", "residual"},
    {"prologue", "target"},     {"prologue", "dtype"},         {"norm", "target"},
    {"norm", "dtype"},          {"dtype", "target"},           {"group", "quantisation"},
    {"group", "dtype"}};

std::string algorithm_name(const Variant& variant) {
  return std::string(to_string(variant.backend)) + "/" + variant.algorithm;
}

/// A pattern's name with every part drawn by chance. Plain allreduce comes more often than chance would have it, and
/// MoE prologues less often: their kernels take longest to compile.
std::string draw_pattern(const Catalogue& catalogue, std::mt19937_64& random) {
  const auto draw = [&](PartKind kind) {
    std::vector<std::string> names{""};
    for (const PartEntry& part : catalogue.parts()) {
      if (part.kind == kind) names.push_back(part.name);
    }
    std::string name = names[random() % names.size()];
    const std::size_t open = name.find('{');
    if (open != std::string::npos) {
      name.replace(open, name.find('}') - open + 1, std::to_string(groups[random() % std::size(groups)]));
    }
    return name;
  };
  if (random() % 8 == 0) return "allreduce";
  std::string pattern = random() % 2 == 0 ? "" : draw(PartKind::prologue);
  if (!pattern.empty()) pattern += "_";
  pattern += "allreduce";
  for (const PartKind kind : {PartKind::residual, PartKind::norm, PartKind::quantisation}) {
    const std::string name = draw(kind);
    if (!name.empty()) pattern += "_" + name;
  }
  return pattern;
}

/// Targets that a compiler treats alike: sm_80, sm_86 and sm_89; sm_90a; sm_100a and sm_103a; sm_120a.
int family_of(const std::string& target) { return limits_of(target).sm / 10; }

Features features_of(const Catalogue& catalogue, const CompileTask& task) {
  const Variant& variant = task.variant;
  const Pattern pattern = catalogue.pattern(variant.pattern);
  Features features{{"target", task.target},
                    {"family", std::to_string(family_of(task.target))},
                    {"algorithm", algorithm_name(variant)},
                    {"parameters", variant.name()},
                    {"dtype", std::string(to_string(variant.dtype))},
                    {"world", std::to_string(variant.world)},
                    {"hidden", std::to_string(variant.hidden)},
                    {"group", std::to_string(pattern.group)}};
  for (const PartKind kind : {PartKind::prologue, PartKind::residual, PartKind::norm, PartKind::quantisation}) {
    const PartEntry* part = pattern.part(kind);
    // The number in a name, such as a group's, is a feature of its own.
    features.emplace(to_string(kind),
                     part == nullptr ? "none" : part->template_name + " " + std::string(to_string(part->scale_layout)));
  }
  return features;
}

std::vector<std::string> pairs_of(const Features& features) {
  std::vector<std::string> pairs;
  for (const auto& [first, second] : covered) {
    pairs.push_back(std::string(first) + "=" + features.at(first) + " " + second + "=" + features.at(second));
  }
  return pairs;
}

/// World sizes that some algorithm is built for.
std::vector<int> worlds_of(const Catalogue& catalogue) {
  std::set<int> worlds;
  for (const AlgorithmEntry& algorithm : catalogue.algorithms()) {
    if (algorithm.exchange) worlds.insert(algorithm.worlds.begin(), algorithm.worlds.end());
  }
  return {worlds.begin(), worlds.end()};
}

/// Every kernel of one problem that is drawn by chance. The same number draws the same problem, whatever the catalogue
/// offers for others: a change of one constraint leaves the rest of the plan, and of its record, as it was.
void draw_problem(const Catalogue& catalogue, const std::vector<int>& worlds, const std::string& target,
                  std::uint64_t number, std::vector<CompileTask>& tasks) {
  std::mt19937_64 random(20261124 + number);
  TargetLimits limits = limits_of(target);
  limits.capabilities = {"multicast"};  // a compiler does not care whether a machine has them
  const std::string pattern = draw_pattern(catalogue, random);
  const Dtype dtype = dtypes[random() % std::size(dtypes)];
  const int hidden = hiddens[random() % std::size(hiddens)];
  // Most people have 2, 4 or 8 GPUs.
  const int world = random() % 2 == 0 ? 2 << random() % 3 : worlds[random() % worlds.size()];
  const std::uint64_t rank = random();
  const Pattern parts = catalogue.pattern(pattern);
  if (impossible(parts, dtype, hidden)) return;
  std::vector<Variant> variants = enumerate(catalogue, pattern, dtype, world, hidden, limits).variants;
  if (parts.rows) {
    const Enumeration alone = enumerate_standalone(catalogue, pattern, dtype, hidden, limits);
    variants.insert(variants.end(), alone.variants.begin(), alone.variants.end());
  }
  for (const Variant& variant : variants) {
    tasks.push_back({target, variant, static_cast<int>(rank % static_cast<std::uint64_t>(variant.world))});
  }
}

/// Every kernel of some hundred problems for every family, each for one of the family's targets in turn.
std::vector<CompileTask> draw_tasks(const Catalogue& catalogue, const std::vector<std::string>& targets) {
  std::map<int, std::vector<std::string>> families;
  for (const std::string& target : targets) families[family_of(target)].push_back(target);
  const std::vector<int> worlds = worlds_of(catalogue);
  std::vector<CompileTask> tasks;
  for (std::size_t problem = 0; problem < problems_per_family; ++problem) {
    for (const auto& [family, members] : families) {
      draw_problem(catalogue, worlds, members[problem % members.size()],
                   problem * 1000 + static_cast<std::uint64_t>(family), tasks);
    }
  }
  return tasks;
}

}  // namespace

std::vector<CompileTask> covering_tasks(const Catalogue& catalogue, const std::vector<std::string>& targets) {
  std::vector<CompileTask> drawn = draw_tasks(catalogue, targets);
  // Kernels for many ranks take longest to compile: they come where nothing else covers the same.
  std::stable_partition(drawn.begin(), drawn.end(), [](const CompileTask& task) { return task.variant.world <= 8; });
  std::vector<std::vector<int>> pairs(drawn.size());
  std::map<std::string, int> numbers;
  for (std::size_t i = 0; i < drawn.size(); ++i) {
    for (const std::string& pair : pairs_of(features_of(catalogue, drawn[i]))) {
      pairs[i].push_back(numbers.emplace(pair, static_cast<int>(numbers.size())).first->second);
    }
  }
  // Greedy: first those that cover the most at once, then those that cover less and less.
  std::vector<bool> seen(numbers.size(), false);
  std::vector<CompileTask> chosen;
  for (std::size_t wanted = std::size(covered); wanted > 0; --wanted) {
    for (std::size_t i = 0; i < drawn.size(); ++i) {
      const auto gain = static_cast<std::size_t>(std::count_if(
          pairs[i].begin(), pairs[i].end(), [&](int pair) { return !seen[static_cast<std::size_t>(pair)]; }));
      if (gain < wanted) continue;
      for (const int pair : pairs[i]) seen[static_cast<std::size_t>(pair)] = true;
      chosen.push_back(drawn[i]);
    }
  }
  std::sort(chosen.begin(), chosen.end(), [](const CompileTask& a, const CompileTask& b) {
    return std::tuple(a.target, a.variant, a.rank) < std::tuple(b.target, b.variant, b.rank);
  });
  return chosen;
}

}  // namespace arbiter::cli
