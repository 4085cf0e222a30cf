#include "sqlite/sqlite.hpp"

#include <fmt/format.h>
#include <sqlite3.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <system_error>

#include "arbiter/db/database.hpp"
#include "arbiter/generator/file_size_signal.hpp"

namespace arbiter {

bool is_sqlite(std::string_view first_bytes) noexcept {
  constexpr std::string_view magic("SQLite format 3\0", 16);
  return first_bytes.starts_with(magic);
}

}  // namespace arbiter

namespace arbiter::db {
namespace {

constexpr int busy_timeout_ms = 10'000;
constexpr std::size_t header_bytes = 100;
constexpr std::size_t write_version_offset = 18;  // 2 when flagged for WAL, followed by the read version

/// SQLite reads '?', '#' and '%' in a URI as syntax, so everything unusual is escaped.
std::string file_uri(const std::filesystem::path& file, std::string_view parameters) {
  static constexpr std::string_view hex = "0123456789abcdef";
  std::string uri = "file:";
  for (const char c : file.native()) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("/._-").find(c) != std::string_view::npos;
    if (plain) {
      uri += c;
    } else {
      uri += '%';
      uri += hex[byte >> 4U];
      uri += hex[byte & 15U];
    }
  }
  uri += parameters;
  return uri;
}

std::string advice(int code) {
  switch (code & 0xff) {
    case SQLITE_FULL:
      return " Free some space and run again: what was committed before is kept.";
    case SQLITE_IOERR:
      return " Check the disk and its quota, and run again: what was committed before is kept.";
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_CANTOPEN:
      return " Check that the file and its directory exist and that you may write there.";
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return " Another program is using the file: wait for it or end it.";
    case SQLITE_CORRUPT:
      return " The file is damaged: restore a copy of it, or remove it and tune again.";
    case SQLITE_INTERRUPT:
      return " Reading it takes far more work than its size explains: it is damaged or was made to hang its readers. "
             "Do not use it.";
    case SQLITE_NOTADB:
      return " The file is not an SQLite database: check its name.";
    default:
      return "";
  }
}

std::uint64_t big_endian(std::string_view bytes, std::size_t offset, std::size_t count) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < count; ++i) value = value << 8U | static_cast<unsigned char>(bytes[offset + i]);
  return value;
}

/// Reading every row and checking every page takes less than a hundred operations for each row of some 30 bytes, and a
/// command reads a file a few times; what a small file may cost is about a second.
std::uint64_t allowance(std::uint64_t bytes) {
  constexpr std::uint64_t least_calls = 20'000;
  return least_calls + bytes / 4;
}

sqlite3_file* main_file(const Connection& connection) {
  sqlite3_file* file = nullptr;
  const int code = sqlite3_file_control(connection.handle(), "main", SQLITE_FCNTL_FILE_POINTER, &file);
  if (code != SQLITE_OK || file == nullptr || file->pMethods == nullptr) connection.fail(code, "cannot reach the file");
  return file;
}

}  // namespace

FileHeader parse_header(std::string_view first_bytes, std::uint64_t file_bytes) {
  FileHeader header;
  header.file_bytes = file_bytes;
  header.is_sqlite = is_sqlite(first_bytes);
  if (!header.is_sqlite || first_bytes.size() < header_bytes) return header;
  header.wal = first_bytes[write_version_offset] == 2 || first_bytes[write_version_offset + 1] == 2;
  header.page_bytes = big_endian(first_bytes, 16, 2);
  if (header.page_bytes == 1) header.page_bytes = 65536;
  // The count is trustworthy only when the "version valid for" number equals the change counter.
  if (big_endian(first_bytes, 24, 4) == big_endian(first_bytes, 92, 4)) header.pages = big_endian(first_bytes, 28, 4);
  return header;
}

std::string size_problem(const FileHeader& header) {
  const std::uint64_t promised = header.pages * header.page_bytes;
  if (header.is_sqlite && header.file_bytes < header_bytes) {
    return fmt::format("it is truncated: {} bytes are less than the header of a database", header.file_bytes);
  }
  if (promised == 0 || header.file_bytes == promised) return {};
  return fmt::format("{}{} bytes, but its header says {}",
                     header.file_bytes < promised ? "it is truncated: " : "something was appended to it: ",
                     header.file_bytes, promised);
}

