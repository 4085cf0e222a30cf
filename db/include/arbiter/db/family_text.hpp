// How every text names a family of problems.
#pragma once

#include <string>
#include <string_view>

#include "arbiter/vocabulary.hpp"

namespace arbiter {

/// "allreduce bf16 hidden=8192"
inline std::string family_text(std::string_view pattern, Dtype dtype, int hidden) {
  std::string text(pattern);
  text.append(" ").append(to_string(dtype)).append(" hidden=").append(std::to_string(hidden));
  return text;
}

/// Of a problem, a decision, or whatever else belongs to one.
template <typename Member>
std::string family_text(const Member& of) {
  return family_text(of.pattern, of.dtype, of.hidden);
}

}  // namespace arbiter
