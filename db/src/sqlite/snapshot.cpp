#include "sqlite/snapshot.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "arbiter/generator/file_size_signal.hpp"
#include "records/kernels.hpp"
#include "sqlite/files.hpp"
#include "sqlite/reader.hpp"
#include "sqlite/rows.hpp"

namespace fs = std::filesystem;

namespace arbiter::db {
namespace {

/// A database in memory with these decisions and kernels, filled in a fixed order.
Connection stage(const std::vector<DecisionSet>& sets, const std::vector<StoredKernel>& kernels) {
  Connection staging = Connection::memory("the snapshot in memory");
  staging.execute(
      "PRAGMA page_size = 4096; PRAGMA encoding = 'UTF-8'; PRAGMA auto_vacuum = NONE; PRAGMA foreign_keys = ON");
  migrate(staging);
  Transaction transaction(staging);
  for (const DecisionSet& set : sets) {
    insert_environment(staging, set.environment);
    const std::string key = set.environment.key();
    for (const Decision& decision : set.decisions) insert_decision(staging, key, decision);
    for (const NcclChoice& choice : set.nccl) insert_nccl_choice(staging, key, choice);
  }
  for (const StoredKernel& kernel : kernels) insert_kernel(staging, kernel);
  transaction.commit();
  return staging;
}

void require_ok(Connection& connection) {
  const std::string result = connection.text("PRAGMA integrity_check");
  if (result != "ok") throw DatabaseError(connection.name() + ": the snapshot was not written correctly: " + result);
  Statement orphans(connection, "PRAGMA foreign_key_check");
  if (orphans.step()) throw DatabaseError(connection.name() + ": the snapshot names rows that are not in it.");
}

/// Throws unless `target` may be replaced: it is not there, or it is a snapshot, and no decisions would be lost for
/// none.
void require_replaceable(const fs::path& target, const std::vector<DecisionSet>& sets) {
  const std::string name = "'" + target.string() + "'";
  for (const char* suffix : {"-wal", "-journal"}) {
    // SQLite would replay it into the new snapshot.
    if (bytes_of(beside(target, suffix)) != 0) {
      throw DatabaseError(name + ": '" + beside(target, suffix).string() +
                          "' lies beside it, so it belongs to a database in use or one that crashed. Choose another "
                          "name for the snapshot.");
    }
  }
  std::error_code error;
  if (!fs::exists(target, error)) return;
  bool work = false, decided = false;
  try {
    with_reader(target, [&](Connection& view, FileKind kind) {
      decided = kind == FileKind::ours && view.integer("SELECT EXISTS (SELECT 1 FROM decision)") != 0;
      work = kind == FileKind::ours && view.integer("SELECT EXISTS (SELECT 1 FROM run)") != 0;
    });
  } catch (const DatabaseError& problem) {
    throw DatabaseError(std::string("a snapshot replaces only another snapshot, but ") + problem.what() +
                        " Choose another name for the snapshot, or remove that file first.");
  }
  if (work) {
    throw DatabaseError(name +
                        ": it is a work database, whose measurements a snapshot would overwrite. Choose another "
                        "name for the snapshot.");
  }
  const bool empty =
      std::all_of(sets.begin(), sets.end(), [](const DecisionSet& set) { return set.decisions.empty(); });
  if (decided && empty) {
    throw DatabaseError(name +
                        ": there is nothing to put into it, no decision at all, and the snapshot that is there has "
                        "some. Check the name of the database that was tuned, or remove the snapshot first.");
  }
}

/// The end of the header as every snapshot has it: the change counter for which the page count is valid (1: VACUUM INTO
/// writes a file once), and the SQLite library that wrote it (3.40.0, the oldest supported, whichever it was).
constexpr std::size_t seal_offset = 92;
constexpr char seal[] = {0, 0, 0, 1, 0x00, 0x2e, 0x63, 0x00};
constexpr std::size_t change_counter_offset = 24;

}  // namespace

bool is_sealed(const Connection& connection) {
  const FileHeader header = connection.header();
  return header.is_sqlite && !header.wal && header.file_bytes >= seal_offset + sizeof seal &&
         connection.raw_bytes(seal_offset, sizeof seal) == std::string_view(seal, sizeof seal);
}

std::string snapshot_image(const std::vector<DecisionSet>& sets) {
  Connection staging = stage(sets, {});
  require_ok(staging);
  staging.execute("VACUUM");
  std::string image = staging.serialize();
  image.replace(change_counter_offset, 4, seal, 4);
  image.replace(seal_offset, sizeof seal, seal, sizeof seal);
  return image;
}

void write_snapshot_file(const fs::path& given, const std::vector<DecisionSet>& sets,
                         const std::vector<StoredKernel>& kernels) {
  const fs::path target = resolve(given);
  require_replaceable(target, sets);
  Connection staging = stage(sets, kernels);
  PendingFile file(target);
  try {
    Statement(staging, "VACUUM INTO ?").bind(std::string_view(file.path().native())).run();
  } catch (const SqliteError& error) {
    throw SqliteError("'" + given.string() + "': the snapshot could not be written: " + error.what(), error.code());
  }
  {
    const FileSizeSignalBlocked blocked;
    const int descriptor = ::open(file.path().c_str(), O_WRONLY | O_CLOEXEC);
    const bool written = descriptor >= 0 && ::pwrite(descriptor, seal, sizeof seal, seal_offset) == sizeof seal;
    if (descriptor >= 0) ::close(descriptor);
    if (!written) throw DatabaseError("'" + given.string() + "': the snapshot could not be written. Check the disk.");
  }
  with_reader(file.path(), [](Connection& view, FileKind) { require_ok(view); });
  file.publish();
}

}  // namespace arbiter::db
