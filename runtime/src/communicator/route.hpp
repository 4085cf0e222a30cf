// How a plain call is served. One answer for the call and for its explanation.
#pragma once

#include <cstdint>

#include "communicator/dispatch.hpp"

namespace arbiter {

enum class Way : std::uint8_t {
  nothing,    ///< no elements
  copy,       ///< a single rank
  candidate,  ///< what was prepared for this size
  padded,     ///< the same through a copy whose last vector is filled up: the message is no whole number of vectors
  nccl        ///< no prepared family covers the size, or the message would be padded, and NCCL takes it as it is
};

struct Route {
  Way way = Way::nothing;
  RunnableCandidate* candidate = nullptr;  ///< of `candidate` and `padded`
  CallCounter* counter = nullptr;          ///< null where nothing is counted: no elements, or a lone rank's copy
  const Explanation* chosen = nullptr;     ///< why that one; null where no prepared family covers the size
};

/// "allreduce bf16 hidden=8192 tokens=64", for messages.
std::string asked(std::string_view pattern, Dtype, int hidden, std::int64_t tokens);

}  // namespace arbiter
