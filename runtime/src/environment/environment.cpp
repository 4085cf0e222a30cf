// Reads, checks and describes every environment variable of Arbiter. A variable that is set but empty counts as unset.
#include "arbiter/variables.hpp"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <span>
#include <string_view>

#include "arbiter/error.hpp"
#include "environment/cache_folder.hpp"

namespace arbiter {
namespace {

constexpr std::array<std::string_view, 2> switches{"on", "off"};
/// In the order of the enumerators.
constexpr std::array<std::string_view, 3> numerics_policies{"any", "strict", "lossy"};
constexpr std::array<std::string_view, 7> backends{"auto", "trtllm", "mnnvl", "custom", "nvls", "nccl", "off"};
constexpr int most_sms = 1 << 16;
constexpr std::array<std::string_view, 6> log_levels{"trace", "debug", "info", "warn", "error", "off"};
constexpr std::int64_t longest_timeout_ms = 24LL * 60 * 60 * 1000;

/// Empty when the variable is not set.
std::string_view value_of(const char* name) noexcept {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view{} : std::string_view{value};
}

/// One of `valid`; `otherwise` when the variable is not set.
std::string_view choice(const char* name, std::span<const std::string_view> valid, std::string_view otherwise) {
  const std::string_view value = value_of(name);
  if (value.empty()) return otherwise;
  if (std::find(valid.begin(), valid.end(), value) == valid.end()) {
    throw InvalidArgument("environment variable " + std::string(name) + ": " +
                          unknown_name_message("value", value, valid));
  }
  return value;
}

/// `zero`: what 0 stands for.
std::chrono::milliseconds milliseconds(const char* name, std::chrono::milliseconds otherwise,
                                       std::string_view zero = "no deadline") {
  const std::string_view value = value_of(name);
  if (value.empty()) return otherwise;
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc{} || end != value.data() + value.size() || number < 0 || number > longest_timeout_ms) {
    throw InvalidArgument(
        fmt::format("environment variable {}: '{}' is not a number of milliseconds; give digits only, up to {} (one "
                    "day), 0 for {}, or unset it for {}",
                    name, value, longest_timeout_ms, zero, otherwise.count()));
  }
  return std::chrono::milliseconds(number);
}

bool nccl_forbids_multicast() noexcept {
  // NCCL reads this as a number in C notation and ignores what it cannot read; so must we, to agree with it.
  const char* value = std::getenv("NCCL_NVLS_ENABLE");
  if (value == nullptr || *value == '\0') return false;
  char* end = nullptr;
  const long long number = std::strtoll(value, &end, 0);
  return end != value && *end == '\0' && number == 0;
}

int multiprocessors(const char* name) {
  const std::string_view value = value_of(name);
  if (value.empty()) return 0;
  int number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc{} || end != value.data() + value.size() || number < 0 || number > most_sms) {
    throw InvalidArgument("environment variable " + std::string(name) + ": '" + std::string(value) +
                          "' is not a number of multiprocessors; give digits only, or 0 for all");
  }
  return number;
}

std::string on_off(bool value) { return value ? "on" : "off"; }

}  // namespace

std::filesystem::path cache_folder() {
  if (const std::string_view value = value_of("ARBITER_CACHE_DIR"); !value.empty()) {
    return std::filesystem::absolute(value);
  }
  // The XDG specification says to ignore a relative path.
  const std::filesystem::path xdg = value_of("XDG_CACHE_HOME");
  if (xdg.is_absolute()) return xdg / "arbiter";
  std::filesystem::path home = value_of("HOME");
  if (!home.is_absolute()) {
    const passwd* user = ::getpwuid(::getuid());
    home = user != nullptr && user->pw_dir != nullptr ? user->pw_dir : "";
  }
  // Never a shared folder such as /tmp: whoever prepares it first would decide what code runs here.
  if (!home.is_absolute()) return {};
  return home / ".cache" / "arbiter";
}

std::string_view to_string(NumericsPolicy policy) noexcept {
  return numerics_policies[static_cast<std::size_t>(policy)];
}

NumericsPolicy parse_numerics_policy(std::string_view text) {
  const auto found = std::find(numerics_policies.begin(), numerics_policies.end(), text);
  if (found == numerics_policies.end()) throw InvalidArgument(unknown_name_message("value", text, numerics_policies));
  return static_cast<NumericsPolicy>(found - numerics_policies.begin());
}

bool allows(NumericsPolicy policy, Numerics numerics) noexcept {
  switch (policy) {
    case NumericsPolicy::strict:
      return numerics == Numerics::rank_order_fp32;
    case NumericsPolicy::any:
      return numerics != Numerics::fp8_transport;
    case NumericsPolicy::lossy:
      return true;
  }
  return false;
}

