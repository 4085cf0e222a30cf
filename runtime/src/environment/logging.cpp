// The only file that includes spdlog: it is header-only and slow to compile.
#include "environment/logging.hpp"

#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <algorithm>
#include <array>
#include <utility>

#include "arbiter/error.hpp"
#include "arbiter/vocabulary.hpp"

namespace arbiter {
namespace {

constexpr std::array<std::string_view, 6> names{"trace", "debug", "info", "warn", "error", "off"};
constexpr std::array levels{spdlog::level::trace, spdlog::level::debug, spdlog::level::info,
                            spdlog::level::warn,  spdlog::level::err,   spdlog::level::off};

spdlog::level::level_enum parse(std::string_view level) {
  const auto found = std::find(names.begin(), names.end(), level);
  if (found == names.end()) throw InvalidArgument(unknown_name_message("log level", level, names));
  return levels[static_cast<std::size_t>(found - names.begin())];
}

}  // namespace

struct Logger::Impl {
  spdlog::logger logger;
  void write(spdlog::level::level_enum level, std::string_view text) noexcept {
    try {
      logger.log(level, spdlog::string_view_t(text.data(), text.size()));
    } catch (...) {
      // A message that cannot be written must not take the program down.
    }
  }
};

Logger::Logger(std::string_view level, std::string name) {
  const auto parsed = parse(level);
  // A sink of its own: nothing is registered globally, and the host program's spdlog is left alone.
  impl_ =
      std::make_shared<Impl>(Impl{spdlog::logger(std::move(name), std::make_shared<spdlog::sinks::stderr_sink_mt>())});
  impl_->logger.set_pattern("[%n] %l: %v");
  impl_->logger.set_level(parsed);
}

void Logger::trace(std::string_view text) const noexcept { impl_->write(spdlog::level::trace, text); }
void Logger::debug(std::string_view text) const noexcept { impl_->write(spdlog::level::debug, text); }
void Logger::info(std::string_view text) const noexcept { impl_->write(spdlog::level::info, text); }
void Logger::warn(std::string_view text) const noexcept { impl_->write(spdlog::level::warn, text); }
void Logger::error(std::string_view text) const noexcept { impl_->write(spdlog::level::err, text); }

}  // namespace arbiter
