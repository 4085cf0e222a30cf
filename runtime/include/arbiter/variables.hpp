// Every environment variable Arbiter reads, in one place. Explicit configuration in code beats all of them.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/vocabulary.hpp"

namespace arbiter {

/// strict: only rank_order_fp32. any: everything that adds what the ranks hold. lossy: fp8_transport too.
enum class NumericsPolicy : std::uint8_t { any, strict, lossy };
std::string_view to_string(NumericsPolicy) noexcept;
/// Throws InvalidArgument naming the valid spellings.
NumericsPolicy parse_numerics_policy(std::string_view);
bool allows(NumericsPolicy, Numerics) noexcept;

/// In the order of ARBITER_LOG's spellings.
enum class LogLevel : std::uint8_t { trace, debug, info, warn, error };

/// Takes one message, without a newline. Called from the threads that use a communicator. What it throws is dropped.
using LogSink = std::function<void(LogLevel, std::string_view text)>;

struct EnvironmentVariables {
  std::string db;                   ///< ARBITER_DB: snapshot or database the runtime loads
  std::filesystem::path cache_dir;  ///< ARBITER_CACHE_DIR: kernel cache, default $XDG_CACHE_HOME/arbiter; empty: none
  Backend backend = Backend::automatic;  ///< ARBITER_BACKEND: auto, trtllm, mnnvl, custom, nvls, nccl
  /// ARBITER_BACKEND=off: nothing but NCCL as it chooses. No kernel is compiled and no memory shared; fused calls, and
  /// plain ones where there is no NCCL, are refused, and can_use() is false for everything.
  bool off = false;
  int max_sms = 0;  ///< ARBITER_MAX_SMS: multiprocessors that a kernel of ours may take; 0: all
  NumericsPolicy numerics = NumericsPolicy::any;  ///< ARBITER_NUMERICS: any, strict, lossy
  bool jit = true;                                ///< ARBITER_JIT: on, off (a cache miss is then an error)
  bool kernels = false;    ///< ARBITER_KERNELS: on, off. Run compiled kernels that a snapshot carries
  bool multicast = false;  ///< ARBITER_MULTICAST: on, off. Off also when NCCL_NVLS_ENABLE=0
  std::chrono::milliseconds timeout{60'000};  ///< ARBITER_TIMEOUT_MS: deadline of every device-side wait; 0: none
  /// ARBITER_FIRST_TIMEOUT_MS: the same until a communicator's first 16 calls are through; 0: none. Never shorter than
  /// `timeout`. A rank may be minutes late on its first calls, because elsewhere in a model something is compiled.
  std::chrono::milliseconds first_timeout{600'000};
  /// ARBITER_STARTUP_TUNE_MS: what a communicator's prepare() may spend on measuring where nothing was; 0: nothing.
  std::chrono::milliseconds startup_tune{0};
  std::string log = "warn";  ///< ARBITER_LOG: trace, debug, info, warn, error, off

  /// Throws InvalidArgument naming the variable, its value and what is valid.
  static EnvironmentVariables read();
};

/// What holds in the first calls: 0 (none) if either is, and the longer of the two otherwise.
std::chrono::milliseconds first_deadline(const EnvironmentVariables&) noexcept;

/// One variable as `arbiter doctor` prints it.
struct VariableDescription {
  std::string name;
  std::string value;  ///< effective
  bool set = false;
  std::string description;  ///< one line
};
std::vector<VariableDescription> describe(const EnvironmentVariables&);

}  // namespace arbiter
