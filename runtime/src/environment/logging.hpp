// Messages for the person who runs the program: to stderr or to the host program, from a level that ARBITER_LOG sets.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "arbiter/variables.hpp"

namespace arbiter {

/// Copies share one destination. Thread-safe. Logging never throws.
class Logger {
 public:
  /// `level`: trace, debug, info, warn, error or off; throws InvalidArgument for anything else. `name` stands in front
  /// of every line, e.g. "arbiter rank 2". With a `sink`, messages go there instead, and the name with them.
  explicit Logger(std::string_view level, std::string name = "arbiter", LogSink sink = {});

  void trace(std::string_view) const noexcept;
  void debug(std::string_view) const noexcept;
  void info(std::string_view) const noexcept;
  void warn(std::string_view) const noexcept;
  void error(std::string_view) const noexcept;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace arbiter
