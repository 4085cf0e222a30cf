#include "compile/variant_options.hpp"

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>

#include "arbiter/device.hpp"
#include "options/models.hpp"
#include "options/names.hpp"
#include "text/numbers.hpp"

namespace arbiter::cli {
namespace {

std::string full_algorithm(const AlgorithmEntry& entry) {
  return std::string(to_string(entry.backend)) + "/" + entry.name;
}

/// "oneshot_push" or "trtllm/oneshot_push"; names that an algorithm had before count too.
bool is_called(const AlgorithmEntry& entry, std::string_view wanted) {
  const std::string_view backend = to_string(entry.backend);
  if (wanted.starts_with(backend) && wanted.substr(backend.size()).starts_with('/'))
    wanted.remove_prefix(backend.size() + 1);
  return entry.is_named(wanted);
}

void check_algorithm(const std::string& algorithm) {
  if (algorithm.empty()) return;
  std::vector<std::string> full;
  for (const AlgorithmEntry& entry : Catalogue::builtin().algorithms()) {
    if (is_called(entry, algorithm)) return;
    full.push_back(full_algorithm(entry));
  }
  std::vector<std::string_view> valid(full.begin(), full.end());
  for (const AlgorithmEntry& entry : Catalogue::builtin().algorithms()) {
    if (std::find(valid.begin(), valid.end(), entry.name) == valid.end()) valid.emplace_back(entry.name);
  }
  throw InvalidArgument(unknown_name_message("algorithm", algorithm, valid));
}

/// "cluster=1", "threads=256", ... of "trtllm/oneshot_push:cluster=1,threads=256 allreduce bf16 world=2".
std::vector<std::string> axes_of(const std::string& name) {
  const std::size_t colon = name.find(':');
  if (colon == std::string::npos) return {};
  const std::string axes = name.substr(colon + 1, name.find(' ', colon) - colon - 1);
  return axes.empty() ? std::vector<std::string>{} : split_list(axes, "variant");
}

bool matches(const VariantQuery& query, const Variant& variant) {
  const auto called = [&] {
    return is_called(Catalogue::builtin().algorithm(variant.backend, variant.algorithm), query.algorithm);
  };
  return (query.algorithm.empty() || called()) && (query.name.empty() || is_named(variant, query.name));
}

}  // namespace

bool is_named(const Variant& variant, const std::string& name) {
  const std::string own = variant.name();
  const AlgorithmEntry& entry = Catalogue::builtin().algorithm(variant.backend, variant.algorithm);
  const std::string_view asked_for = std::string_view(name).substr(0, name.find(':'));
  if (!asked_for.starts_with(to_string(variant.backend)) || !is_called(entry, asked_for)) return false;
  const std::vector<std::string> axes = axes_of(own);
  const std::vector<std::string> asked = axes_of(name);
  return std::all_of(asked.begin(), asked.end(),
                     [&](const std::string& axis) { return std::find(axes.begin(), axes.end(), axis) != axes.end(); });
}

VariantQuery one_problem() {
  VariantQuery query;
  query.patterns = {"allreduce"};
  query.dtypes = {Dtype::bf16};
  query.worlds = {2};
  query.hiddens = {8192};
  return query;
}

void declare_variant_options(Options& options) {
  options.value("algorithm", "NAME", "oneshot_push, or with its backend: trtllm/oneshot_push (default: all)")
      .choices(algorithm_names())
      .value("variant", "NAME",
             "this one, as the lists print it: trtllm/oneshot_push:threads=256,vectors=1,...\n"
             "(axes in any order; those that are not named may have any value)")
      .list("pattern", "NAME", "allreduce, allreduce_residual_rmsnorm, ...")
      .choices(pattern_names())
      .list("dtype", "NAME", "bf16, fp16, fp32")
      .choices(dtype_names())
      .list("world", "N", "numbers of ranks, 2 to 16")
      .list("hidden", "H", "elements of a row");
  declare_model(options);
}

VariantQuery read_variant_options(const Options& options, VariantQuery otherwise) {
  VariantQuery query = std::move(otherwise);
  if (options.has("model")) {
    std::vector<int> hiddens;
    const ModelPreset model = read_models(options, hiddens);
    query.patterns = model.patterns;
    query.dtypes = model.dtypes;
    query.hiddens = hiddens;
  }
  if (options.has("pattern")) query.patterns = options.texts("pattern");
  for (const std::string& pattern : query.patterns) Catalogue::builtin().pattern(pattern);
  if (options.has("dtype")) {
    query.dtypes.clear();
    for (const std::string& dtype : options.texts("dtype")) query.dtypes.push_back(parse_dtype(dtype));
  }
  query.worlds = options.integers("world", 2, max_world, query.worlds);
  query.hiddens = options.integers("hidden", 1, 1 << 20, query.hiddens);
  query.algorithm = options.text("algorithm");
  query.name = options.text("variant");
  check_algorithm(query.algorithm);
  return query;
}

std::vector<std::string_view> known_targets() {
  std::vector<std::string_view> targets(gpu_targets.begin(), gpu_targets.end());
  targets.emplace_back("cpu");
  return targets;
}

std::string check_target(const std::string& target) {
  constexpr std::string_view ptx = "compute_";
  if (target.starts_with(ptx)) {
    parse_integer(std::string_view(target).substr(ptx.size()), "target compute_", 70, 999);
    return target;
  }
  const std::vector<std::string_view> targets = known_targets();
  if (std::find(targets.begin(), targets.end(), target) == targets.end()) {
    throw InvalidArgument(unknown_name_message("target", target, targets));
  }
  return target;
}

TargetLimits limits_of(const std::string& target) {
  TargetLimits limits;
  limits.capabilities = {"multicast"};  // whether a machine has them is not the compiler's business
  if (target == "cpu") {
    limits.max_threads = CpuDeviceOptions{}.max_threads_per_block;
    return limits;
  }
  const std::size_t digits = target.find_first_of("0123456789");
  const std::size_t length = target.find_last_of("0123456789") - digits + 1;
  limits.sm = static_cast<int>(parse_integer(std::string_view(target).substr(digits, length), "target", 70, 999));
  return limits;
}

std::vector<Variant> find_variants(const VariantQuery& query, const TargetLimits& limits) {
  const Catalogue& catalogue = Catalogue::builtin();
  std::vector<Variant> found;
  std::set<Variant> seen;  // a flat pattern gives the same variants for every hidden size
  const auto keep = [&](const Enumeration& enumeration) {
    for (const Variant& variant : enumeration.variants) {
      if (matches(query, variant) && seen.insert(variant).second) found.push_back(variant);
    }
  };
  std::size_t possible = 0;
  std::optional<std::string> reason;
  for (const std::string& pattern : query.patterns) {
    for (const Dtype dtype : query.dtypes) {
      for (const int hidden : query.hiddens) {
        reason = impossible(catalogue.pattern(pattern), dtype, hidden);
        if (reason) continue;
        ++possible;
        for (const int world : query.worlds) keep(enumerate(catalogue, pattern, dtype, world, hidden, limits));
        if (catalogue.pattern(pattern).rows) {
          keep(enumerate_standalone(catalogue, pattern, dtype, hidden, limits));
        }
      }
    }
  }
  if (possible == 0 && reason) throw InvalidArgument(*reason);
  return found;
}

}  // namespace arbiter::cli
