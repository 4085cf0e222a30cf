// From a variant to a source text.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/generator/catalogue.hpp"
#include "arbiter/generator/variant.hpp"

namespace arbiter {

enum class Dialect : std::uint8_t { cuda, host };

/// Values for a template, by key. Keys have the form [a-z][a-z0-9_]*; values are UTF-8 text (numbers too: a JSON number
/// would lose digits) and are never HTML-escaped.
using Keys = std::map<std::string, std::string, std::less<>>;

/// Everything a template and its partials may use.
struct Context {
  Keys keys;
  /// {{#name}}...{{/name}} is repeated once for each entry; inside, the entry's keys are visible too. All entries of a
  /// list have the same keys.
  std::map<std::string, std::vector<Keys>, std::less<>> lists;
  /// {{> @name}} stands for the partial with this path.
  std::map<std::string, std::string, std::less<>> aliases;
};

/// Mustache rendering with the guards llvm::mustache lacks. Renders the template `template_name` + ".mustache".
/// Sections are written {{#key}}...{{/key}} and are taken when the value is neither empty nor "0"; {{^key}} is the
/// opposite. Partials are files below templates/, by path: {{> device/memory.cuh}}. Comments: {{! ... }}.
/// Throws CompileError, naming file and line, for: a key that is not in `context`; an unbalanced or stray section tag;
/// an unknown partial; a partial that includes itself; a tag that is not closed; set-delimiter tags, {{&key}} and
/// triple mustaches (not allowed). Parts that are not taken are checked too.
std::string render(std::string_view template_name, const Context& context,
                   const TemplateMap& templates = builtin_templates());
std::string render(std::string_view template_name, const Keys& keys,
                   const TemplateMap& templates = builtin_templates());

/// A rendered kernel: include-free, with a header comment that says what it is.
struct Source {
  std::string text;
  std::string entry;  ///< cuda: "arbiter_kernel". host: entries are "arbiter_kernel_rank<r>" for every rank
  std::string hash;   ///< SHA-256 of text, hexadecimal
};

/// cuda: the kernel of one rank. host: one translation unit with the kernels of all ranks (`rank` is ignored).
/// The keys are listed in docs/catalogue.md. Throws InvalidArgument for a variant the catalogue does not describe or a
/// rank outside 0..world-1, CompileError for a broken template.
Source render_kernel(const Catalogue&, const Variant&, int rank, Dialect,
                     const TemplateMap& templates = builtin_templates());

}  // namespace arbiter
