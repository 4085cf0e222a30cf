// catalogue.json to Catalogue. The format is described in docs/catalogue.md.
#include <fmt/format.h>

#include <algorithm>

#include "catalogue/expression.hpp"
#include "catalogue/fields.hpp"
#include "catalogue/keys.hpp"
#include "render/template_scan.hpp"

namespace arbiter {
namespace {

constexpr int schema = 3;

std::vector<int> read_integers(const JsonNode& node) {
  const std::vector<JsonNode> nodes = node.elements();
  if (nodes.empty()) node.fail("expected at least one integer, found none");
  std::vector<int> values;
  for (const JsonNode& element : nodes) values.push_back(element.integer());
  require_unique(nodes, values);
  return values;
}

std::string read_capability(const JsonNode& node) {
  static constexpr std::array<std::string_view, 1> known{"multicast"};
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

void read_worlds(const JsonNode& node, AlgorithmEntry& entry) {
  entry.worlds = read_integers(node["worlds"]);
  const std::vector<JsonNode> nodes = node["worlds"].elements();
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const int world = entry.worlds[i];
    if (entry.exchange && (world < 2 || world > max_world))
      nodes[i].fail(fmt::format("expected a world size from 2 to {}, found {}", max_world, world));
    if (!entry.exchange && world != 1)
      nodes[i].fail(fmt::format("an algorithm without exchange has one rank: expected 1, found {}", world));
  }
}

void read_capabilities(const JsonNode& node, AlgorithmEntry& entry) {
  const std::vector<JsonNode> nodes = node.elements();
  for (const JsonNode& element : nodes) entry.capabilities.push_back(read_capability(element));
  require_unique(nodes, entry.capabilities);
}

std::vector<Protocol> read_protocols(const JsonNode& top) {
  std::vector<Protocol> protocols;
  for (const JsonNode& node : top["protocols"].elements()) {
    node.require_keys({"name", "epochs", "flags", "summary"}, {});
    Protocol protocol;
    protocol.name = read_identifier(node["name"]);
    protocol.summary = node["summary"].text();
    for (const auto& [key, value] : {std::pair("epochs", &protocol.epochs), std::pair("flags", &protocol.flags)}) {
      *value = node[key].integer();
      if (*value < 0 || *value > 8) node[key].fail(fmt::format("expected 0 to 8, found {}", *value));
    }
    for (const Protocol& other : protocols)
      if (other.name == protocol.name) node["name"].fail("the protocol is listed twice");
    protocols.push_back(std::move(protocol));
  }
  return protocols;
}

// What says how an exchange moves data: all of it, or nothing without exchange.
void read_exchange(const JsonNode& node, const NameSet& names, const std::vector<Protocol>& protocols,
                   AlgorithmEntry& entry) {
  for (const char* key : {"transport", "steps", "link_rows"}) {
    if (entry.exchange == node.has(key)) continue;
    node.fail(entry.exchange ? "an algorithm that exchanges data needs '" + std::string(key) + "'" +
                                   (std::string_view(key) == "transport" ? ": push, pull, staged or multicast" : "")
                             : "an algorithm without exchange has no '" + std::string(key) + "'");
  }
  if (!entry.exchange) {
    if (node.has("protocol")) node["protocol"].fail("an algorithm without exchange has no protocol");
    return;
  }
  entry.transport = read_word(node["transport"], [](std::string_view word) { return parse_transport(word); });
  entry.steps = node["steps"].integer();
  if (entry.steps < 1) node["steps"].fail(fmt::format("expected at least 1, found {}", entry.steps));
  entry.link_rows = read_expression(node["link_rows"], names);
  if (!node.has("protocol")) return;
  entry.protocol = node["protocol"].text();
  std::vector<std::string_view> valid;
  for (const Protocol& protocol : protocols) {
    if (protocol.name == entry.protocol) return;
    valid.push_back(protocol.name);
    entry.arrays_before += protocol.arrays();
  }
  node["protocol"].fail(unknown_name_message("protocol", entry.protocol, valid));
}

// What holds for all algorithms, which may lack some of these axes.
const NameSet& common_axes() {
  static const NameSet names{"threads", "vectors", "cluster", "multicast"};
  return names;
}

AlgorithmEntry read_algorithm(const JsonNode& node, const NameSet& of_parts, const Catalogue& before,
                              const std::vector<Constraint>& constraints, const std::vector<Constraint>& pruning) {
  node.require_keys({"backend", "name", "template", "summary", "numerics", "worlds", "axes"},
                    {"aliases", "exchange", "transport", "steps", "link_rows", "protocol", "capabilities",
                     "constraints", "pruning", "tile_rows", "push_slots", "staging_copies", "shared_bytes"});
  AlgorithmEntry entry;
  entry.backend = read_word(node["backend"], [](std::string_view word) { return parse_backend(word); });
  if (entry.backend == Backend::automatic || entry.backend == Backend::nccl)
    node["backend"].fail("kernels cannot belong to '" + std::string(to_string(entry.backend)) +
                         "'; expected trtllm, mnnvl, custom or nvls");
  entry.name = read_identifier(node["name"]);
  if (node.has("aliases"))
    for (const JsonNode& alias : node["aliases"].elements()) entry.aliases.push_back(read_identifier(alias));
  entry.template_name = read_template(node["template"]);
  entry.summary = node["summary"].text();
  entry.numerics = read_word(node["numerics"], [](std::string_view word) { return parse_numerics(word); });
  if (entry.numerics == Numerics::nccl)
    node["numerics"].fail("kernels cannot be of class 'nccl'; expected rank_order_fp32, multimem or fp8_transport");
  entry.exchange = node.has("exchange") ? node["exchange"].boolean() : true;
  read_worlds(node, entry);
  if (node.has("capabilities")) read_capabilities(node["capabilities"], entry);

  NameSet names = of_parts;
  names.insert(binding_names.begin(), binding_names.end());
  for (const JsonNode& element : node["axes"].elements()) {
    entry.axes.push_back(read_axis(element));
    const Axis& axis = entry.axes.back();
    for (std::size_t i = 0; i + 1 < entry.axes.size(); ++i)
      if (entry.axes[i].name == axis.name) element["name"].fail("the axis '" + axis.name + "' is listed twice");
    if (!axis.launch) names.insert(axis.name);
  }
  read_exchange(node, {"world"}, before.protocols(), entry);
  entry.constraints = constraints;
  entry.pruning = pruning;
  const auto add = [&](const char* key, std::vector<Constraint>& to) {
    if (!node.has(key)) return;
    const std::vector<Constraint> own = read_constraints(node[key], names);
    to.insert(to.end(), own.begin(), own.end());
  };
  add("constraints", entry.constraints);
  add("pruning", entry.pruning);
  const auto expression = [&](const char* key, const char* otherwise) {
    return node.has(key) ? read_expression(node[key], names) : std::string(otherwise);
  };
  entry.tile_rows = expression("tile_rows", "1");
  entry.push_slots = expression("push_slots", "0");
  entry.staging_copies = expression("staging_copies", "0");
  entry.shared_bytes = expression("shared_bytes", "0");
  return entry;
}

// Axes and the numbers of parts become keys of the same templates and names of the same expressions.
void check_key_collisions(const JsonNode& top, const std::vector<AlgorithmEntry>& algorithms, const NameSet& of_parts) {
  for (const AlgorithmEntry& algorithm : algorithms)
    for (const Axis& axis : algorithm.axes)
      if (of_parts.count(axis.name) != 0)
        top.fail("'" + axis.name + "' is both an axis of " + algorithm.name +
                 " and a constant or parameter of a part; both become template keys, so rename one");
}

}  // namespace

std::string read_identifier(const JsonNode& node) {
  std::string name = node.text();
  if (!is_identifier(name)) node.fail("expected a name of the form [a-z][a-z0-9_]*, found '" + name + "'");
  return name;
}

// Templates are looked up in a table, so a path that wanders can do no harm; it can only be a mistake.
std::string read_template(const JsonNode& node) {
  std::string path = node.text();
  const bool odd = path.front() == '/' || path.find("..") != std::string::npos || path.find("//") != std::string::npos;
  if (odd || path.find('.') == std::string::npos)
    node.fail("expected the path of a file below templates/, with its suffix, found '" + path + "'");
  return path;
}

std::string read_expression(const JsonNode& node, const NameSet& names) {
  std::string text = node.text();
  try {
    check_expression(text, names);
  } catch (const CompileError& error) {
    node.fail(error.what());
  }
  return text;
}

std::vector<Constraint> read_constraints(const JsonNode& node, const NameSet& names) {
  std::vector<Constraint> constraints;
  for (const JsonNode& element : node.elements()) {
    element.require_keys({"require", "reason"}, {});
    constraints.push_back({read_expression(element["require"], names), element["reason"].text()});
  }
  return constraints;
}

Catalogue Catalogue::parse(std::string_view json, const TemplateMap& templates) {
  const llvm::json::Value document = parse_json(json, "the catalogue");
  const JsonNode top(document, "");
  top.require_keys({"schema", "algorithms", "prologues", "stages", "usual_patterns"},
                   {"protocols", "constraints", "pruning"});
  if (top["schema"].integer() != schema)
    top["schema"].fail(fmt::format("this program reads schema {}, found {}", schema, top["schema"].integer()));

  Catalogue catalogue;
  catalogue.parts_ = read_parts(top);
  const NameSet of_parts = part_names(catalogue.parts_);
  if (top.has("protocols")) catalogue.protocols_ = read_protocols(top);
  NameSet common = of_parts;
  common.insert(binding_names.begin(), binding_names.end());
  common.insert(common_axes().begin(), common_axes().end());
  const auto for_all = [&](const char* key) {
    return top.has(key) ? read_constraints(top[key], common) : std::vector<Constraint>{};
  };
  const std::vector<Constraint> constraints = for_all("constraints"), pruning = for_all("pruning");
  for (const JsonNode& node : top["algorithms"].elements()) {
    AlgorithmEntry entry = read_algorithm(node, of_parts, catalogue, constraints, pruning);
    for (const AlgorithmEntry& other : catalogue.algorithms_) {
      if (other.backend != entry.backend) continue;
      if (other.is_named(entry.name)) node.fail("the algorithm is listed twice");
      for (const std::string& alias : entry.aliases)
        if (other.is_named(alias)) node["aliases"].fail("'" + alias + "' is the name of another algorithm");
      if (!other.exchange && !entry.exchange) node.fail("only one algorithm may have \"exchange\": false");
    }
    catalogue.algorithms_.push_back(std::move(entry));
  }
  if (catalogue.algorithms_.empty()) top["algorithms"].fail("expected at least one algorithm, found none");
  check_key_collisions(top, catalogue.algorithms_, of_parts);
  const std::vector<JsonNode> usual = top["usual_patterns"].elements();
  if (usual.empty()) top["usual_patterns"].fail("expected at least one pattern, found none");
  for (const JsonNode& node : usual)
    catalogue.usual_patterns_.push_back(
        read_word(node, [&](std::string_view word) { return catalogue.pattern(word).name; }));
  require_unique(usual, catalogue.usual_patterns_);

  catalogue.hash_ = hash_templates(json, catalogue, templates);
  return catalogue;
}

}  // namespace arbiter
