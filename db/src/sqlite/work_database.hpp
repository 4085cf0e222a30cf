// What a WorkDatabase owns.
#pragma once

#include "arbiter/db/database.hpp"
#include "sqlite/files.hpp"
#include "sqlite/sqlite.hpp"

namespace arbiter {

namespace db {
/// The connection of a WorkDatabase, settings and schema included: a WAL, or a rollback journal on a network
/// filesystem, as `kind` tells.
Connection open_for_writing(const std::filesystem::path&, const std::string& name,
                            const FilesystemKind& kind = filesystem_kind);
}  // namespace db

struct WorkDatabase::Impl {
  Impl(std::filesystem::path p, std::string n, std::unique_ptr<db::WriterLock> l, db::Connection c)
      : path(std::move(p)), name(std::move(n)), lock(std::move(l)), connection(std::move(c)) {}

  std::filesystem::path path;
  std::string name;
  std::unique_ptr<db::WriterLock> lock;  // released after the connection below has closed
  db::Connection connection;

  /// Checks are shared with the reader and do not know the file's name.
  template <typename Action>
  auto with_name(Action&& action) {
    try {
      return action();
    } catch (const Error& error) {
      const std::string what = error.what();
      if (what.starts_with(name)) throw;
      throw DatabaseError(name + ": " + what);
    }
  }
};

}  // namespace arbiter
