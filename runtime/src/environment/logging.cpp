// The only file that includes spdlog: it is header-only and slow to compile.
#include "environment/logging.hpp"

#include <spdlog/details/null_mutex.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <algorithm>
#include <array>
#include <utility>

#include "arbiter/error.hpp"
#include "arbiter/generator/file_size_signal.hpp"
#include "arbiter/generator/plain_text.hpp"
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

LogLevel level_of(spdlog::level::level_enum level) {
  const auto found = std::find(levels.begin(), levels.end(), level);
  return static_cast<LogLevel>(found - levels.begin());
}

/// Hands messages to the host program, which formats and locks as it likes.
class HostSink final : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
 public:
  HostSink(LogSink target, std::string name) : target_(std::move(target)), name_(std::move(name)) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const std::string text = "[" + name_ + "] " + std::string(message.payload.data(), message.payload.size());
    target_(level_of(message.level), text);
  }
  void flush_() override {}

 private:
  LogSink target_;
  std::string name_;
};

/// Where standard error is a file, it may be one that may not grow.
class StandardError final : public spdlog::sinks::stderr_sink_mt {
  void log(const spdlog::details::log_msg& message) override {
    const FileSizeSignalBlocked blocked;
    spdlog::sinks::stderr_sink_mt::log(message);
  }
};

}  // namespace

struct Logger::Impl {
  spdlog::logger logger;
  void write(spdlog::level::level_enum level, std::string_view text) noexcept {
    try {
      if (logger.should_log(level)) logger.log(level, spdlog::string_view_t(one_line(text)));
    } catch (...) {
      // A message that cannot be written must not take the program down.
    }
  }
};

Logger::Logger(std::string_view level, std::string name, LogSink sink) {
  const auto parsed = parse(level);
  spdlog::sink_ptr destination;
  if (sink) {
    destination = std::make_shared<HostSink>(std::move(sink), name);
  } else {
    destination = std::make_shared<StandardError>();
  }
  // A sink of its own: nothing is registered globally, and the host program's spdlog is left alone.
  impl_ = std::make_shared<Impl>(Impl{spdlog::logger(std::move(name), std::move(destination))});
  impl_->logger.set_pattern("[%n] %l: %v");
  impl_->logger.set_level(parsed);
}

void Logger::trace(std::string_view text) const noexcept { impl_->write(spdlog::level::trace, text); }
void Logger::debug(std::string_view text) const noexcept { impl_->write(spdlog::level::debug, text); }
void Logger::info(std::string_view text) const noexcept { impl_->write(spdlog::level::info, text); }
void Logger::warn(std::string_view text) const noexcept { impl_->write(spdlog::level::warn, text); }
void Logger::error(std::string_view text) const noexcept { impl_->write(spdlog::level::err, text); }

}  // namespace arbiter
