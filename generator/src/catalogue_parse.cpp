// catalogue.json to Catalogue. The format is described in docs/catalogue.md.
#include <algorithm>
#include <set>

#include "arbiter/error.hpp"
#include "arbiter/generator/catalogue.hpp"
#include "expression.hpp"
#include "json_reader.hpp"
#include "keys.hpp"
#include "template_scan.hpp"

namespace arbiter {
namespace {

constexpr int schema = 1;

std::string read_identifier(const JsonNode& node) {
  std::string name = node.text();
  if (!is_identifier(name)) node.fail("expected a name of the form [a-z][a-z0-9_]*, found '" + name + "'");
  return name;
}

// Templates are looked up in a table, so a path that wanders can do no harm; it can only be a mistake.
std::string read_template(const JsonNode& node) {
  std::string path = node.text();
  const bool odd = path.front() == '/' || path.find("..") != std::string::npos || path.find("//") != std::string::npos;
  if (odd || path.ends_with(".mustache"))
    node.fail("expected a path below templates/ without '.mustache', found '" + path + "'");
  return path;
}

template <typename Parse>
auto read_word(const JsonNode& node, Parse parse) {
  try {
    return parse(node.text());
  } catch (const InvalidArgument& error) {
    node.fail(error.what());
  }
}

template <typename T>
void require_unique(const std::vector<JsonNode>& nodes, const std::vector<T>& values) {
  for (std::size_t i = 0; i < values.size(); ++i)
    if (std::find(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(i), values[i]) !=
        values.begin() + static_cast<std::ptrdiff_t>(i))
      nodes[i].fail("is listed twice");
}

std::vector<int> read_integers(const JsonNode& node) {
  const std::vector<JsonNode> nodes = node.elements();
  if (nodes.empty()) node.fail("expected at least one integer, found none");
  std::vector<int> values;
  for (const JsonNode& element : nodes) values.push_back(element.integer());
  require_unique(nodes, values);
  return values;
}

std::string read_capability(const JsonNode& node) {
  static constexpr std::array<std::string_view, 2> known{"multicast", "registered_input"};
  std::string name = node.text();
  if (std::find(known.begin(), known.end(), name) == known.end())
    node.fail(unknown_name_message("capability", name, known));
  return name;
}

Axis read_axis(const JsonNode& node) {
  node.require_keys({"name", "values"}, {"launch", "capability"});
  Axis axis;
  axis.name = read_identifier(node["name"]);
  const bool binding = std::find(binding_names.begin(), binding_names.end(), axis.name) != binding_names.end();
  if (binding || std::find(reserved_keys.begin(), reserved_keys.end(), axis.name) != reserved_keys.end())
    node["name"].fail("'" + axis.name + "' already has a meaning in templates or expressions; choose another name");
  axis.values = read_integers(node["values"]);
  if (node.has("launch")) axis.launch = node["launch"].boolean();
  if (node.has("capability")) axis.capability = read_capability(node["capability"]);
  if (axis.launch && !axis.capability.empty())
    node["capability"].fail("a capability is compiled in; it cannot belong to a launch axis");
  return axis;
}

std::string read_expression(const JsonNode& node, const std::set<std::string, std::less<>>& names) {
  std::string text = node.text();
  try {
    check_expression(text, names);
  } catch (const CompileError& error) {
    node.fail(error.what());
  }
  return text;
}

void read_worlds(const JsonNode& node, AlgorithmEntry& entry) {
  entry.worlds = read_integers(node["worlds"]);
  const std::vector<JsonNode> nodes = node["worlds"].elements();
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const int world = entry.worlds[i];
    if (entry.exchange && (world < 2 || world > max_world))
      nodes[i].fail("expected a world size from 2 to " + std::to_string(max_world) + ", found " +
                    std::to_string(world));
    if (!entry.exchange && world != 1)
      nodes[i].fail("an algorithm without exchange has one rank: expected 1, found " + std::to_string(world));
  }
}

void read_capabilities(const JsonNode& node, AlgorithmEntry& entry) {
  const std::vector<JsonNode> nodes = node.elements();
  for (const JsonNode& element : nodes) entry.capabilities.push_back(read_capability(element));
  require_unique(nodes, entry.capabilities);
}

AlgorithmEntry read_algorithm(const JsonNode& node) {
  node.require_keys(
      {"backend", "name", "template", "summary", "numerics", "worlds", "axes"},
      {"exchange", "capabilities", "constraints", "tile_rows", "push_slots", "staging_copies", "shared_bytes"});
  AlgorithmEntry entry;
  entry.backend = read_word(node["backend"], [](std::string_view word) { return parse_backend(word); });
  if (entry.backend == Backend::automatic || entry.backend == Backend::nccl)
    node["backend"].fail("kernels cannot belong to '" + std::string(to_string(entry.backend)) +
                         "'; expected trtllm, mnnvl, custom or nvls");
  entry.name = read_identifier(node["name"]);
  entry.template_name = read_template(node["template"]);
  entry.summary = node["summary"].text();
  entry.numerics = read_word(node["numerics"], [](std::string_view word) { return parse_numerics(word); });
  if (entry.numerics == Numerics::nccl)
    node["numerics"].fail("kernels cannot be of class 'nccl'; expected rank_order_fp32 or multimem");
  entry.exchange = node.has("exchange") ? node["exchange"].boolean() : true;
  read_worlds(node, entry);
  if (node.has("capabilities")) read_capabilities(node["capabilities"], entry);

  std::set<std::string, std::less<>> names(binding_names.begin(), binding_names.end());
  for (const JsonNode& element : node["axes"].elements()) {
    entry.axes.push_back(read_axis(element));
    const Axis& axis = entry.axes.back();
    for (std::size_t i = 0; i + 1 < entry.axes.size(); ++i)
      if (entry.axes[i].name == axis.name) element["name"].fail("the axis '" + axis.name + "' is listed twice");
    if (!axis.launch) names.insert(axis.name);
  }
  if (node.has("constraints")) {
    for (const JsonNode& element : node["constraints"].elements()) {
      element.require_keys({"require", "reason"}, {});
      entry.constraints.push_back({read_expression(element["require"], names), element["reason"].text()});
    }
  }
  const auto expression = [&](const char* key, const char* otherwise) {
    return node.has(key) ? read_expression(node[key], names) : std::string(otherwise);
  };
  entry.tile_rows = expression("tile_rows", "1");
  entry.push_slots = expression("push_slots", "0");
  entry.staging_copies = expression("staging_copies", "0");
  entry.shared_bytes = expression("shared_bytes", "0");
  return entry;
}

Tensor parse_tensor(std::string_view word) {
  static constexpr std::array tensors{Tensor::output, Tensor::residual_in, Tensor::residual_out, Tensor::gamma,
                                      Tensor::norm_out};
  std::vector<std::string_view> valid;
  for (const Tensor tensor : tensors) {
    if (to_string(tensor) == word) return tensor;
    valid.push_back(to_string(tensor));
  }
  throw InvalidArgument(unknown_name_message("tensor", word, valid));
}

EpilogueEntry read_epilogue(const JsonNode& node) {
  node.require_keys({"pattern", "template", "summary", "tensors"}, {"rows", "constants"});
  EpilogueEntry entry;
  entry.pattern = read_identifier(node["pattern"]);
  entry.template_name = read_template(node["template"]);
  entry.summary = node["summary"].text();
  if (node.has("rows")) entry.rows = node["rows"].boolean();
  const std::vector<JsonNode> tensors = node["tensors"].elements();
  for (const JsonNode& element : tensors) entry.tensors.push_back(read_word(element, parse_tensor));
  require_unique(tensors, entry.tensors);
  if (node.has("constants")) {
    for (const auto& [name, value] : node["constants"].members()) {
      if (!is_identifier(name)) value.fail("expected a name of the form [a-z][a-z0-9_]*");
      if (std::find(reserved_keys.begin(), reserved_keys.end(), name) != reserved_keys.end())
        value.fail("'" + name + "' already has a meaning in templates; choose another name");
      entry.constants.emplace(name, value.integer());
    }
  }
  return entry;
}

// Axes and constants become keys of the same template.
void check_key_collisions(const JsonNode& top, const std::vector<AlgorithmEntry>& algorithms,
                          const std::vector<EpilogueEntry>& epilogues) {
  for (const AlgorithmEntry& algorithm : algorithms)
    for (const Axis& axis : algorithm.axes)
      for (const EpilogueEntry& epilogue : epilogues)
        if (epilogue.constants.count(axis.name) != 0)
          top.fail("'" + axis.name + "' is both an axis of " + algorithm.name + " and a constant of " +
                   epilogue.pattern + "; both become template keys, so rename one");
}

}  // namespace

