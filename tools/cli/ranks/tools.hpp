// What the bodies of tune, bench and verify have in common.
#pragma once

#include <chrono>
#include <memory>

#include "arbiter/generator/cache.hpp"
#include "arbiter/runtime/candidate.hpp"
#include "arbiter/tuner/progress.hpp"
#include "arbiter/variables.hpp"
#include "ranks/session.hpp"
#include "text/text.hpp"

namespace arbiter::cli {

/// The kernel cache that the environment variables describe; one for all ranks that are threads of this process.
std::shared_ptr<KernelCache> make_cache(const EnvironmentVariables& variables);

/// The variables, with a deadline short enough that a candidate that hangs does not hold up a measurement, unless
/// ARBITER_TIMEOUT_MS says otherwise. On the CPU device, where a call takes milliseconds, it is longer.
EnvironmentVariables measuring_variables(DeviceKind device);

/// Shows progress on a terminal; rank 0 only.
class TerminalProgress : public ProgressSink {
 public:
  explicit TerminalProgress(bool leader) : leader_(leader) {}
  void update(const Progress& progress) override;

 private:
  bool leader_;
  ProgressLine line_;
};

}  // namespace arbiter::cli
