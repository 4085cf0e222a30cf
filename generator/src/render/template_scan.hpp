// Finding and checking the Mustache tags of one file.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/generator/catalogue.hpp"

namespace arbiter {

struct Tag {
  enum class Kind { variable, section, inverted_section, close, partial, comment };
  Kind kind{};
  std::string_view name;  ///< key or partial path; empty for comments
  std::size_t begin = 0;  ///< offset of "{{"
  std::size_t end = 0;    ///< offset behind "}}"
  std::size_t line = 0;   ///< counted from 1
};

/// All tags of `text` in order; `path` is for messages. The views point into `text`.
/// Throws CompileError for anything the project does not allow, see render().
std::vector<Tag> scan_template(std::string_view path, std::string_view text);

/// "templates/<path>:<line>: <what>"
[[noreturn]] void fail_at(std::string_view path, std::size_t line, const std::string& what);

/// SHA-256 (hex) over the catalogue text and every template that its entries can reach.
std::string hash_templates(std::string_view json, const Catalogue&, const TemplateMap&);

}  // namespace arbiter
