#include "sqlite/reader.hpp"

#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <memory>
#include <system_error>

#include "arbiter/generator/file_size_signal.hpp"
#include "arbiter/generator/temporary_folder.hpp"
#include "sqlite/files.hpp"
#include "sqlite/snapshot.hpp"

namespace fs = std::filesystem;

namespace arbiter::db {
namespace {

constexpr int attempts = 20;

/// What can be seen of the files from outside. Two equal states around a read mean that nobody wrote in between.
struct FileState {
  std::array<std::uint64_t, 5> main{};
  std::array<std::uint64_t, 5> wal_file{};
  bool wal = false;  ///< there is a -wal with something in it
  std::uint64_t journal_bytes = 0;
  bool operator==(const FileState&) const = default;
};

std::array<std::uint64_t, 5> fingerprint(const fs::path& path) {
  struct stat file {};
  if (::stat(path.c_str(), &file) != 0) return {};
  return {static_cast<std::uint64_t>(file.st_dev), static_cast<std::uint64_t>(file.st_ino),
          static_cast<std::uint64_t>(file.st_size), static_cast<std::uint64_t>(file.st_mtim.tv_sec),
          static_cast<std::uint64_t>(file.st_mtim.tv_nsec)};
}

/// A -wal holds commits only behind a valid header of 32 bytes; a writer that was killed early leaves less. SQLite
/// knows, but a reader that may not write to the -shm would first try for ten seconds. (The -wal itself carries no
/// locks, so that it can be opened and closed freely.)
bool wal_has_content(const fs::path& wal) {
  constexpr std::uint64_t header_bytes = 32;
  if (bytes_of(wal) <= header_bytes) return false;
  std::array<char, 4> magic{};
  std::ifstream(wal, std::ios::binary).read(magic.data(), magic.size());
  // 0x377f0682, or ...83 when the checksums are big-endian.
  return magic[0] == 0x37 && magic[1] == 0x7f && magic[2] == 0x06 && (magic[3] | 1) == static_cast<char>(0x83);
}

FileState state_of(const fs::path& path) {
  FileState state;
  state.main = fingerprint(path);
  state.wal_file = fingerprint(beside(path, "-wal"));
  state.wal = wal_has_content(beside(path, "-wal"));
  state.journal_bytes = bytes_of(beside(path, "-journal"));
  return state;
}

[[noreturn]] void refuse(const std::string& name, const std::string& why) { throw DatabaseError(name + ": " + why); }

/// Throws for everything that can be said without opening the file (opening a pipe would block).
void require_readable_file(const fs::path& path, const std::string& name) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    refuse(name, "it does not exist. Check the path, or make it with `arbiter tune`.");
  }
  if (fs::is_directory(status)) refuse(name, "it is a directory, expected a database or snapshot file.");
  if (!fs::is_regular_file(status)) refuse(name, "it is not a regular file, expected a database or snapshot file.");
  if (::access(path.c_str(), R_OK) != 0) {
    refuse(name, "it cannot be read: " + std::generic_category().message(errno) + ". Check its permissions.");
  }
}

void begin(Connection& connection) {
  connection.execute("BEGIN");
  connection.integer("SELECT EXISTS (SELECT 1 FROM sqlite_schema)");  // takes the lock and the view
}

/// Only a writer may replay what a crash left behind. (A -wal without its -shm is reported as CANTOPEN.)
bool needs_recovery(const SqliteError& error, const FileState& state) {
  return error.code() == SQLITE_READONLY_ROLLBACK || error.code() == SQLITE_READONLY_RECOVERY ||
         error.code() == SQLITE_READONLY_CANTINIT || error.code() == SQLITE_READONLY_CANTLOCK ||
         (state.wal && (error.primary_code() == SQLITE_CANTOPEN || error.primary_code() == SQLITE_PROTOCOL));
}

bool no_locks_here(const SqliteError& error) {
  return error.code() == SQLITE_IOERR_LOCK || error.code() == SQLITE_IOERR_RDLOCK ||
         error.code() == SQLITE_IOERR_CHECKRESERVEDLOCK;
}

/// Copy the main file through SQLite's descriptor (see Connection::header) and what lies beside it.
Connection recover_copy(const Connection& original, const fs::path& path, const TemporaryFolder& directory) {
  const FileSizeSignalBlocked blocked;
  const fs::path copy = directory.path() / "copy.db";
  std::ofstream out(copy, std::ios::binary);
  const std::uint64_t bytes = original.header().file_bytes;
  constexpr std::uint64_t chunk = 1U << 20U;
  for (std::uint64_t at = 0; at < bytes; at += chunk) out << original.raw_bytes(at, std::min(chunk, bytes - at));
  out.close();
  std::error_code error;
  for (const char* suffix : {"-wal", "-journal"}) {
    if (bytes_of(beside(path, suffix)) == 0) continue;
    fs::copy_file(beside(path, suffix), beside(copy, suffix), error);
    if (error) break;
  }
  if (!out || error) {
    refuse(original.name(), "it was left by a crash, and there was no room in '" +
                                directory.path().parent_path().string() +
                                "' to recover a copy of it. Set TMPDIR, or open it once with `arbiter tune`.");
  }
  return Connection::open(copy, Access::write, original.name());
}

/// A connection in a read transaction, and what keeps it valid.
struct View {
  std::unique_ptr<TemporaryFolder> directory;
  std::optional<Connection> connection;
  bool unlocked = false;  ///< the view is only good if the files are still the same afterwards
};

