// From the catalogue to variants.
#include <fmt/format.h>

#include <algorithm>

#include "arbiter/error.hpp"
#include "arbiter/generator/bindings.hpp"
#include "arbiter/generator/joined.hpp"
#include "arbiter/generator/variant.hpp"

namespace arbiter {
namespace {

template <typename T>
bool contains(const std::vector<T>& values, const T& value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

void check_possible(const Pattern& pattern, Dtype dtype, int hidden) {
  if (const std::optional<std::string> reason = impossible(pattern, dtype, hidden)) throw InvalidArgument(*reason);
}

// What rules out every variant of an algorithm at once.
std::optional<std::string> algorithm_unavailable(const AlgorithmEntry& algorithm, int world,
                                                 const TargetLimits& limits) {
  if (!contains(algorithm.worlds, world))
    return fmt::format("world size {} is not built; it is for {}", world, joined(algorithm.worlds, ", "));
  for (const std::string& capability : algorithm.capabilities)
    if (!contains(limits.capabilities, capability)) return "it needs '" + capability + "', which is not proven here";
  return std::nullopt;
}

// What rules out one value of an axis.
std::optional<std::string> parameter_unavailable(const AlgorithmEntry& algorithm, const Variant& variant,
                                                 const TargetLimits& limits) {
  for (const Axis& axis : algorithm.axes) {
    if (axis.capability.empty() || variant.parameter(axis.name) == 0) continue;
    if (!contains(limits.capabilities, axis.capability))
      return fmt::format("{}={} needs '{}', which is not proven here", axis.name, variant.parameter(axis.name),
                         axis.capability);
  }
  return std::nullopt;
}

// An algorithm that needs multicast as a whole has no axis that says so.
Bindings constraint_bindings(const AlgorithmEntry& algorithm, const Pattern& pattern, const Variant& variant,
                             const TargetLimits& limits) {
  Bindings bindings = bindings_of(variant, pattern, limits);
  for (const std::string& capability : algorithm.capabilities) bindings.insert_or_assign(capability, 1);
  return bindings;
}

std::optional<std::string> constraint_broken(const AlgorithmEntry& algorithm, const Pattern& pattern,
                                             const Bindings& bindings) {
  for (const Constraint& constraint : algorithm.constraints)
    if (evaluate(constraint.require, bindings) == 0) return constraint.reason;
  for (const PartEntry& part : pattern.parts)
    for (const Constraint& constraint : part.constraints)
      if (evaluate(constraint.require, bindings) == 0) return part.name + ": " + constraint.reason;
  return std::nullopt;
}

// Why nobody expects a variant that can be built to win.
std::optional<std::string> pruned(const AlgorithmEntry& algorithm, const Pattern& pattern, const Variant& variant,
                                  const TargetLimits& limits) {
  if (limits.exhaustive || algorithm.pruning.empty()) return std::nullopt;
  const Bindings bindings = constraint_bindings(algorithm, pattern, variant, limits);
  for (const Constraint& constraint : algorithm.pruning)
    if (evaluate(constraint.require, bindings) == 0) return constraint.reason;
  return std::nullopt;
}

std::optional<std::string> variant_unavailable(const AlgorithmEntry& algorithm, const Pattern& pattern,
                                               const Variant& variant, const TargetLimits& limits) {
  if (std::optional<std::string> reason = parameter_unavailable(algorithm, variant, limits)) return reason;
  return constraint_broken(algorithm, pattern, constraint_bindings(algorithm, pattern, variant, limits));
}

// Odometer over the compile-time axes; the last one turns fastest.
bool advance(std::vector<std::size_t>& wheel, const std::vector<const Axis*>& axes) {
  for (std::size_t i = axes.size(); i-- > 0;) {
    if (++wheel[i] < axes[i]->values.size()) return true;
    wheel[i] = 0;
  }
  return false;
}

void enumerate_algorithm(const AlgorithmEntry& algorithm, const Pattern& pattern, Variant variant,
                         const TargetLimits& limits, Enumeration& result) {
  variant.backend = algorithm.backend;
  variant.algorithm = algorithm.name;
  if (std::optional<std::string> reason = algorithm_unavailable(algorithm, variant.world, limits)) {
    result.excluded.push_back({std::move(variant), std::move(*reason)});
    return;
  }
  std::vector<const Axis*> axes;
  for (const Axis& axis : algorithm.axes)
    if (!axis.launch) axes.push_back(&axis);
  std::vector<std::size_t> wheel(axes.size(), 0);
  do {
    for (std::size_t i = 0; i < axes.size(); ++i) variant.parameters[axes[i]->name] = axes[i]->values[wheel[i]];
    if (std::optional<std::string> reason = variant_unavailable(algorithm, pattern, variant, limits))
      result.excluded.push_back({variant, std::move(*reason)});
    else if (std::optional<std::string> opinion = pruned(algorithm, pattern, variant, limits))
      result.excluded.push_back({variant, std::move(*opinion), true});
    else
      result.variants.push_back(variant);
  } while (advance(wheel, axes));
}

Variant common_part(const Pattern& pattern, Dtype dtype, int world, int hidden) {
  Variant variant;
  variant.pattern = pattern.name;
  variant.dtype = dtype;
  variant.world = world;
  variant.hidden = pattern.rows ? hidden : 0;
  return variant;
}

// Why the catalogue does not describe this variant.
std::optional<std::string> not_described(const AlgorithmEntry& algorithm, const Pattern& pattern,
                                         const Variant& variant) {
  std::size_t compiled = 0;
  for (const Axis& axis : algorithm.axes) {
    if (axis.launch) continue;
    ++compiled;
    const auto found = variant.parameters.find(axis.name);
    if (found == variant.parameters.end()) return "it has no value for '" + axis.name + "'";
    if (!contains(axis.values, found->second))
      return fmt::format("the catalogue has no {}={} for it", axis.name, found->second);
  }
  if (compiled != variant.parameters.size()) return "it has parameters that are no compile-time axis of the algorithm";
  if (!pattern.rows && variant.hidden != 0) return "a flat pattern has no hidden size";
  return std::nullopt;
}

}  // namespace

Enumeration enumerate(const Catalogue& catalogue, std::string_view pattern, Dtype dtype, int world, int hidden,
                      const TargetLimits& limits, Backend backend) {
  const Pattern composed = catalogue.pattern(pattern);
  check_possible(composed, dtype, hidden);
  if (world < 2 || world > max_world)
    throw InvalidArgument(fmt::format("world size {}: expected 2 to {}", world, max_world));
  Enumeration result;
  for (const AlgorithmEntry& algorithm : catalogue.algorithms())
    if (algorithm.exchange && (backend == Backend::automatic || backend == algorithm.backend))
      enumerate_algorithm(algorithm, composed, common_part(composed, dtype, world, hidden), limits, result);
  return result;
}

Enumeration enumerate_standalone(const Catalogue& catalogue, std::string_view pattern, Dtype dtype, int hidden,
                                 const TargetLimits& limits) {
  const Pattern composed = catalogue.pattern(pattern);
  check_possible(composed, dtype, hidden);
  Enumeration result;
  enumerate_algorithm(catalogue.standalone(), composed, common_part(composed, dtype, 1, hidden), limits, result);
  return result;
}

std::optional<std::string> unavailable(const Catalogue& catalogue, const Variant& variant, const TargetLimits& limits) {
  try {
    const AlgorithmEntry& algorithm = catalogue.algorithm(variant.backend, variant.algorithm);
    const Pattern pattern = catalogue.pattern(variant.pattern);
    check_possible(pattern, variant.dtype, variant.hidden);
    if (std::optional<std::string> reason = not_described(algorithm, pattern, variant)) return reason;
    if (std::optional<std::string> reason = algorithm_unavailable(algorithm, variant.world, limits)) return reason;
    return variant_unavailable(algorithm, pattern, variant, limits);
  } catch (const InvalidArgument& error) {
    return error.what();
  }
}

}  // namespace arbiter
