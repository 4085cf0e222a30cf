#include "group/fault.hpp"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <cstdio>

#include "arbiter/error.hpp"
#include "candidate/geometry.hpp"

namespace arbiter {
namespace {

std::string phase_name(unsigned phase) {
  switch (phase) {
    case 1:
      return "phase 1: data pushed by a peer";
    case 2:
      return "phase 2: result broadcast by a peer";
    case 3:
      return "phase 3: barrier";
    default:
      return fmt::format("phase {}", phase);
  }
}

std::string seconds(std::chrono::milliseconds time) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f s", static_cast<double>(time.count()) / 1000.0);
  return text.data();
}

/// Of a message: kernels count in vectors.
std::string bytes(unsigned vectors) { return fmt::format("{} bytes", std::uint64_t{vectors} * vector_bytes); }

}  // namespace

std::string describe(const arbiter_abi::FaultRecord& fault, const EnvironmentVariables& variables) {
  const std::string where = fmt::format("(block {}, thread {}, {}, epoch {})", fault.block, fault.thread,
                                        phase_name(fault.phase), fault.epoch);
  const std::string waiting = fmt::format("rank {}", fault.waiting_rank);
  const std::string peer = fmt::format("rank {}", fault.waited_for);
  if (fault.state == 1 || fault.state == 4) {
    const std::chrono::milliseconds deadline = fault.state == 4 ? first_deadline(variables) : variables.timeout;
    return waiting + " waited " + seconds(deadline) + " for " + peer + " " + where;
  }
  if (fault.state == 3) {
    return "the ranks passed messages of different sizes to one call: " + waiting + " " + bytes(fault.vectors[0]) +
           ", " + peer + " " + bytes(fault.vectors[1]) + " " + where;
  }
  return waiting + " was told to give up by a peer while it waited for " + peer + " " + where;
}

void throw_poisoned(const arbiter_abi::FaultRecord& fault, const EnvironmentVariables& variables) {
  std::string deadline;
  if (fault.state == 4) {
    deadline = fmt::format(
        "That is the deadline of a communicator's first {} calls; ARBITER_FIRST_TIMEOUT_MS or first_timeout_ms of the "
        "options changes it. ",
        arbiter_abi::first_calls);
  } else if (fault.state == 1) {
    deadline =
        "That is the deadline behind the first calls; ARBITER_TIMEOUT_MS or timeout_ms of the options changes it. ";
  }
  throw Poisoned(describe(fault, variables) + ". " + deadline +
                 "The results of that call are not valid and this group cannot be used any more: destroy it, and "
                 "create a new one" +
                 (fault.state == 3 ? "." : " without the rank that is missing."));
}

}  // namespace arbiter
