// The schema, the forward-only migrations that lead to it, and how a file is recognised.
#pragma once

#include <span>
#include <string>

#include "sqlite/sqlite.hpp"

namespace arbiter::db {

/// One step from schema version i to i + 1, where i is its position in the list. Never edited once released.
struct Migration {
  const char* summary;
  const char* sql;
};

/// All of them; their number is the schema version that this program writes.
std::span<const Migration> migrations();

enum class FileKind : std::uint8_t {
  empty,  ///< SQLite, but nothing in it: neither tables nor an application id
  ours,
};

/// Throws DatabaseError if the file belongs to another program, or to a newer version of this one.
FileKind identify(Connection&, int newest_version = static_cast<int>(migrations().size()));

/// Bring an identified database up to the newest version: each step is one transaction that commits completely or
/// leaves the file as it was.
void migrate(Connection&, std::span<const Migration> = migrations());

/// Throws DatabaseError unless every table and index is exactly what the migrations create.
void require_schema(Connection&, std::span<const Migration> = migrations());

}  // namespace arbiter::db