// SQLite writes in more places than those that say so: closing empties the write-ahead log into the file, a read makes
// the index of that log or sorts in a temporary file, letting go of a statement may undo it. So every call into it that
// can reach the disk is made with SIGXFSZ blocked.
void Connection::Close::operator()(sqlite3* handle) const noexcept {
  const FileSizeSignalBlocked blocked;
  sqlite3_close_v2(handle);
}

Connection Connection::open_uri(const std::string& uri, int flags, std::string name) {
  const FileSizeSignalBlocked blocked;
  sqlite3* handle = nullptr;
  const int code = sqlite3_open_v2(uri.c_str(), &handle, flags | SQLITE_OPEN_URI | SQLITE_OPEN_FULLMUTEX, nullptr);
  Connection connection(handle, std::move(name));
  if (handle == nullptr) throw SqliteError(connection.name_ + ": out of memory while opening it.", SQLITE_NOMEM);
  sqlite3_extended_result_codes(handle, 1);
  if (code != SQLITE_OK) connection.fail(code, "cannot be opened");
  sqlite3_busy_timeout(handle, busy_timeout_ms);
  // The file may come from anywhere: its schema is text to be checked, never code to be trusted.
  sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_ENABLE_VIEW, 0, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_DQS_DML, 0, nullptr);
  sqlite3_exec(handle, "PRAGMA cell_size_check=ON", nullptr, nullptr, nullptr);
  return connection;
}

void Connection::limit_work(std::uint64_t bytes, bool for_each_statement) {
  constexpr int operations_per_call = 1000;
  work_ = std::make_unique<Work>(Work{allowance(bytes), for_each_statement});
  sqlite3_progress_handler(
      handle(), operations_per_call,
      [](void* given) {
        auto& left = static_cast<Work*>(given)->left;
        if (left == 0) return 1;
        --left;
        return 0;
      },
      work_.get());
}

void Connection::begin_statement() const {
  if (work_ == nullptr || !work_->for_each_statement) return;
  sqlite3_file* file = nullptr;
  sqlite3_int64 bytes = 0;
  const int code = sqlite3_file_control(handle(), "main", SQLITE_FCNTL_FILE_POINTER, &file);
  if (code == SQLITE_OK && file != nullptr && file->pMethods != nullptr) file->pMethods->xFileSize(file, &bytes);
  work_->left = allowance(static_cast<std::uint64_t>(bytes));
}

Connection Connection::open(const std::filesystem::path& file, Access access, std::string name) {
  const char* parameters = "?mode=ro";
  switch (access) {
    case Access::read:
      break;
    case Access::read_beside_wal:
      parameters = "?mode=ro&readonly_shm=1";
      break;
    case Access::read_immutable:
      parameters = "?mode=ro&immutable=1";
      break;
    case Access::write: {
      Connection writer =
          open_uri(file_uri(file, "?mode=rwc"), SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, std::move(name));
      writer.limit_work(0, /*for_each_statement=*/true);
      return writer;
    }
  }
  Connection connection = open_uri(file_uri(file, parameters), SQLITE_OPEN_READONLY, std::move(name));
  std::error_code unknown;
  const auto bytes = std::filesystem::file_size(file, unknown);
  connection.limit_work(unknown ? 0 : bytes, /*for_each_statement=*/false);
  return connection;
}

Connection Connection::memory(std::string name) {
  return open_uri(":memory:", SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, std::move(name));
}

Connection Connection::from_image(std::string_view image, bool writable, std::string name) {
  Connection connection = memory(std::move(name));
  auto* copy = static_cast<unsigned char*>(sqlite3_malloc64(image.size()));
  if (copy == nullptr) throw SqliteError(connection.name_ + ": out of memory while reading it.", SQLITE_NOMEM);
  std::memcpy(copy, image.data(), image.size());
  if (image.size() >= header_bytes && parse_header(image, image.size()).wal) {
    // An image in memory cannot have a -wal: flagged for one, SQLite would refuse to open it.
    copy[write_version_offset] = 1;
    copy[write_version_offset + 1] = 1;
  }
  const auto bytes = static_cast<sqlite3_int64>(image.size());
  const unsigned flags =
      SQLITE_DESERIALIZE_FREEONCLOSE | (writable ? SQLITE_DESERIALIZE_RESIZEABLE : SQLITE_DESERIALIZE_READONLY);
  const int code = sqlite3_deserialize(connection.handle(), "main", copy, bytes, bytes, flags);
  if (code != SQLITE_OK) connection.fail(code, "cannot be opened in memory");
  connection.limit_work(image.size(), /*for_each_statement=*/false);
  return connection;
}