View open_view(const fs::path& path, const std::string& name, const FileState& state) {
  View view;
  Connection plain = Connection::open(path, Access::read, name);
  const FileHeader header = plain.header();
  if (header.file_bytes == 0 && !state.wal) {
    refuse(name, "it is empty (0 bytes), expected a database or snapshot. Remove it and tune again.");
  }
  if (!header.is_sqlite && header.file_bytes != 0) {
    refuse(name, "it is not an SQLite database (it starts with other bytes). Check its name.");
  }
  require_own_companions(path, name);
  if ((state.wal || state.journal_bytes != 0) && is_sealed(plain)) {
    refuse(name, "it is a snapshot, which never has a journal, but '" +
                     beside(path, state.wal ? "-wal" : "-journal").string() +
                     "' lies beside it and would change what it says. Remove that file if you know where it is from.");
  }
  const auto copy = [&] {
    try {
      view.directory = std::make_unique<TemporaryFolder>();
    } catch (const Unavailable& error) {
      refuse(name, std::string("it was left by a crash, and no copy of it can be recovered: ") + error.what() + ".");
    }
    view.connection = recover_copy(plain, path, *view.directory);
    view.unlocked = true;
    begin(*view.connection);
  };
  const auto immutable = [&] {
    if (const std::string problem = size_problem(header); !problem.empty()) {
      refuse(name, problem + ". Restore a copy of it, or remove it and tune again.");
    }
    view.connection = Connection::open(path, Access::read_immutable, name);
    view.unlocked = true;
    begin(*view.connection);
  };
  // The change to WAL itself goes through a rollback journal, which a full disk may leave behind.
  if (!state.wal && header.wal && state.journal_bytes == 0) {
    immutable();
  } else {
    try {
      if (state.wal) {
        view.connection = Connection::open(path, Access::read_beside_wal, name);
      } else {
        view.connection = std::move(plain);
      }
      begin(*view.connection);
    } catch (const SqliteError& error) {
      if (!state.wal) plain = std::move(*view.connection);
      if (needs_recovery(error, state)) {
        copy();
      } else if (no_locks_here(error) && !state.wal) {
        immutable();
      } else if (const std::string problem = size_problem(plain.header());
                 (error.primary_code() == SQLITE_CORRUPT || error.primary_code() == SQLITE_NOTADB) && !state.wal &&
                 !problem.empty()) {
        refuse(name, problem + ". Restore a copy of it, or remove it and tune again.");
      } else {
        throw;
      }
    }
  }
  return view;
}

}  // namespace

void with_reader(const fs::path& given, const std::function<void(Connection&, FileKind)>& use) {
  const fs::path path = resolve(given);
  const std::string name = "'" + given.string() + "'";
  for (int attempt = 1;; ++attempt) {
    require_readable_file(path, name);
    const FileState before = state_of(path);
    bool trustworthy = false;
    try {
      View view = open_view(path, name, before);
      trustworthy = !view.unlocked;
      use(*view.connection, identify(*view.connection));
      if (trustworthy || state_of(path) == before) return;
    } catch (const DatabaseError&) {
      // An error may come from reading without locks while somebody wrote; only a repeatable one is the file's fault.
      if (trustworthy || state_of(path) == before) throw;
    }
    if (attempt == attempts) refuse(name, "it is being changed all the time. Wait until its writer has finished.");
    ::usleep(10'000);
  }
}

Connection connection_to_bytes(const std::string& bytes, const std::string& name_for_messages) {
  require_sqlite_features();
  const std::string name = "'" + name_for_messages + "'";
  const auto refuse_bytes = [&](const std::string& why) {
    refuse(name, why + ". Restore a copy of it, or remove it and tune again.");
  };
  if (bytes.empty()) refuse_bytes("it is empty (0 bytes), expected a database or snapshot");
  const FileHeader header = parse_header(bytes, bytes.size());
  if (!header.is_sqlite) refuse_bytes("it is not an SQLite database (it starts with other bytes)");
  if (const std::string problem = size_problem(header); !problem.empty()) refuse_bytes(problem);
  Connection view = Connection::from_image(bytes, /*writable=*/false, name);
  if (identify(view) == FileKind::empty) {
    refuse(name, "there is nothing in it, neither tables nor Arbiter's mark. Check its name, or tune first.");
  }
  return view;
}

Connection& prepare_view(Connection& view, std::optional<Connection>& migrated, std::span<const Migration> steps) {
  Connection* connection = &view;
  if (view.integer("PRAGMA user_version") < static_cast<std::int64_t>(steps.size())) {
    migrated = Connection::from_image(view.serialize(), /*writable=*/true, view.name());
    migrate(*migrated, steps);
    connection = &*migrated;
  }
  require_schema(*connection, steps);
  // Table by table: checking the samples of a large work database would take seconds.
  for (const char* table : {"environment", "candidate", "decision", "nccl_choice"}) {
    const std::string result = connection->text("PRAGMA integrity_check(" + std::string(table) + ")");
    if (result != "ok") {
      refuse(view.name(), "table " + std::string(table) + " is damaged: " + result +
                              ". Restore a copy of it, or remove it and tune again.");
    }
    Statement orphans(*connection, "PRAGMA foreign_key_check(" + std::string(table) + ")");
    if (orphans.step()) {
      refuse(view.name(), "table " + std::string(table) +
                              " names rows that are not there. Restore a copy of it, or "
                              "remove it and tune again.");
    }
  }
  return *connection;
}

}  // namespace arbiter::db