EnvironmentVariables EnvironmentVariables::read() {
  EnvironmentVariables read;
  read.db = value_of("ARBITER_DB");
  read.cache_dir = cache_folder();
  const std::string_view backend = choice("ARBITER_BACKEND", backends, "auto");
  read.off = backend == "off";
  read.backend = read.off ? Backend::nccl : parse_backend(backend);
  read.max_sms = multiprocessors("ARBITER_MAX_SMS");
  read.numerics = parse_numerics_policy(choice("ARBITER_NUMERICS", numerics_policies, "any"));
  read.jit = choice("ARBITER_JIT", switches, "on") == "on";
  read.kernels = choice("ARBITER_KERNELS", switches, "off") == "on";
  read.multicast = choice("ARBITER_MULTICAST", switches, "off") == "on" && !nccl_forbids_multicast();
  read.timeout = milliseconds("ARBITER_TIMEOUT_MS", read.timeout);
  read.first_timeout = milliseconds("ARBITER_FIRST_TIMEOUT_MS", read.first_timeout);
  read.startup_tune = milliseconds("ARBITER_STARTUP_TUNE_MS", read.startup_tune, "nothing");
  read.log = choice("ARBITER_LOG", log_levels, read.log);
  return read;
}

std::chrono::milliseconds first_deadline(const EnvironmentVariables& variables) noexcept {
  constexpr auto none = std::chrono::milliseconds(0);
  if (variables.timeout == none || variables.first_timeout == none) return none;
  return std::max(variables.timeout, variables.first_timeout);
}

std::vector<VariableDescription> describe(const EnvironmentVariables& variables) {
  std::vector<VariableDescription> list;
  const auto add = [&](const char* name, std::string value, std::string description) {
    list.push_back({name, std::move(value), !value_of(name).empty(), std::move(description)});
  };
  add("ARBITER_DB", variables.db, "snapshot or database that the runtime loads decisions from; empty: none");
  add("ARBITER_CACHE_DIR", variables.cache_dir.string(),
      "folder of compiled kernels; default $XDG_CACHE_HOME/arbiter or ~/.cache/arbiter");
  add("ARBITER_BACKEND", variables.off ? "off" : std::string(to_string(variables.backend)),
      "the only backend to use: auto, trtllm, mnnvl, custom, nvls, nccl; auto means any; off: NCCL as it chooses, "
      "without kernels of ours");
  add("ARBITER_MAX_SMS", std::to_string(variables.max_sms),
      "multiprocessors that a kernel of ours may take, so that others run beside it; 0: all");
  add("ARBITER_NUMERICS", std::string(to_string(variables.numerics)),
      "any; strict: only kernels that add in rank order, with bit-identical results; lossy: kernels that send 8-bit "
      "values too");
  add("ARBITER_JIT", on_off(variables.jit), "on, or off: a kernel that is not in the cache is an error");
  add("ARBITER_KERNELS", on_off(variables.kernels),
      "on: run the compiled kernels that the snapshot carries, if it is yours or root's; off: compile them here");
  add("ARBITER_MULTICAST", on_off(variables.multicast),
      "on or off: use NVLink multicast; off in any case when NCCL_NVLS_ENABLE is 0");
  add("ARBITER_TIMEOUT_MS", std::to_string(variables.timeout.count()),
      "deadline of every wait for a peer on the device, in milliseconds; 0: none");
  add("ARBITER_FIRST_TIMEOUT_MS", std::to_string(first_deadline(variables).count()),
      "the same until a communicator's first 16 calls are through, when ranks may still be compiling; 0: none");
  add("ARBITER_STARTUP_TUNE_MS", std::to_string(variables.startup_tune.count()),
      "milliseconds that a start may spend on measuring where nothing was, kept in the cache folder; 0: nothing");
  add("ARBITER_LOG", variables.log, "messages to stderr: trace, debug, info, warn, error, off");
  add("ARBITER_JOB_SECRET", value_of("ARBITER_JOB_SECRET").empty() ? "" : "(set)",
      "text that only the ranks of the job know, or file:///path of one; ranks that meet by TCP then prove it");
  add("NCCL_NVLS_ENABLE", std::string(value_of("NCCL_NVLS_ENABLE")),
      "belongs to NCCL; 0 also turns ARBITER_MULTICAST off");
  add("NCCL_TUNER_PLUGIN", std::string(value_of("NCCL_TUNER_PLUGIN")),
      "belongs to NCCL; path of libarbiter-nccl-tuner.so lets decisions force NCCL's algorithm, protocol and channels");
  add("ARBITER_NCCL", std::string(value_of("ARBITER_NCCL").empty() ? "on" : value_of("ARBITER_NCCL")),
      "read by libarbiter-nccl.so: on, off, or verify:N (every N-th allreduce is compared with NCCL's)");
  add("ARBITER_NCCL_LIBRARY", std::string(value_of("ARBITER_NCCL_LIBRARY")),
      "read by libarbiter-nccl.so: path of the NCCL behind it; empty: the program's");
  add("ARBITER_NCCL_WORKSPACE",
      std::string(value_of("ARBITER_NCCL_WORKSPACE").empty() ? "256M" : value_of("ARBITER_NCCL_WORKSPACE")),
      "read by libarbiter-nccl.so: most bytes of device memory for one communicator");
  add("ARBITER_ENVIRONMENT", std::string(value_of("ARBITER_ENVIRONMENT")),
      "read by libarbiter-nccl-tuner.so: start of the key of the environment to serve from ARBITER_DB");
  return list;
}

}  // namespace arbiter
