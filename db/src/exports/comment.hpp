// Names in the comments of generated code.
#pragma once

#include <string>
#include <string_view>

#include "arbiter/generator/plain_text.hpp"

namespace arbiter::db {

/// What ends a line ends a comment, and the next line would be code; so would one behind a backslash or a trigraph for
/// one.
inline std::string in_a_comment(std::string_view text) {
  std::string line = visible(text);
  for (char& c : line) c = c == '\\' || c == '?' ? ' ' : c;
  return line;
}

}  // namespace arbiter::db
