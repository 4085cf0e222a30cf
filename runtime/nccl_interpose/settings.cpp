#include "settings.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <string_view>

#include "arbiter/error.hpp"

namespace arbiter::nccl_interpose {
namespace {

constexpr std::int64_t default_verify_each = 100;

std::string_view variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

bool read_number(std::string_view text, std::int64_t& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() && number > 0;
}

/// A value that is not understood turns everything off: NCCL alone is what the program asked for in the first place.
Settings read() {
  Settings settings;
  const std::string_view mode = variable("ARBITER_NCCL");
  if (mode == "off" || mode == "0") {
    settings.on = false;
  } else if (mode == "verify") {
    settings.verify_each = default_verify_each;
  } else if (mode.starts_with("verify:") && read_number(mode.substr(7), settings.verify_each)) {
  } else if (!mode.empty() && mode != "on" && mode != "1") {
    settings.on = false;
    log().error(
        fmt::format("ARBITER_NCCL='{}' is not understood; expected on, off, verify or verify:N. It is off.", mode));
  }
  if (std::string_view size = variable("ARBITER_NCCL_WORKSPACE"); !size.empty()) {
    const std::string_view whole = size;
    int shift = 0;
    if (size.back() == 'K' || size.back() == 'k') shift = 10;
    if (size.back() == 'M' || size.back() == 'm') shift = 20;
    if (size.back() == 'G' || size.back() == 'g') shift = 30;
    if (shift != 0) size.remove_suffix(1);
    std::int64_t number = 0;
    if (read_number(size, number) && number < (std::int64_t{1} << 32)) {
      settings.workspace_bytes = static_cast<std::size_t>(number) << shift;
    } else {
      settings.on = false;
      log().error(fmt::format(
          "ARBITER_NCCL_WORKSPACE='{}' is not a size; expected bytes, such as 67108864 or 64M. Arbiter is off.",
          whole));
    }
  }
  settings.cpu_device = variable("ARBITER_NCCL_TEST_DEVICE") == "cpu";
  return settings;
}

}  // namespace

const Settings& settings() {
  static const Settings instance = read();
  return instance;
}

const Logger& log() {
  // Never destroyed, and never the reason why a program does not start.
  static const Logger* const instance = [] {
    const std::string_view level = variable("ARBITER_LOG");
    try {
      return new Logger(level.empty() ? "warn" : level, "arbiter-nccl");
    } catch (const Error&) {
      return new Logger("warn", "arbiter-nccl");
    }
  }();
  return *instance;
}

}  // namespace arbiter::nccl_interpose
