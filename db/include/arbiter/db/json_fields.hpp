// Members of JSON objects, as every output writes them.
#pragma once

#include <llvm/Support/JSON.h>

#include <concepts>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>

#include "arbiter/db/fields.hpp"

namespace arbiter {

/// Text from outside may hold anything; JSON is UTF-8.
void write_text(llvm::json::OStream&, std::string_view name, std::string_view value);

/// The shortest text that reads back as the same number ("3.2", not "3.2000000000000002").
void write_exact_number(llvm::json::OStream&, std::string_view name, double value);

inline void write_field(llvm::json::OStream& json, const char* name, std::string_view value) {
  write_text(json, name, value);
}
inline void write_field(llvm::json::OStream& json, const char* name, bool value) { json.attribute(name, value); }
template <std::integral Integer>
void write_field(llvm::json::OStream& json, const char* name, Integer value) {
  json.attribute(name, static_cast<std::int64_t>(value));
}
template <typename Enumeration>
requires std::is_enum_v<Enumeration>
void write_field(llvm::json::OStream& json, const char* name, Enumeration value) {
  write_text(json, name, to_string(value));
}
void write_field(llvm::json::OStream&, const char* name, const std::map<std::string, std::string>& values);

/// Every field of a record, into an object that is open.
template <typename Record>
void write_fields(llvm::json::OStream& json, const Record& record) {
  for_each_field(record, [&](const char* name, const auto& value) { write_field(json, name, value); });
}

/// Every field of a record of numbers; null where one is not known.
template <typename Record>
void write_known_fields(llvm::json::OStream& json, const Record& record) {
  for_each_field(record, [&](const char* name, auto value) {
    if (is_recorded(value)) {
      json.attribute(name, value);
    } else {
      json.attribute(name, nullptr);
    }
  });
}

/// "key" and every field of it, into an object that is open. `nvlink_domains` only where it was recorded.
void write_environment_fields(llvm::json::OStream&, const Environment&);

}  // namespace arbiter
