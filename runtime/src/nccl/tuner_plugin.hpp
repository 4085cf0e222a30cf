// Our NCCL tuner plugin, seen from the runtime: NCCL opens it, the runtime finds it in the process.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "arbiter/db/nccl_configuration.hpp"
#include "nccl/force.hpp"

namespace arbiter {

/// Does a value of NCCL_TUNER_PLUGIN mean our plugin? By itself it changes nothing that NCCL does for the runtime.
bool is_own_nccl_tuner(std::string_view plugin) noexcept;

class NcclTuner {
 public:
  /// The library that this process has loaded, whoever loaded it; never loads it.
  static std::optional<NcclTuner> find() noexcept;

  /// Communicators that NCCL announced to it so far: 0 if something else loaded it.
  unsigned long long announced() const noexcept { return announced_(); }

  /// While it exists, NCCL calls of this thread follow the configuration.
  class Request {
   public:
    Request(const NcclTuner&, const NcclConfiguration&) noexcept;
    Request(const Request&) = delete;
    Request& operator=(const Request&) = delete;
    ~Request() { end_(nullptr); }
    /// NCCL asked, and had what was wanted on offer every time.
    bool applied() const noexcept { return force_.consulted > 0 && force_.applied == force_.consulted; }

   private:
    NcclForce force_;
    NcclForceFunction end_;
  };

 private:
  NcclTuner() = default;
  NcclForceFunction force_ = nullptr;
  NcclAnnouncedFunction announced_ = nullptr;
};

/// Why this process cannot force configurations although NCCL works, in one sentence. `announced_before`: what
/// announced() was before the communicator was created (0 if the library was not there). Empty if it can.
std::string nccl_tuner_problem(const std::optional<NcclTuner>&, unsigned long long announced_before);

}  // namespace arbiter