Catalogue Catalogue::parse(std::string_view json, const TemplateMap& templates) {
  const llvm::json::Value document = parse_json(json, "the catalogue");
  const JsonNode top(document, "");
  top.require_keys({"schema", "algorithms", "epilogues"}, {});
  if (top["schema"].integer() != schema)
    top["schema"].fail("this program reads schema " + std::to_string(schema) + ", found " +
                       std::to_string(top["schema"].integer()));

  Catalogue catalogue;
  for (const JsonNode& node : top["algorithms"].elements()) {
    AlgorithmEntry entry = read_algorithm(node);
    for (const AlgorithmEntry& other : catalogue.algorithms_) {
      if (other.backend == entry.backend && other.name == entry.name) node.fail("the algorithm is listed twice");
      if (!other.exchange && !entry.exchange) node.fail("only one algorithm may have \"exchange\": false");
    }
    catalogue.algorithms_.push_back(std::move(entry));
  }
  if (catalogue.algorithms_.empty()) top["algorithms"].fail("expected at least one algorithm, found none");
  for (const JsonNode& node : top["epilogues"].elements()) {
    EpilogueEntry entry = read_epilogue(node);
    for (const EpilogueEntry& other : catalogue.epilogues_)
      if (other.pattern == entry.pattern) node["pattern"].fail("the pattern is listed twice");
    catalogue.epilogues_.push_back(std::move(entry));
  }
  if (catalogue.epilogues_.empty()) top["epilogues"].fail("expected at least one epilogue, found none");
  check_key_collisions(top, catalogue.algorithms_, catalogue.epilogues_);

  catalogue.hash_ = hash_templates(json, catalogue, templates);
  return catalogue;
}

}  // namespace arbiter
