// For messages.
#pragma once

#include <string>
#include <string_view>

namespace arbiter {

/// 'text'
inline std::string quote(std::string_view text) {
  std::string quoted;
  quoted.reserve(text.size() + 2);
  return quoted.append(1, '\'').append(text).append(1, '\'');
}

}  // namespace arbiter
