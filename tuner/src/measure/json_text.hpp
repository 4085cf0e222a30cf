// What reports of measurements and conformance cases share as JSON.
#pragma once

#include <llvm/Support/JSON.h>

#include <charconv>
#include <cmath>
#include <cstdio>
#include <string>

#include "arbiter/db/json.hpp"
#include "arbiter/db/json_fields.hpp"

namespace arbiter::tuning {

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
  if (!command.empty()) write_text(json, "command", command);
  json.attributeBegin("environment");
  json.rawValue(environment_json(environment, 1));
  json.attributeEnd();
}

}  // namespace arbiter::tuning
