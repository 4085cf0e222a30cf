// One writer at a time, where it may write, and what is left behind.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "db/fixtures.hpp"
#include "sqlite/files.hpp"
#include "sqlite/sqlite.hpp"
#include "sqlite/work_database.hpp"

namespace arbiter::test {
namespace {

TEST(WriterTest, ASecondWriterIsToldWhoHoldsTheDatabase) {
  ScratchDirectory scratch;
  const auto path = scratch / "work.db";
  {
    WorkDatabase first = WorkDatabase::open(path);
    const std::string message = message_of([&] { WorkDatabase::open(path); });
    EXPECT_CONTAINS(message, "process " + std::to_string(::getpid()) + " on ");
    EXPECT_CONTAINS(message, "work.db");
    first.begin_run(example_environment(), {});  // still works
  }
  EXPECT_NO_THROW(WorkDatabase::open(path)) << "the lock goes with its holder";
}

TEST(WriterTest, AnotherNameOfTheSameFileIsTheSameDatabase) {
  ScratchDirectory scratch;
  WorkDatabase first = WorkDatabase::open(scratch / "work.db");
  std::filesystem::create_symlink(scratch / "work.db", scratch / "alias.db");
  EXPECT_CONTAINS(message_of([&] { WorkDatabase::open(scratch / "alias.db"); }), "is being written by");
  EXPECT_CONTAINS(message_of([&] { WorkDatabase::open(scratch / "." / "work.db"); }), "is being written by");
}

TEST(WriterTest, AWriterInAnotherProcessHoldsItUntilItDies) {
  ScratchDirectory scratch;
  const auto path = scratch / "work.db";
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    WorkDatabase database = WorkDatabase::open(path);
    if (::write(ready[1], "x", 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_CONTAINS(message_of([&] { WorkDatabase::open(path); }), "process " + std::to_string(child) + " on ");
  EXPECT_TRUE(read_decisions(path).empty()) << "reading is always possible";
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_NO_THROW(WorkDatabase::open(path)) << "a lock file without a living holder is no obstacle";
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST(WriterTest, NeverTwoHoldersHoweverFastTheyChange) {
  // A holder removes the lock file; a waiter that opened it just before must not take the orphan for the lock.
  ScratchDirectory scratch;
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    children.push_back(::fork());
    if (children.back() != 0) continue;
    for (int held = 0; held < 500;) {
      try {
        const db::WriterLock lock(scratch / "work.db");
        const int alone = ::open((scratch / "alone").c_str(), O_CREAT | O_EXCL | O_WRONLY, 0600);
        if (alone < 0) ::_exit(1);
        ::close(alone);
        ::unlink((scratch / "alone").c_str());
        ++held;
      } catch (const DatabaseError&) {
      }
    }
    ::_exit(0);
  }
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0) << "two processes held the lock at once";
  }
}

TEST(WriterTest, NothingIsLeftBesideAClosedDatabase) {
  ScratchDirectory scratch;
  {
    WorkDatabase database = WorkDatabase::open(scratch / "work.db");
    database.begin_run(example_environment(), {});
  }
  const auto all = contents(scratch.path());
  ASSERT_EQ(all.size(), 1U);
  EXPECT_EQ(all[0].first, "work.db");
}

TEST(WriterTest, ASettingsCheck) {
  ScratchDirectory scratch;
  WorkDatabase database = WorkDatabase::open(scratch / "work.db");
  database.begin_run(example_environment(), {});
  EXPECT_TRUE(std::filesystem::exists(scratch / "work.db-wal")) << "WAL on a local disk";
}

TEST(WriterTest, NamesWithUnusualCharacters) {
  for (const char* name : {"with space.db", "what?.db", "100%.db", "%41.db", "a#b.db", "file:x.db", "ü&mode=ro.db",
                           "quote'\".db", "?mode=memory", "-wal", "tab\tnewline\n.db"}) {
    ScratchDirectory scratch;
    const auto path = scratch / name;
    {
      WorkDatabase database = WorkDatabase::open(path);
      database.begin_run(example_environment(), {});
      database.replace_decisions(example_environment(), example_decisions());
      EXPECT_EQ(read_decisions(path).size(), 1U) << name << " (live)";
      database.write_snapshot(scratch / ("snapshot " + std::string(name)));
    }
    EXPECT_TRUE(std::filesystem::exists(path)) << name;
    EXPECT_EQ(read_decisions(path).size(), 1U) << name;
    EXPECT_EQ(read_decisions(scratch / ("snapshot " + std::string(name))).size(), 1U) << name;
    EXPECT_EQ(contents(scratch.path()).size(), 2U) << name << ": exactly the two files";
  }
}

TEST(WriterTest, RelativeNames) {
  ScratchDirectory scratch;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(scratch.path());
  { WorkDatabase::open("relative.db").replace_decisions(example_environment(), example_decisions()); }
  EXPECT_EQ(read_decisions("relative.db").size(), 1U);
  EXPECT_EQ(read_decisions("./relative.db").size(), 1U);
  std::filesystem::current_path(before);
  EXPECT_TRUE(std::filesystem::exists(scratch / "relative.db"));
}

TEST(WriterTest, PlacesThatCannotBeUsed) {
  ScratchDirectory scratch;
  EXPECT_CONTAINS(message_of([&] { WorkDatabase::open(scratch / "missing" / "work.db"); }), "Create the directory");
  EXPECT_CONTAINS(message_of([&] { WorkDatabase::open(scratch.path()); }), "not a regular file");
  EXPECT_CONTAINS(message_of([&] { WorkDatabase::open(""); }), "not the name of a file");
  EXPECT_CONTAINS(message_of([&] { WorkDatabase::open(scratch.path() / ""); }), "not the name of a file");
  ASSERT_EQ(::mkfifo((scratch / "pipe").c_str(), 0600), 0);
  EXPECT_CONTAINS(message_of([&] { WorkDatabase::open(scratch / "pipe"); }), "not a regular file");
  EXPECT_CONTAINS(message_of([&] { WorkDatabase::open("/dev/null"); }), "not a regular file");
  EXPECT_EQ(contents(scratch.path() / "").size(), 1U) << "only the pipe: nothing was created";
}

TEST(WriterTest, NetworkFilesystemsAreRecognised) {
  EXPECT_TRUE(db::is_network_filesystem(0x6969)) << "NFS";
  EXPECT_TRUE(db::is_network_filesystem(0x0BD00BD0)) << "Lustre";
  EXPECT_TRUE(db::is_network_filesystem(0xFF534D42)) << "CIFS";
  EXPECT_TRUE(db::is_network_filesystem(0x65735546)) << "FUSE";
  EXPECT_FALSE(db::is_network_filesystem(0xEF53)) << "ext4";
  EXPECT_FALSE(db::is_network_filesystem(0x58465342)) << "xfs";
  EXPECT_FALSE(db::is_network_filesystem(0x01021994)) << "tmpfs";
  EXPECT_FALSE(db::is_network_filesystem(0x794C7630)) << "overlayfs";
  EXPECT_FALSE(db::on_network_filesystem("/dev/shm/x"));
  EXPECT_FALSE(db::on_network_filesystem("/nonexistent/x"));
}

TEST(WriterTest, OnANetworkFilesystemThereIsNoWal) {
  ScratchDirectory scratch;
  const auto path = scratch / "work.db";
  std::filesystem::path asked;
  const auto nfs = [&](const std::filesystem::path& directory) {
    asked = directory;
    return std::uint64_t{0x6969};
  };
  { WorkDatabase::open(path).replace_decisions(example_environment(), example_decisions(3)); }
  ASSERT_EQ(read_file(path)[18], 2) << "it was flagged for WAL on a local disk";
  {
    db::Connection connection = db::open_for_writing(path, "'work.db'", nfs);
    EXPECT_EQ(asked, scratch.path());
    EXPECT_EQ(connection.text("PRAGMA journal_mode"), "delete");
    EXPECT_EQ(connection.integer("PRAGMA synchronous"), 2) << "FULL";
    EXPECT_EQ(connection.integer("PRAGMA foreign_keys"), 1);
    db::Transaction transaction(connection);
    connection.execute("DELETE FROM decision");
    EXPECT_FALSE(std::filesystem::exists(scratch / "work.db-wal"));
    EXPECT_FALSE(std::filesystem::exists(scratch / "work.db-shm")) << "memory that other hosts do not see";
    transaction.commit();
  }
  EXPECT_EQ(read_file(path)[18], 1);
  EXPECT_TRUE(read_decisions(path).empty());
  db::Connection local = db::open_for_writing(path, "'work.db'", [](const auto&) { return std::uint64_t{0xEF53}; });
  EXPECT_EQ(local.text("PRAGMA journal_mode"), "wal") << "copied to a local disk, it uses a WAL again";
}

TEST(WriterTest, TheLibraryHasWhatIsNeeded) { EXPECT_NO_THROW(db::require_sqlite_features()); }

}  // namespace
}  // namespace arbiter::test
