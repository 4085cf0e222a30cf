// From a variant to a source text.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "arbiter/generator/catalogue.hpp"
#include "arbiter/generator/variant.hpp"

namespace arbiter {

/// The templates that are built into the program, by path below templates/ ("device/memory.cuh", "args.h", ...).
const std::map<std::string, std::string_view, std::less<>>& builtin_templates();

enum class Dialect : std::uint8_t { cuda, host };

/// Mustache rendering with the guards llvm::mustache lacks. `keys` are the only names the template and its partials
/// may use; all values are text. Sections are written {{#key}}...{{/key}} and are taken when the value is neither
/// empty nor "0". Partials are files below templates/, by path: {{> device/memory.cuh}}.
/// Throws CompileError for: a key that is not in `keys`; an unbalanced or stray section tag; an unknown partial;
/// a partial that includes itself; a tag that is not closed; set-delimiter tags and triple mustaches (not allowed).
/// Text is never HTML-escaped.
std::string render(std::string_view template_name, const std::map<std::string, std::string, std::less<>>& keys,
                   const std::map<std::string, std::string_view, std::less<>>& templates = builtin_templates());

/// A rendered kernel: include-free, with a header comment that says what it is.
struct Source {
  std::string text;
  std::string entry;  ///< cuda: "arbiter_kernel". host: entries are "arbiter_kernel_rank<r>" for every rank
  std::string hash;   ///< SHA-256 of text
};

/// cuda: the kernel of one rank. host: one translation unit with the kernels of all ranks (`rank` is ignored).
Source render_kernel(const Catalogue&, const Variant&, int rank, Dialect);

}  // namespace arbiter
