// Values for llvm::json, which insists on UTF-8 and prints a double with all its digits.
#pragma once

#include <llvm/Support/JSON.h>

#include <charconv>
#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>

#include "arbiter/db/json.hpp"

namespace arbiter::tuning {

/// Text from anywhere (a compiler's log, a file name) made valid.
inline llvm::json::Value json_text(std::string_view text) {
  const llvm::StringRef bytes(text.data(), text.size());
  return llvm::json::isUTF8(bytes) ? llvm::json::Value(std::string(text))
                                   : llvm::json::Value(llvm::json::fixUTF8(bytes));
}

/// Six significant digits; null if not finite.
inline llvm::json::Value json_number(double value) {
  if (!std::isfinite(value)) return nullptr;
  char text[32];
  const int length = std::snprintf(text, sizeof(text), "%.6g", value);
  double rounded = value;
  std::from_chars(text, text + length, rounded);
  return rounded;
}

/// What every report begins with: schema version, the command if there is one to repeat, the environment.
inline void json_report_head(llvm::json::OStream& json, const std::string& command, const Environment& environment) {
  json.attribute("schema", 1);
  if (!command.empty()) json.attribute("command", json_text(command));
  json.attributeBegin("environment");
  json.rawValue(environment_json(environment, 1));
  json.attributeEnd();
}

}  // namespace arbiter::tuning
