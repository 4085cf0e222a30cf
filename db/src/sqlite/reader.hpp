// Opening a database to read it, whatever state it is in, without writing anything, even beside it.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "sqlite/schema.hpp"

namespace arbiter::db {

/// Open `given` (a work database or a snapshot; live, closed or left by a crash) and hand a connection with one
/// consistent view of it to `use`. The view is identified (ours, not newer, or empty); nothing else is checked.
///
/// How it is opened depends on what is there:
/// - a -wal with content and its -shm: a writer may be at work. Shared locks, with the -shm mapped read-only;
/// - a -wal with content and no -shm (copied from elsewhere), or a rollback journal left by a crash: only a writer may
///   recover these, so a private copy is recovered;
/// - flagged for WAL, but no -wal: SQLite would create one, or fail in a directory where it may not. Opened as
///   immutable, and tried again if the file changed in the meantime;
/// - otherwise: shared locks, or as immutable where the filesystem has no locks.
void with_reader(const std::filesystem::path& given, const std::function<void(Connection&, FileKind)>& use);

/// A connection to a copy of a database image in memory, identified as with_reader() does. Throws DatabaseError naming
/// `name_for_messages`.
Connection connection_to_bytes(const std::string& bytes, const std::string& name_for_messages);

/// Bring a view up to the newest schema in memory if it is older, and check that it is sound: the schema is exactly
/// ours, and the tables that decisions are read from pass SQLite's integrity and foreign key checks.
/// Returns the connection to read from: `view` itself, or the migrated copy through `migrated`.
Connection& prepare_view(Connection& view, std::optional<Connection>& migrated,
                         std::span<const Migration> steps = migrations());

}  // namespace arbiter::db
