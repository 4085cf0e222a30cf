// A family that ranks prepare or tune together, as they compare and name it.
#pragma once

#include <fmt/format.h>

#include <string>

#include "arbiter/communicator.hpp"
#include "arbiter/db/family_text.hpp"

namespace arbiter {

/// "allreduce bf16 hidden=8192 max_tokens=1024 graph": every field.
inline std::string to_text(const ProblemFamily& family) {
  return fmt::format("{} max_tokens={} {}", family_text(family), family.max_tokens, to_string(family.mode));
}

}  // namespace arbiter