void Connection::execute(std::string_view sql) {
  const FileSizeSignalBlocked blocked;
  begin_statement();
  const int code = sqlite3_exec(handle(), std::string(sql).c_str(), nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) fail(code, "a statement failed");
}

std::int64_t Connection::integer(std::string_view sql) {
  Statement statement(*this, sql);
  if (!statement.step()) fail(SQLITE_CORRUPT, "a query gave no row");
  return statement.integer(0);
}

std::string Connection::text(std::string_view sql) {
  Statement statement(*this, sql);
  if (!statement.step()) fail(SQLITE_CORRUPT, "a query gave no row");
  return statement.text(0);
}

std::string Connection::serialize() const {
  const FileSizeSignalBlocked blocked;
  sqlite3_int64 bytes = 0;
  const std::unique_ptr<unsigned char, decltype(&sqlite3_free)> image(sqlite3_serialize(handle(), "main", &bytes, 0),
                                                                      &sqlite3_free);
  if (image == nullptr) fail(sqlite3_extended_errcode(handle()), "cannot be read as a whole");
  std::string copy(reinterpret_cast<const char*>(image.get()), static_cast<std::size_t>(bytes));
  if (copy.size() >= header_bytes) copy[write_version_offset] = copy[write_version_offset + 1] = 1;
  return copy;
}

FileHeader Connection::header() const {
  sqlite3_file* file = main_file(*this);
  sqlite3_int64 bytes = 0;
  const int code = file->pMethods->xFileSize(file, &bytes);
  if (code != SQLITE_OK) fail(code, "cannot be read");
  const auto size = static_cast<std::uint64_t>(bytes);
  return parse_header(raw_bytes(0, std::min<std::uint64_t>(size, header_bytes)), size);
}

std::string Connection::raw_bytes(std::uint64_t offset, std::uint64_t count) const {
  sqlite3_file* file = main_file(*this);
  std::string bytes(count, '\0');
  if (count == 0) return bytes;
  const int code =
      file->pMethods->xRead(file, bytes.data(), static_cast<int>(count), static_cast<sqlite3_int64>(offset));
  if (code != SQLITE_OK) fail(code, "cannot be read");
  return bytes;
}

int Connection::changes() const noexcept { return sqlite3_changes(handle()); }
bool Connection::in_transaction() const noexcept { return sqlite3_get_autocommit(handle()) == 0; }

void Connection::fail(int code, std::string_view doing) const {
  // The connection's own message is the more telling one, when it is about this error.
  const bool same = sqlite3_extended_errcode(handle()) == code || (sqlite3_errcode(handle()) & 0xff) == (code & 0xff);
  std::string why = same ? sqlite3_errmsg(handle()) : sqlite3_errstr(code);
  const int system_error = sqlite3_system_errno(handle());
  const int primary = code & 0xff;
  if (system_error != 0 && (primary == SQLITE_IOERR || primary == SQLITE_CANTOPEN || primary == SQLITE_FULL)) {
    why += " (" + std::generic_category().message(system_error) + ")";
  }
  throw SqliteError(name_ + ": " + std::string(doing) + ": " + why + "." + advice(code), code);
}

void Statement::Finalize::operator()(sqlite3_stmt* statement) const noexcept {
  const FileSizeSignalBlocked blocked;
  sqlite3_finalize(statement);
}

Statement::Statement(const Connection& connection, std::string_view sql) : connection_(&connection) {
  const FileSizeSignalBlocked blocked;
  connection.begin_statement();
  sqlite3_stmt* statement = nullptr;
  const int code =
      sqlite3_prepare_v2(connection.handle(), sql.data(), static_cast<int>(sql.size()), &statement, nullptr);
  statement_.reset(statement);
  check(code);
}

void Statement::check(int code) const {
  if (code != SQLITE_OK) connection_->fail(code, "a statement failed");
}

bool Statement::step() {
  const FileSizeSignalBlocked blocked;
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code != SQLITE_DONE)
    connection_->fail(code, sqlite3_stmt_readonly(statement_.get()) != 0 ? "cannot be read" : "cannot be written");
  return false;
}

void Statement::run() {
  connection_->begin_statement();
  while (step()) {
  }
  const FileSizeSignalBlocked blocked;
  check(sqlite3_reset(statement_.get()));
}

