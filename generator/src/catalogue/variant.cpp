#include "arbiter/generator/variant.hpp"

#include "arbiter/error.hpp"
#include "arbiter/generator/bindings.hpp"

namespace arbiter {

std::string Variant::name() const {
  std::string text = std::string(to_string(backend)) + "/" + algorithm;
  char separator = ':';
  for (const auto& [axis, value] : parameters) {
    text.append(1, separator).append(axis).append("=").append(std::to_string(value));
    separator = ',';
  }
  return text;
}

std::string Variant::full_name() const {
  std::string text = name();
  text.append(" ").append(pattern).append(" ").append(to_string(dtype));
  text.append(" world=").append(std::to_string(world));
  if (hidden != 0) text.append(" hidden=").append(std::to_string(hidden));
  return text;
}

int Variant::parameter(std::string_view axis) const {
  if (const auto found = parameters.find(axis); found != parameters.end()) return found->second;
  std::vector<std::string_view> valid;
  for (const auto& [name, value] : parameters) valid.push_back(name);
  throw InvalidArgument(unknown_name_message("parameter of " + name(), axis, valid));
}

Bindings bindings_of(const Variant& variant, const Pattern& pattern, const TargetLimits& limits) {
  const auto elements = static_cast<long>(vector_elements(variant.dtype));
  const long vectors = pattern.rows ? variant.hidden / elements : 0;
  Bindings bindings{{"world", variant.world},
                    {"hidden", pattern.rows ? variant.hidden : 0},
                    {"element_bytes", static_cast<long>(element_bytes(variant.dtype))},
                    {"elements", elements},
                    {"row_vectors", vectors},
                    {"rows", pattern.rows ? 1 : 0},
                    {"prologue", pattern.has(PartKind::prologue) ? 1 : 0},
                    {"sm", limits.sm},
                    {"max_threads", limits.max_threads},
                    {"partials", (vectors + 31) / 32}};
  for (const auto& [name, value] : pattern.constants) bindings.emplace(name, value);
  for (const auto& [axis, value] : variant.parameters) bindings.emplace(axis, value);
  // What constraints of parts may ask of every algorithm.
  bindings.emplace("threads", limits.max_threads);
  bindings.emplace("vectors", 1);
  bindings.emplace("cluster", 1);
  bindings.emplace("multicast", 0);
  return bindings;
}

}  // namespace arbiter
