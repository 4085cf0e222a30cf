// Members of JSON objects that several outputs share.
#pragma once

#include <llvm/Support/JSON.h>

#include <concepts>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>

#include "arbiter/db/fields.hpp"

namespace arbiter::db {

/// Text from outside may hold anything; JSON is UTF-8.
void text(llvm::json::OStream&, const char* name, std::string_view value);

/// The shortest text that reads back as the same number ("3.2", not "3.2000000000000002").
void number(llvm::json::OStream&, const char* name, double value);

inline void attribute(llvm::json::OStream& json, const char* name, std::string_view value) { text(json, name, value); }
inline void attribute(llvm::json::OStream& json, const char* name, bool value) { json.attribute(name, value); }
template <std::integral Integer>
void attribute(llvm::json::OStream& json, const char* name, Integer value) {
  json.attribute(name, static_cast<std::int64_t>(value));
}
template <typename Enumeration>
requires std::is_enum_v<Enumeration>
void attribute(llvm::json::OStream& json, const char* name, Enumeration value) { text(json, name, to_string(value)); }
void attribute(llvm::json::OStream&, const char* name, const std::map<std::string, std::string>& values);

/// Every field, into an object that is open.
template <typename Record>
void write_fields(llvm::json::OStream& json, const Record& record) {
  for_each_field(record, [&](const char* name, const auto& value) { attribute(json, name, value); });
}

/// "key" and every field of it, into an object that is open. `nvlink_domains` only where it was recorded.
void write_environment(llvm::json::OStream&, const Environment&);

}  // namespace arbiter::db