void Statement::bind_integer(int index, std::int64_t value) {
  check(sqlite3_bind_int64(statement_.get(), index, value));
}
void Statement::bind_one(int index, double value) { check(sqlite3_bind_double(statement_.get(), index, value)); }
void Statement::bind_one(int index, std::nullopt_t) { check(sqlite3_bind_null(statement_.get(), index)); }
void Statement::bind_one(int index, std::string_view value) {
  // A null pointer would bind NULL, and an empty view may have one.
  const char* data = value.data() == nullptr ? "" : value.data();
  check(sqlite3_bind_text64(statement_.get(), index, data, value.size(), SQLITE_TRANSIENT, SQLITE_UTF8));
}

void Statement::bind_one(int index, Blob value) {
  check(sqlite3_bind_blob64(statement_.get(), index, value.bytes.data(), value.bytes.size(), SQLITE_TRANSIENT));
}

void Statement::expect_type(int column, int type) const {
  if (sqlite3_column_type(statement_.get(), column) == type) return;
  const char* name = sqlite3_column_name(statement_.get(), column);
  throw DatabaseError(connection_->name() + ": column " + (name != nullptr ? name : "?") +
                      " holds a value of the wrong type. The file is damaged or was edited by hand: restore a copy of "
                      "it, or remove it and tune again.");
}

bool Statement::is_null(int column) const { return sqlite3_column_type(statement_.get(), column) == SQLITE_NULL; }

std::int64_t Statement::integer(int column) const {
  expect_type(column, SQLITE_INTEGER);
  return sqlite3_column_int64(statement_.get(), column);
}

int Statement::small_integer(int column) const {
  const std::int64_t value = integer(column);
  if (value < std::numeric_limits<int>::min() || value > std::numeric_limits<int>::max()) {
    throw DatabaseError(
        fmt::format("{}: column {} is {}, which is out of range. The file is damaged or was edited by hand.",
                    connection_->name(), sqlite3_column_name(statement_.get(), column), value));
  }
  return static_cast<int>(value);
}

double Statement::real(int column) const {
  expect_type(column, SQLITE_FLOAT);
  return sqlite3_column_double(statement_.get(), column);
}

std::string Statement::text(int column) const {
  expect_type(column, SQLITE_TEXT);
  const auto* data = reinterpret_cast<const char*>(sqlite3_column_text(statement_.get(), column));
  if (data == nullptr) connection_->fail(SQLITE_NOMEM, "cannot be read");
  return {data, static_cast<std::size_t>(sqlite3_column_bytes(statement_.get(), column))};
}

std::string Statement::blob(int column) const {
  expect_type(column, SQLITE_BLOB);
  const auto* data = static_cast<const char*>(sqlite3_column_blob(statement_.get(), column));
  const auto bytes = static_cast<std::size_t>(sqlite3_column_bytes(statement_.get(), column));
  if (data == nullptr && bytes != 0) connection_->fail(SQLITE_NOMEM, "cannot be read");
  return data == nullptr ? std::string() : std::string(data, bytes);
}

Transaction::Transaction(Connection& connection) : connection_(&connection), nested_(connection.in_transaction()) {
  connection.execute(nested_ ? "SAVEPOINT nested" : "BEGIN IMMEDIATE");
}

Transaction::~Transaction() {
  // SQLite has rolled back already after some errors (disk full); then there is nothing to do.
  if (connection_ != nullptr && connection_->in_transaction()) {
    const FileSizeSignalBlocked blocked;
    sqlite3_exec(connection_->handle(), nested_ ? "ROLLBACK TO nested; RELEASE nested" : "ROLLBACK", nullptr, nullptr,
                 nullptr);
  }
}

void Transaction::commit() {
  connection_->execute(nested_ ? "RELEASE nested" : "COMMIT");
  connection_ = nullptr;
}

void require_sqlite_features() {
  static constexpr int oldest = 3'040'000;
  if (sqlite3_libversion_number() < oldest) {
    throw DatabaseError(std::string("the SQLite library is version ") + sqlite3_libversion() +
                        ", but 3.40.0 or newer is needed (STRICT tables). Install a newer SQLite.");
  }
  for (const char* missing :
       {"OMIT_WAL", "OMIT_FOREIGN_KEY", "OMIT_DESERIALIZE", "OMIT_VACUUM", "OMIT_INTEGRITY_CHECK", "THREADSAFE=0"}) {
    if (sqlite3_compileoption_used(missing) != 0) {
      throw DatabaseError(std::string("the SQLite library ") + sqlite3_libversion() + " was built with " + missing +
                          ", but Arbiter needs what that removes. Install an SQLite library built with its defaults.");
    }
  }
}

}  // namespace arbiter::db
