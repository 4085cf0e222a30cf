#include "group/fault.hpp"

#include <array>
#include <cstdio>

#include "arbiter/error.hpp"

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
      return "phase " + std::to_string(phase);
  }
}

std::string seconds(std::chrono::milliseconds time) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f s", static_cast<double>(time.count()) / 1000.0);
  return text.data();
}

}  // namespace

std::string describe(const arbiter_abi::FaultRecord& fault, std::chrono::milliseconds timeout) {
  const std::string where = "(block " + std::to_string(fault.block) + ", thread " + std::to_string(fault.thread) +
                            ", " + phase_name(fault.phase) + ", epoch " + std::to_string(fault.epoch) + ")";
  const std::string waiting = "rank " + std::to_string(fault.waiting_rank);
  const std::string peer = "rank " + std::to_string(fault.waited_for);
  if (fault.state == 1) return waiting + " waited " + seconds(timeout) + " for " + peer + " " + where;
  return waiting + " was told to give up by a peer while it waited for " + peer + " " + where;
}

void throw_if_poisoned(const arbiter_abi::FaultRecord& fault, std::chrono::milliseconds timeout) {
  if (!is_poisoned(fault)) return;
  throw Poisoned(describe(fault, timeout) +
                 ". The results of that call are not valid and this group cannot be used any more: destroy it, and "
                 "create a new one without the rank that is missing.");
}

}  // namespace arbiter
