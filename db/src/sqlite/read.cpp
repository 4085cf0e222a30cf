// The public functions that read decisions.
#include "arbiter/db/database.hpp"
#include "sqlite/reader.hpp"
#include "sqlite/rows.hpp"
#include "sqlite/snapshot.hpp"

namespace arbiter {
namespace {

std::vector<DecisionSet> decisions_of(db::Connection& view, db::FileKind kind) {
  if (kind == db::FileKind::empty) {
    throw DatabaseError(view.name() +
                        ": there is nothing in it, neither tables nor Arbiter's mark. Check its name, or "
                        "tune first.");
  }
  std::optional<db::Connection> migrated;
  return db::load_decisions(db::prepare_view(view, migrated));
}

}  // namespace

std::vector<DecisionSet> read_decisions(const std::filesystem::path& path) {
  db::require_sqlite_features();
  std::vector<DecisionSet> result;
  db::with_reader(path, [&](db::Connection& view, db::FileKind kind) { result = decisions_of(view, kind); });
  return result;
}

std::vector<DecisionSet> read_decisions_from_bytes(const std::string& bytes, const std::string& name_for_messages) {
  db::Connection view = db::connection_to_bytes(bytes, name_for_messages);
  std::optional<db::Connection> migrated;
  return db::load_decisions(db::prepare_view(view, migrated));
}

void write_snapshot(const std::filesystem::path& target, const std::vector<DecisionSet>& sets) {
  db::require_sqlite_features();
  db::write_snapshot_file(target, sets, {});
}

std::string read_for_broadcast(const std::filesystem::path& path) {
  db::require_sqlite_features();
  std::string bytes;
  db::with_reader(path, [&](db::Connection& view, db::FileKind kind) {
    const bool work = kind == db::FileKind::ours && view.integer("PRAGMA user_version") != 0 &&
                      view.integer("SELECT EXISTS (SELECT 1 FROM run)") != 0;
    // A work database is large and mostly samples: only its decisions travel.
    bytes = work ? db::snapshot_image(decisions_of(view, kind)) : view.serialize();
  });
  return bytes;
}

}  // namespace arbiter
