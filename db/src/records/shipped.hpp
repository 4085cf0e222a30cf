// The exports in db/defaults, as they were built in.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>

namespace arbiter {

namespace db {
/// From file names to JSON lines.
using ShippedFiles = std::map<std::string, std::string_view, std::less<>>;
}  // namespace db

const db::ShippedFiles& shipped_files();

}  // namespace arbiter
