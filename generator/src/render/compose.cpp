// How pattern names are put together from the catalogue's parts, and taken apart again.
#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <utility>

#include "arbiter/error.hpp"
#include "arbiter/generator/catalogue.hpp"
#include "arbiter/generator/joined.hpp"
#include "catalogue/fields.hpp"

namespace arbiter {
namespace {

constexpr std::string_view core = "allreduce";
constexpr int max_parameter = 1 << 20;

std::string placeholder(const PartEntry& entry) { return "{" + entry.parameter + "}"; }

/// The front of `text` that spells `entry`, and the number in it; empty if it does not.
struct Match {
  std::size_t length = 0;
  int parameter = 0;
};
std::optional<Match> match(const PartEntry& entry, std::string_view text) {
  std::string_view name = entry.name;
  if (entry.parameter.empty()) {
    if (!text.starts_with(name)) return std::nullopt;
    return Match{name.size(), 0};
  }
  const std::size_t open = name.find('{');
  const std::string_view before = name.substr(0, open);
  const std::string_view behind = name.substr(name.find('}') + 1);
  if (!text.starts_with(before)) return std::nullopt;
  const std::string_view rest = text.substr(before.size());
  Match result;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), result.parameter);
  const auto digits = static_cast<std::size_t>(end - rest.data());
  // One spelling for one number: "032" is no name.
  if (error != std::errc() || rest[0] < '1' || rest[0] > '9' || result.parameter > max_parameter) return std::nullopt;
  if (!rest.substr(digits).starts_with(behind)) return std::nullopt;
  result.length = before.size() + digits + behind.size();
  return result;
}

/// What a name spells, part by part; the parameter of each beside it.
using Composition = std::vector<std::pair<const PartEntry*, int>>;

std::optional<Composition> decompose(const std::vector<PartEntry>& parts, std::string_view name) {
  Composition result;
  for (const PartEntry& entry : parts) {
    if (entry.kind != PartKind::prologue || !name.starts_with(entry.name + "_" + std::string(core))) continue;
    result.emplace_back(&entry, 0);
    name.remove_prefix(entry.name.size() + 1);
    break;
  }
  if (!name.starts_with(core)) return std::nullopt;
  name.remove_prefix(core.size());
  for (const PartKind kind : {PartKind::residual, PartKind::norm, PartKind::quantisation}) {
    if (name.empty()) break;
    if (name.front() != '_') return std::nullopt;
    const PartEntry* found = nullptr;
    Match longest;
    for (const PartEntry& entry : parts) {
      if (entry.kind != kind) continue;
      const std::optional<Match> matched = match(entry, name.substr(1));
      if (!matched || matched->length <= longest.length) continue;
      const std::string_view rest = name.substr(1 + matched->length);
      if (!rest.empty() && rest.front() != '_') continue;
      found = &entry;
      longest = *matched;
    }
    if (found == nullptr) continue;
    result.emplace_back(found, longest.parameter);
    name.remove_prefix(1 + longest.length);
  }
  if (!name.empty()) return std::nullopt;
  return result;
}

/// Every composition, with the number that was typed (or a common one) for parameters: what a wrong name is near to.
std::vector<std::string> all_names(const std::vector<PartEntry>& parts, std::string_view word) {
  constexpr std::string_view digits = "0123456789";
  std::string number = "128";
  std::size_t longest = 1;  // the 8 of "fp8" is none
  for (std::size_t at = word.find_first_of(digits); at < word.size(); at = word.find_first_of(digits, at)) {
    const std::size_t end = std::min(word.find_first_not_of(digits, at), word.size());
    if (end - at > longest) number = word.substr(at, longest = std::min<std::size_t>(end - at, 7));
    at = end;
  }
  std::vector<std::string> names{std::string(core)};
  const auto extend = [&](PartKind kind) {
    const std::vector<std::string> shorter = names;
    for (const PartEntry& entry : parts) {
      if (entry.kind != kind) continue;
      std::string text = entry.name;
      if (!entry.parameter.empty()) text.replace(text.find('{'), entry.parameter.size() + 2, number);
      for (const std::string& name : shorter)
        names.push_back(kind == PartKind::prologue ? text + "_" + name : name + "_" + text);
    }
  };
  for (const PartKind kind : {PartKind::residual, PartKind::norm, PartKind::quantisation, PartKind::prologue})
    extend(kind);
  return names;
}

