// Reading a database in any state, without writing anything in or beside it.
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <functional>

#include "child_process.hpp"
#include "db/fixtures.hpp"
#include "sqlite/reader.hpp"
#include "sqlite/sqlite.hpp"

namespace arbiter::test {
namespace {

using db::Access;
using db::Connection;
namespace fs = std::filesystem;

class ReaderTest : public ::testing::Test {
 protected:
  ScratchDirectory scratch;
  fs::path path = scratch / "work.db";
  std::vector<DecisionSet> expected = {{example_environment(), example_decisions()}};

  void make() { WorkDatabase::open(path).replace_decisions(example_environment(), example_decisions()); }

  void expect_readable_untouched(const fs::path& file) {
    const auto before = contents(scratch.path());
    EXPECT_EQ(read_decisions(file), expected);
    EXPECT_EQ(read_decisions_from_bytes(read_for_broadcast(file), "bytes"), expected);
    EXPECT_EQ(contents(scratch.path()), before) << "reading wrote something";
  }
};

/// Run `action` in a child as a user without privileges: permissions mean nothing to root.
int unprivileged(const std::function<int()>& action) {
  return exit_status_of(
      [&] { return ::geteuid() == 0 && (::setgid(65534) != 0 || ::setuid(65534) != 0) ? 100 : action(); });
}

void make_read_only(const fs::path& directory) {
  for (const auto& entry : fs::directory_iterator(directory)) ::chmod(entry.path().c_str(), 0444);
  ::chmod(directory.c_str(), 0555);
}

TEST_F(ReaderTest, AClosedWorkDatabase) {
  make();
  EXPECT_EQ(read_file(path)[18], 2) << "it is flagged for WAL, and there is none: mode=ro would create one";
  expect_readable_untouched(path);
}

TEST_F(ReaderTest, ASnapshot) {
  make();
  WorkDatabase::open(path).write_snapshot(scratch / "snapshot.db");
  expect_readable_untouched(scratch / "snapshot.db");
}

TEST_F(ReaderTest, ALiveWalIsHonoured) {
  WorkDatabase database = WorkDatabase::open(path);
  database.replace_decisions(example_environment(), example_decisions());
  ASSERT_GT(fs::file_size(scratch / "work.db-wal"), 0U);
  {
    // The trap: opened as immutable, the same file shows nothing of what was committed.
    Connection immutable = Connection::open(path, Access::read_immutable, "raw");
    EXPECT_THROW(immutable.integer("SELECT count(*) FROM decision"), DatabaseError);
  }
  EXPECT_EQ(read_decisions(path), expected);
  EXPECT_EQ(read_decisions_from_bytes(read_for_broadcast(path), "bytes"), expected);
  database.replace_decisions(example_environment(), {});
  EXPECT_TRUE(read_decisions(path).empty()) << "the newest commit counts";
}

TEST_F(ReaderTest, ALiveWalOfAnotherProcess) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    WorkDatabase database = WorkDatabase::open(path);
    database.replace_decisions(example_environment(), example_decisions());
    if (::write(ready[1], "x", 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  expect_readable_untouched(path);  // not even the -shm, which an ordinary reader writes to
  const auto mode = fs::status(scratch.path()).permissions();
  make_read_only(scratch.path());
  EXPECT_EQ(unprivileged([&] { return read_decisions(path) == expected ? 0 : 1; }), 0);
  fs::permissions(scratch.path(), mode);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(ReaderTest, ReadingDoesNotDropTheWritersLocks) {
  // POSIX locks of a process vanish when any descriptor of the file is closed. If reading in the same process did that,
  // another process could take the writer for dead, reset its -wal and lose what is committed after.
  WorkDatabase database = WorkDatabase::open(path);
  database.replace_decisions(example_environment(), example_decisions());
  EXPECT_EQ(read_decisions(path), expected);
  const int result = unprivileged([] { return 0; });
  ASSERT_EQ(result, 0);
  const pid_t child = ::fork();
  if (child == 0) {
    // An ordinary SQLite program: opens, reads, closes. Were it the last user, it would checkpoint and remove the -wal.
    {
      Connection other = Connection::open(path, Access::write, "other");
      other.integer("SELECT count(*) FROM decision");
    }
    ::_exit(0);
  }
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(fs::exists(scratch / "work.db-wal"));
  database.replace_decisions(other_environment(), example_decisions());
  { WorkDatabase closing = std::move(database); }
  EXPECT_EQ(read_decisions(path).size(), 2U);
}

TEST_F(ReaderTest, AWalLeftByACrash) {
  const pid_t child = ::fork();
  if (child == 0) {
    WorkDatabase database = WorkDatabase::open(path);
    database.replace_decisions(example_environment(), example_decisions());
    ::kill(::getpid(), SIGKILL);
  }
  ::waitpid(child, nullptr, 0);
  ASSERT_TRUE(fs::exists(scratch / "work.db-wal"));
  ASSERT_TRUE(fs::exists(scratch / "work.db-shm"));
  expect_readable_untouched(path);
  fs::remove(scratch / "work.db-shm");  // as after copying the two files from another machine
  expect_readable_untouched(path);
  fs::remove(scratch / "work.db.lock");
  ::chmod(scratch.path().c_str(), 0755);
  make_read_only(scratch.path());
  EXPECT_EQ(unprivileged([&] { return read_decisions(path) == expected ? 0 : 1; }), 0) << "no -shm, read-only";
}

TEST_F(ReaderTest, AWalThatNeverGotAnyContent) {
  // Killed between the header of the -wal and its first commit, or a -wal full of rubbish after a loss of power.
  for (const bool rubbish : {false, true}) {
    make();
    const pid_t child = ::fork();
    if (child == 0) {
      WorkDatabase database = WorkDatabase::open(path);
      database.replace_decisions(example_environment(), {});
      ::kill(::getpid(), SIGKILL);
    }
    ::waitpid(child, nullptr, 0);
    if (rubbish) {
      write_file(scratch / "work.db-wal", std::string(5000, 'x'));
    } else {
      fs::resize_file(scratch / "work.db-wal", 32);
    }
    const auto start = std::chrono::steady_clock::now();
    expect_readable_untouched(path);
    // Milliseconds, or SQLite's 10 s of trying again: a clock that it does not let be given, far from both.
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5)) << "SQLite kept trying";
    EXPECT_EQ(WorkDatabase::open(path).decisions(), expected) << "a writer is not stopped by it";
  }
}

TEST_F(ReaderTest, AWalLeftByACrashInAReadOnlyDirectory) {
  const pid_t child = ::fork();
  if (child == 0) {
    WorkDatabase database = WorkDatabase::open(path);
    database.replace_decisions(example_environment(), example_decisions());
    ::kill(::getpid(), SIGKILL);
  }
  ::waitpid(child, nullptr, 0);
  make_read_only(scratch.path());
  EXPECT_EQ(unprivileged([&] { return read_decisions(path) == expected ? 0 : 1; }), 0);
}

TEST_F(ReaderTest, AReadOnlyDirectory) {
  make();
  WorkDatabase::open(path).write_snapshot(scratch / "snapshot.db");
  make_read_only(scratch.path());
  EXPECT_EQ(unprivileged([&] {
              try {  // the trap: mode=ro fails here on a file that is flagged for WAL
                Connection plain = Connection::open(path, Access::read, "raw");
                plain.integer("SELECT count(*) FROM decision");
                return 1;
              } catch (const DatabaseError&) {
              }
              if (read_decisions(path) != expected || read_decisions(scratch / "snapshot.db") != expected) return 2;
              if (read_decisions_from_bytes(read_for_broadcast(path), "x") != expected) return 3;
              try {
                WorkDatabase::open(path);
                return 4;
              } catch (const DatabaseError& error) {
                return std::string(error.what()).find("Permission denied") != std::string::npos ? 0 : 5;
              }
            }),
            0);
}

TEST_F(ReaderTest, AFileThatMayNotBeRead) {
  make();
  ::chmod(path.c_str(), 0);
  ::chmod(scratch.path().c_str(), 0755);
  EXPECT_EQ(unprivileged([&] {
              try {
                read_decisions(path);
                return 1;
              } catch (const DatabaseError& error) {
                return std::string(error.what()).find("cannot be read: Permission denied") != std::string::npos ? 0 : 2;
              }
            }),
            0);
}

TEST_F(ReaderTest, ARollbackJournalDatabaseInUse) {
  make();
  Connection writer = Connection::open(path, Access::write, "writer");
  ASSERT_EQ(writer.text("PRAGMA journal_mode = DELETE"), "delete");  // as on a network filesystem
  expect_readable_untouched(path);
  writer.execute("BEGIN IMMEDIATE; DELETE FROM decision");  // not committed: a journal is there, but not hot
  expect_readable_untouched(path);
  writer.execute("ROLLBACK");
  expect_readable_untouched(path);
}

TEST_F(ReaderTest, AChangeWhileReadingWithoutLocksIsNoticed) {
  make();
  int views = 0;
  std::int64_t decisions = 0;
  db::with_reader(path, [&](Connection& view, db::FileKind) {
    if (++views == 1) WorkDatabase::open(path).replace_decisions(example_environment(), example_decisions(3));
    decisions = view.integer("SELECT count(*) FROM decision");
  });
  EXPECT_EQ(views, 2) << "the first view may be a mixture of old and new pages";
  EXPECT_EQ(decisions, 3);
  // An error in such a view is not the file's fault either.
  views = 0;
  db::with_reader(path, [&](Connection&, db::FileKind) {
    if (++views > 1) return;
    WorkDatabase::open(path).replace_decisions(example_environment(), example_decisions(4));
    throw DatabaseError("torn");
  });
  EXPECT_EQ(views, 2);
  views = 0;
  const auto always = [&](Connection&, db::FileKind) {
    WorkDatabase::open(path).replace_decisions(example_environment(), example_decisions(1 + ++views % 5));
  };
  EXPECT_CONTAINS(message_of([&] { db::with_reader(path, always); }), "changed all the time");
}

TEST_F(ReaderTest, AHotJournalLeftByACrash) {
  make();
  Connection(Connection::open(path, Access::write, "raw")).text("PRAGMA journal_mode = DELETE");
  const pid_t child = ::fork();
  if (child == 0) {
    // A tiny cache makes the transaction spill into the main file, then the process dies.
    Connection writer = Connection::open(path, Access::write, "writer");
    writer.execute("PRAGMA cache_size = 1; PRAGMA cache_spill = 1; BEGIN IMMEDIATE");
    writer.execute("DELETE FROM decision; DELETE FROM candidate");
    writer.execute(
        "CREATE TABLE junk AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5000) "
        "SELECT i, hex(zeroblob(100)) AS text FROM n");
    ::kill(::getpid(), SIGKILL);
  }
  ::waitpid(child, nullptr, 0);
  ASSERT_TRUE(fs::exists(scratch / "work.db-journal"));
  {
    // The trap: read as it lies there, the main file is half of a transaction.
    Connection immutable = Connection::open(path, Access::read_immutable, "raw");
    EXPECT_ANY_THROW({
      if (immutable.integer("SELECT count(*) FROM decision") != static_cast<std::int64_t>(example_decisions().size())) {
        throw DatabaseError("half a transaction");
      }
    });
  }
  expect_readable_untouched(path);
  EXPECT_EQ(WorkDatabase::open(path).decisions(), expected) << "a writer recovers the file itself";
  EXPECT_FALSE(fs::exists(scratch / "work.db-journal"));
}

TEST_F(ReaderTest, BytesFlaggedForWal) {
  make();
  const std::string bytes = read_file(path);
  ASSERT_EQ(bytes[18], 2);
  {
    // The trap: SQLite takes such an image into memory as it is, and then cannot open it.
    Connection memory = Connection::memory("raw");
    std::string copy = bytes;
    ASSERT_EQ(sqlite3_deserialize(memory.handle(), "main", reinterpret_cast<unsigned char*>(copy.data()),
                                  static_cast<sqlite3_int64>(copy.size()), static_cast<sqlite3_int64>(copy.size()),
                                  SQLITE_DESERIALIZE_READONLY),
              SQLITE_OK);
    EXPECT_THROW(memory.integer("SELECT count(*) FROM decision"), DatabaseError);
  }
  EXPECT_EQ(read_decisions_from_bytes(bytes, "image"), expected);
}

TEST_F(ReaderTest, ThroughALink) {
  make();
  fs::create_directory(scratch / "links");
  fs::create_symlink(path, scratch / "links" / "current.db");
  EXPECT_EQ(read_decisions(scratch / "links" / "current.db"), expected);
  WorkDatabase live = WorkDatabase::open(path);
  live.replace_decisions(example_environment(), {});
  EXPECT_TRUE(read_decisions(scratch / "links" / "current.db").empty()) << "the -wal lies beside the target";
}

TEST_F(ReaderTest, ThingsThatAreNotFiles) {
  EXPECT_CONTAINS(message_of([&] { read_decisions(scratch / "missing.db"); }), "does not exist");
  EXPECT_CONTAINS(message_of([&] { read_decisions(scratch / "no" / "such.db"); }), "such.db");
  EXPECT_CONTAINS(message_of([&] { read_decisions(scratch.path()); }), "is a directory");
  ASSERT_EQ(::mkfifo((scratch / "pipe").c_str(), 0600), 0);
  EXPECT_CONTAINS(message_of([&] { read_decisions(scratch / "pipe"); }), "not a regular file");
  EXPECT_CONTAINS(message_of([&] { read_decisions("/dev/zero"); }), "not a regular file");
  fs::create_symlink(scratch / "nowhere", scratch / "dangling");
  EXPECT_CONTAINS(message_of([&] { read_decisions(scratch / "dangling"); }), "does not exist");
  write_file(scratch / "empty.db", "");
  EXPECT_CONTAINS(message_of([&] { read_decisions(scratch / "empty.db"); }), "0 bytes");
  EXPECT_CONTAINS(message_of([&] { read_decisions_from_bytes("", "nothing"); }), "0 bytes");
  EXPECT_EQ(contents(scratch.path()).size(), 3U) << "nothing was created";
}

TEST_F(ReaderTest, LargeWorkDatabasesAreNotCheckedRowByRow) {
  // Decisions are read from their own tables; a damaged sample is no reason to refuse them.
  {
    WorkDatabase database = WorkDatabase::open(path);
    const std::string run = database.begin_run(example_environment(), {});
    database.begin_trial(run, example_environment(), example_problem(), example_candidate());
    database.finish_trial(run, example_environment(), done_trial());
    database.replace_decisions(example_environment(), example_decisions());
  }
  Connection raw = Connection::open(path, Access::write, "raw");
  raw.execute("PRAGMA ignore_check_constraints = ON; UPDATE sample SET us = -1");
  EXPECT_EQ(read_decisions(path), expected);
}

}  // namespace
}  // namespace arbiter::test
