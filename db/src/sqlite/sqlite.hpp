// A thin, throwing layer over the SQLite C interface: connections, statements, transactions.
#pragma once

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "arbiter/error.hpp"

struct sqlite3;
struct sqlite3_stmt;

namespace arbiter::db {

/// A DatabaseError that remembers SQLite's extended result code, so that a reader can try another way in.
class SqliteError : public DatabaseError {
 public:
  SqliteError(const std::string& message, int code) : DatabaseError(message), code_(code) {}
  int code() const noexcept { return code_; }
  int primary_code() const noexcept { return code_ & 0xff; }

 private:
  int code_;
};

enum class Access : std::uint8_t {
  read,             ///< takes shared locks; never creates the file
  read_beside_wal,  ///< the same, and maps an existing -shm read-only, so that nothing beside the file is written
  read_immutable,   ///< no locks and no -wal: only when the caller knows that nobody changes the file
  write,            ///< creates the file if needed
};

/// The fixed part of the first 100 bytes of a database file.
struct FileHeader {
  std::uint64_t file_bytes = 0;
  bool is_sqlite = false;  ///< starts with SQLite's magic text
  bool wal = false;        ///< flagged for write-ahead logging
  std::uint64_t page_bytes = 0;
  std::uint64_t pages = 0;  ///< 0 when the header does not vouch for its own count
};
FileHeader parse_header(std::string_view first_bytes, std::uint64_t file_bytes);

/// Why a file of this size cannot hold what its header promises; empty if it can.
std::string size_problem(const FileHeader&);

class Connection {
 public:
  /// `name` is what messages call the database. `file` must be absolute; any character is allowed in it.
  static Connection open(const std::filesystem::path& file, Access, std::string name);
  /// An empty database in memory.
  static Connection memory(std::string name);
  /// A copy of a database image, in memory. The image may be flagged for WAL.
  static Connection from_image(std::string_view image, bool writable, std::string name);

  void execute(std::string_view sql);  ///< one or more statements, rows ignored
  std::int64_t integer(std::string_view sql);
  std::string text(std::string_view sql);

  /// The whole database as this connection sees it (with what is in its -wal), flagged as not using a WAL.
  std::string serialize() const;
  /// Read the main file itself, through SQLite's own descriptor: opening and closing the file a second time would
  /// drop the POSIX locks of every connection of this process.
  FileHeader header() const;
  std::string raw_bytes(std::uint64_t offset, std::uint64_t count) const;

  int changes() const noexcept;
  bool in_transaction() const noexcept;
  sqlite3* handle() const noexcept { return handle_.get(); }
  const std::string& name() const noexcept { return name_; }

  /// Throws SqliteError with the connection's last error: "<name>: <doing>: <why>. <what to do>".
  [[noreturn]] void fail(int code, std::string_view doing) const;

 private:
  struct Close {
    void operator()(sqlite3*) const noexcept;
  };
  Connection(sqlite3* handle, std::string name) : handle_(handle), name_(std::move(name)) {}
  static Connection open_uri(const std::string& uri, int flags, std::string name);

  /// Calls of the progress handler that are left.
  struct Work {
    std::uint64_t left = 0;
    bool for_each_statement = false;
  };
  /// Bound the work of everything that is read: pages that point to each other in a circle, or are shared by many
  /// others, would keep a query busy for ever. A writer may run as many statements as it likes, and each is bounded.
  void limit_work(std::uint64_t bytes, bool for_each_statement);
  void begin_statement() const;
  friend class Statement;

  std::unique_ptr<Work> work_;  ///< at a fixed address
  std::unique_ptr<sqlite3, Close> handle_;
  std::string name_;
};

/// Bytes to bind as a blob.
struct Blob {
  std::string_view bytes;
};

class Statement {
 public:
  Statement(const Connection&, std::string_view sql);

  /// Bind all parameters, in order, from the first.
  template <typename... Values>
  Statement& bind(const Values&... values) {
    int index = 0;
    (bind_one(++index, values), ...);
    return *this;
  }
  /// One parameter; the first has number 1.
  template <typename Value>
  Statement& bind_at(int index, const Value& value) {
    bind_one(index, value);
    return *this;
  }
  bool step();  ///< true: there is a row
  void run();   ///< step to the end and reset, ready for the next bind

  // Columns from 0. The stored type must be the asked one: throws DatabaseError otherwise.
  bool is_null(int column) const;
  std::int64_t integer(int column) const;
  int small_integer(int column) const;
  double real(int column) const;
  std::string text(int column) const;
  std::string blob(int column) const;

 private:
  struct Finalize {
    void operator()(sqlite3_stmt*) const noexcept;
  };
  template <std::integral Integer>
  void bind_one(int index, Integer value) {
    bind_integer(index, static_cast<std::int64_t>(value));
  }
  void bind_one(int index, double value);
  void bind_one(int index, std::string_view value);
  void bind_one(int index, Blob value);
  void bind_one(int index, std::nullopt_t);
  template <typename Value>
  void bind_one(int index, const std::optional<Value>& value) {
    if (value) {
      bind_one(index, *value);
    } else {
      bind_one(index, std::nullopt);
    }
  }
  void bind_integer(int index, std::int64_t value);
  void check(int code) const;
  void expect_type(int column, int type) const;

  const Connection* connection_;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
};

/// BEGIN IMMEDIATE ... COMMIT; rolled back unless committed. Inside another one: a part of it that can be rolled back.
class Transaction {
 public:
  explicit Transaction(Connection&);
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  ~Transaction();
  void commit();

 private:
  Connection* connection_;
  bool nested_;
};

/// Throws DatabaseError if the SQLite library lacks something this program needs.
void require_sqlite_features();

}  // namespace arbiter::db
