// Fields that several kinds of catalogue entries have, read strictly.
#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/error.hpp"
#include "arbiter/generator/catalogue.hpp"
#include "text/json_reader.hpp"

namespace arbiter {

/// Names that expressions may use.
using NameSet = std::set<std::string, std::less<>>;

std::string read_identifier(const JsonNode&);
/// The path of a file below templates/, with its suffix.
std::string read_template(const JsonNode&);
std::string read_expression(const JsonNode&, const NameSet&);
std::vector<Constraint> read_constraints(const JsonNode&, const NameSet&);

/// What `parse` makes of a string; its InvalidArgument becomes an error at this path.
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

/// The parts of a document: "prologues" and "stages".
std::vector<PartEntry> read_parts(const JsonNode& top);

/// Names that parts add to expressions: their constants and parameters.
NameSet part_names(const std::vector<PartEntry>&);

}  // namespace arbiter
