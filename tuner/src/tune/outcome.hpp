// How a step that all ranks take together ended, and how the ranks agree on it. A rank that fails still agrees.
#pragma once

#include <functional>
#include <string>

#include "arbiter/db/records.hpp"
#include "arbiter/runtime/candidate.hpp"

namespace arbiter::tuning {

/// Ordered: the outcome of a step is the worst over the ranks.
enum class Severity : std::uint32_t {
  ok,
  wrong,     ///< it ran, and the result is not what it must be
  failed,    ///< it could not be run; the group may have to recover
  poisoned,  ///< a deadline passed or a peer gave up; the group must recover
  passing,   ///< it could not be run for want of memory, disk or descriptors: the cause of what peers then saw
  lost,      ///< the device does not answer any more: this process cannot go on
};

struct Outcome {
  Severity severity = Severity::ok;
  std::string reason;  ///< empty exactly when ok
  bool ok() const noexcept { return severity == Severity::ok; }
};

TrialStatus status_of(Severity) noexcept;

/// Does the reason of a failure say that it may be gone next time (`passing_cause`)?
bool is_passing(const std::string& reason);

/// Local. Runs `step`, then waits for the stream and asks the group whether a deadline has passed. Exceptions become
/// outcomes; on one, peers that wait for this rank are told to stop.
Outcome attempt(Group&, StreamHandle, const std::function<Outcome()>& step);

/// Collective. The worst outcome, with the reason of the first rank that has it ("rank 2: ...").
Outcome agree(Bootstrap&, const Outcome& mine);

/// Collective: attempt, agree, and recover the group if any rank failed or is poisoned. Throws DeviceError on every
/// rank when a device is lost.
Outcome together(Group&, StreamHandle, const std::function<Outcome()>& step);

/// Collective: the second half of together(), for steps that exchange more than an outcome.
Outcome settle(Group&, const Outcome& mine);

}  // namespace arbiter::tuning
