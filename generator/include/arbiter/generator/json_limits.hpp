// The door for JSON that somebody else may have written: looked at before a parser that recurses sees it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace arbiter {

struct JsonLimits {
  std::size_t depth = 32;
  std::size_t bytes = std::size_t{16} << 20;
};

/// Why this text is not given to a JSON parser ("it is nested deeper than 32"): too long or nested too deeply. Empty if
/// it may be. Takes constant memory; whether the text is JSON is for the parser to say.
std::string json_problem(std::string_view text, const JsonLimits& = {});

}  // namespace arbiter
