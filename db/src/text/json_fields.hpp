// Members of JSON objects that several outputs share.
#pragma once

#include <llvm/Support/JSON.h>

#include <string_view>

#include "arbiter/db/records.hpp"

namespace arbiter::db {

/// Text from outside may hold anything; JSON is UTF-8.
void text(llvm::json::OStream&, const char* name, std::string_view value);

/// The shortest text that reads back as the same number ("3.2", not "3.2000000000000002").
void number(llvm::json::OStream&, const char* name, double value);

/// "key" and every field of it, into an object that is open.
void write_environment(llvm::json::OStream&, const Environment&);

}  // namespace arbiter::db
