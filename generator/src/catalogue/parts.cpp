// The parts of patterns in catalogue.json. The format is described in docs/catalogue.md.
#include <fmt/format.h>

#include <array>

#include "catalogue/fields.hpp"
#include "catalogue/keys.hpp"

namespace arbiter {
namespace {

constexpr std::string_view core = "allreduce";

/// "fp8_group{group}_ue8m0": an identifier with at most one number in it.
void read_part_name(const JsonNode& node, PartEntry& entry) {
  entry.name = node.text();
  std::string bare = entry.name;
  if (const std::size_t open = bare.find('{'); open != std::string::npos) {
    const std::size_t close = bare.find('}', open);
    if (close == std::string::npos) node.fail("'{' is not closed in '" + entry.name + "'");
    entry.parameter = bare.substr(open + 1, close - open - 1);
    if (!is_identifier(entry.parameter)) node.fail("'{" + entry.parameter + "}' is not a name");
    bare.replace(open, close - open + 1, "1");
  }
  if (!is_identifier(bare))
    node.fail("expected a name of the form [a-z][a-z0-9_]*, with at most one {parameter}, found '" + entry.name + "'");
  if (bare == core || bare.starts_with(std::string(core) + "_"))
    node.fail("'" + entry.name + "' would be read as the allreduce itself; choose another name");
}

void check_new_key(const JsonNode& node, const std::string& name) {
  if (!is_identifier(name)) node.fail("expected a name of the form [a-z][a-z0-9_]*");
  const bool binding = std::find(binding_names.begin(), binding_names.end(), name) != binding_names.end();
  if (binding || std::find(reserved_keys.begin(), reserved_keys.end(), name) != reserved_keys.end())
    node.fail("'" + name + "' already has a meaning in templates; choose another name");
}

std::vector<Tensor> read_tensors(const JsonNode& node, std::string_view key) {
  std::vector<Tensor> tensors;
  if (!node.has(key)) return tensors;
  const std::vector<JsonNode> nodes = node[key].elements();
  for (const JsonNode& element : nodes) tensors.push_back(read_word(element, parse_tensor));
  require_unique(nodes, tensors);
  return tensors;
}

PartKind parse_stage_kind(std::string_view word) {
  static constexpr std::array kinds{PartKind::residual, PartKind::norm, PartKind::quantisation};
  std::vector<std::string_view> valid;
  for (const PartKind kind : kinds) {
    if (to_string(kind) == word) return kind;
    valid.push_back(to_string(kind));
  }
  throw InvalidArgument(unknown_name_message("kind of stage", word, valid));
}

ScaleLayout parse_scale_layout(std::string_view word) {
  std::vector<std::string_view> valid;
  for (int i = 0; i <= static_cast<int>(ScaleLayout::tiles_8x4); ++i) {
    const auto layout = static_cast<ScaleLayout>(i);
    if (to_string(layout) == word) return layout;
    valid.push_back(to_string(layout));
  }
  throw InvalidArgument(unknown_name_message("scale layout", word, valid));
}

PartEntry read_part(const JsonNode& node, bool prologue) {
  if (prologue) {
    node.require_keys({"name", "template", "summary"}, {"reads", "optional", "constants", "problem", "constraints"});
  } else {
    node.require_keys(
        {"kind", "name", "template", "summary", "writes"},
        {"reads", "optional", "constants", "problem", "constraints", "shared_bytes", "quant_bits", "scale_layout"});
  }
  PartEntry entry;
  entry.kind = prologue ? PartKind::prologue : read_word(node["kind"], parse_stage_kind);
  read_part_name(node["name"], entry);
  if (prologue && !entry.parameter.empty()) node["name"].fail("a prologue has no parameter");
  entry.template_name = read_template(node["template"]);
  entry.summary = node["summary"].text();
  entry.reads = read_tensors(node, "reads");
  entry.optional = read_tensors(node, "optional");
  entry.writes = read_tensors(node, "writes");
  if (!prologue && entry.writes.empty()) node["writes"].fail("a stage writes at least one tensor");
  if (node.has("constants")) {
    for (const auto& [name, value] : node["constants"].members()) {
      check_new_key(value, name);
      if (name == entry.parameter) value.fail("'" + name + "' is the parameter in the part's name");
      entry.constants.emplace(name, value.integer());
    }
  }
  if (!entry.parameter.empty()) check_new_key(node["name"], entry.parameter);
  const bool quantises = entry.kind == PartKind::quantisation;
  if (quantises != node.has("quant_bits"))
    node.fail(quantises ? "the key 'quant_bits' is missing" : "only a quantisation has 'quant_bits'");
  if (!quantises) return entry;
  entry.quant_bits = node["quant_bits"].integer();
  if (entry.quant_bits != 4 && entry.quant_bits != 8)
    node["quant_bits"].fail(fmt::format("expected 4 or 8, found {}", entry.quant_bits));
  if (node.has("scale_layout")) entry.scale_layout = read_word(node["scale_layout"], parse_scale_layout);
  const bool grouped = entry.scale_layout != ScaleLayout::none && entry.scale_layout != ScaleLayout::token;
  const bool has_group = entry.parameter == "group" || entry.constants.count("group") != 0;
  if (grouped != has_group)
    node.fail(grouped ? "its scale layout needs a 'group', as parameter or constant"
                      : "it has a 'group', but no scale layout with groups");
  return entry;
}

}  // namespace

std::vector<PartEntry> read_parts(const JsonNode& top) {
  std::vector<PartEntry> parts;
  std::vector<JsonNode> nodes;
  for (const char* key : {"prologues", "stages"}) {
    for (const JsonNode& node : top[key].elements()) {
      PartEntry entry = read_part(node, std::string_view(key) == "prologues");
      for (const PartEntry& other : parts)
        if (other.name == entry.name) node["name"].fail("the part is listed twice");
      parts.push_back(std::move(entry));
      nodes.push_back(node);
    }
  }
  // Expressions may use the constants of all parts, so they are read last.
  const NameSet own = part_names(parts);
  NameSet problem_names = own;
  for (const char* name : {"hidden", "element_bytes", "elements", "row_vectors", "partials"})
    problem_names.insert(name);
  NameSet names = own;
  names.insert(binding_names.begin(), binding_names.end());
  for (const char* name : {"threads", "vectors", "cluster"}) names.insert(name);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (nodes[i].has("problem")) parts[i].problem = read_constraints(nodes[i]["problem"], problem_names);
    if (nodes[i].has("constraints")) parts[i].constraints = read_constraints(nodes[i]["constraints"], names);
    parts[i].shared_bytes = nodes[i].has("shared_bytes") ? read_expression(nodes[i]["shared_bytes"], names) : "0";
  }
  return parts;
}

NameSet part_names(const std::vector<PartEntry>& parts) {
  NameSet names;
  for (const PartEntry& entry : parts) {
    for (const auto& [name, value] : entry.constants) names.insert(name);
    if (!entry.parameter.empty()) names.insert(entry.parameter);
  }
  return names;
}

}  // namespace arbiter
