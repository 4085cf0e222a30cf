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

Bindings bindings_of(const Variant& variant, bool rows, const TargetLimits& limits) {
  const long vectors = rows ? variant.hidden / static_cast<long>(vector_elements(variant.dtype)) : 0;
  Bindings bindings{{"world", variant.world},
                    {"hidden", rows ? variant.hidden : 0},
                    {"element_bytes", static_cast<long>(element_bytes(variant.dtype))},
                    {"row_vectors", vectors},
                    {"rows", rows ? 1 : 0},
                    {"sm", limits.sm},
                    {"max_threads", limits.max_threads},
                    {"partials", (vectors + 31) / 32}};
  for (const auto& [axis, value] : variant.parameters) bindings.emplace(axis, value);
  return bindings;
}

}  // namespace arbiter