[[noreturn]] void refuse_name(const std::vector<PartEntry>& parts, std::string_view word) {
  std::string grammar;
  for (const PartKind kind : {PartKind::prologue, PartKind::residual, PartKind::norm, PartKind::quantisation}) {
    if (kind == PartKind::residual) grammar += core;
    std::vector<std::string> choices;
    for (const PartEntry& entry : parts) {
      if (entry.kind == kind) choices.push_back(kind == PartKind::prologue ? entry.name + "_" : "_" + entry.name);
    }
    if (!choices.empty()) grammar += "[" + joined(choices, "|") + "]";
  }
  const std::vector<std::string> names = all_names(parts, word);
  const std::vector<std::string_view> valid(names.begin(), names.end());
  const std::string shown = word.size() <= 120 ? std::string(word) : std::string(word.substr(0, 120)) + "...";
  throw InvalidArgument("unknown pattern '" + shown + "'; expected " + grammar + "; did you mean '" +
                        nearest(word, valid) + "'?");
}

void add_tensors(TensorSet& to, const std::vector<Tensor>& tensors) {
  for (const Tensor tensor : tensors) to.add(tensor);
}

}  // namespace

Pattern Catalogue::pattern(std::string_view name) const {
  const std::optional<Composition> composition = decompose(parts_, name);
  if (!composition) refuse_name(parts_, name);
  Pattern pattern;
  pattern.name = name;
  pattern.rows = !composition->empty();
  for (const std::string& key : part_names(parts_)) pattern.constants.emplace(key, 0);
  for (const auto& [entry, parameter] : *composition) {
    pattern.parts.push_back(*entry);
    PartEntry& part = pattern.parts.back();
    for (const auto& [key, value] : part.constants) pattern.constants[key] = value;
    if (!part.parameter.empty()) {
      pattern.constants[part.parameter] = parameter;
      const std::string hole = placeholder(part);
      part.name.replace(part.name.find(hole), hole.size(), std::to_string(parameter));
    }
  }
  if (const auto group = pattern.constants.find("group"); group != pattern.constants.end())
    pattern.group = group->second;

  // The sum is a tensor of its own only where nothing is added to it.
  if (!pattern.has(PartKind::residual))
    (pattern.has_stages() ? pattern.optional : pattern.required).add(Tensor::output);
  for (const PartEntry& part : pattern.parts) {
    add_tensors(pattern.required, part.reads);
    add_tensors(pattern.optional, part.optional);
    add_tensors(&part == &pattern.parts.back() ? pattern.required : pattern.optional, part.writes);
  }
  return pattern;
}

std::optional<std::string> impossible(const Pattern& pattern, Dtype dtype, int hidden) {
  if (!pattern.rows) return std::nullopt;
  const auto elements = static_cast<int>(vector_elements(dtype));
  if (hidden <= 0 || hidden % elements != 0)
    return fmt::format(
        "pattern '{}' works on rows: hidden must be a positive multiple of {} elements of {} (16 bytes), not {}",
        pattern.name, elements, to_string(dtype), hidden);
  Bindings bindings{{"hidden", hidden},
                    {"element_bytes", static_cast<long>(element_bytes(dtype))},
                    {"elements", elements},
                    {"row_vectors", hidden / elements},
                    {"partials", (hidden / elements + 31) / 32}};
  for (const auto& [name, value] : pattern.constants) bindings.emplace(name, value);
  for (const PartEntry& part : pattern.parts)
    for (const Constraint& constraint : part.problem)
      if (evaluate(constraint.require, bindings) == 0)
        return fmt::format("'{}' of pattern '{}' cannot work with {} rows of {}: {}", part.name, pattern.name,
                           to_string(dtype), hidden, constraint.reason);
  return std::nullopt;
}

}  // namespace arbiter
