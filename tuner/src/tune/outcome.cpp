#include "tune/outcome.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <new>
#include <system_error>
#include <vector>

#include "arbiter/db/database.hpp"
#include "arbiter/error.hpp"

namespace arbiter::tuning {
namespace {

/// After a failure: does the device still answer? A stream that faulted stays broken, and so does its context.
bool device_lost(Group& group, StreamHandle stream) noexcept {
  try {
    group.device().synchronize(stream);
    return false;
  } catch (const DeviceError&) {
    return true;
  } catch (...) {
    return false;  // a poisoned group may say so here; its device is fine
  }
}

Outcome failure(Group& group, StreamHandle stream, Severity severity, const char* reason) {
  group.abort();
  if (device_lost(group, stream)) severity = Severity::lost;
  return {severity, reason};
}

/// Of the machine as it is now, and not of the candidate.
bool passes(const std::error_code& code) {
  for (const std::errc cause : {std::errc::not_enough_memory, std::errc::no_space_on_device,
                                std::errc::too_many_files_open, std::errc::too_many_files_open_in_system,
                                std::errc::resource_unavailable_try_again, std::errc::read_only_file_system}) {
    if (code == cause) return true;
  }
  return code == std::error_code(EDQUOT, std::generic_category());
}

}  // namespace

bool is_passing(const std::string& reason) { return reason.find(passing_cause) != std::string::npos; }

TrialStatus status_of(Severity severity) noexcept {
  switch (severity) {
    case Severity::ok:
      return TrialStatus::done;
    case Severity::wrong:
      return TrialStatus::wrong;
    case Severity::failed:
    case Severity::poisoned:
    case Severity::passing:
      return TrialStatus::failed;
    case Severity::lost:
      return TrialStatus::crashed;
  }
  return TrialStatus::failed;
}

Outcome attempt(Group& group, StreamHandle stream, const std::function<Outcome()>& step) {
  try {
    Outcome outcome = step();
    group.device().synchronize(stream);
    group.check();
    return outcome;
  } catch (const Poisoned& error) {
    return failure(group, stream, Severity::poisoned, error.what());
  } catch (const Unavailable& error) {
    return failure(group, stream, Severity::passing, error.what());
  } catch (const std::bad_alloc&) {
    return failure(group, stream, Severity::passing, "no memory");
  } catch (const std::system_error& error) {
    return failure(group, stream, passes(error.code()) ? Severity::passing : Severity::failed, error.what());
  } catch (const std::exception& error) {
    return failure(group, stream, Severity::failed, error.what());
  }
}

Outcome agree(Bootstrap& bootstrap, const Outcome& mine) {
  const auto code = static_cast<std::uint32_t>(mine.severity);
  std::vector<std::uint32_t> codes(static_cast<std::size_t>(bootstrap.size()));
  bootstrap.allgather(&code, sizeof(code), codes.data());
  std::uint32_t worst = 0;
  for (const std::uint32_t each : codes) worst = each > worst ? each : worst;
  if (worst == 0) return {};
  const std::vector<std::string> reasons = bootstrap.allgather(mine.reason);
  for (std::size_t rank = 0; rank < codes.size(); ++rank) {
    if (codes[rank] == worst) {
      const bool passing = worst == static_cast<std::uint32_t>(Severity::passing) && !is_passing(reasons[rank]);
      return {static_cast<Severity>(worst),
              fmt::format("{}rank {}: {}", (passing ? std::string(passing_cause) : ""), rank, reasons[rank])};
    }
  }
  return {static_cast<Severity>(worst), mine.reason};
}

Outcome settle(Group& group, const Outcome& mine) {
  Outcome worst = agree(group.bootstrap(), mine);
  if (worst.severity == Severity::lost) throw DeviceError("a device was lost: " + worst.reason);
  if (worst.severity >= Severity::failed) {
    // A rank that succeeded may have work in flight that a failing peer never answers; it stops at the abort.
    group.recover();
  }
  return worst;
}

Outcome together(Group& group, StreamHandle stream, const std::function<Outcome()>& step) {
  return settle(group, attempt(group, stream, step));
}

}  // namespace arbiter::tuning
