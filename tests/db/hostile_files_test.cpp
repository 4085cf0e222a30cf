// Databases and what lies beside them, made by somebody who means harm: nothing hangs, nothing is replayed, nothing is
// written through a link.
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>

#include "arbiter/db/kernels.hpp"
#include "db/fixtures.hpp"
#include "db/hostile.hpp"
#include "sqlite/files.hpp"
#include "sqlite/sqlite.hpp"

namespace arbiter::test {
namespace {

using db::Access;
using db::Connection;
namespace fs = std::filesystem;

/// The message of the DatabaseError, in a child that is killed after a minute: "hung" then, "read" without an error.
std::string outcome(const std::function<void()>& action) {
  int ends[2];
  if (::pipe(ends) != 0) return "no pipe";
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(60);
    std::string text = "read";
    try {
      action();
    } catch (const DatabaseError& error) {
      text = error.what();
    }
    (void)!::write(ends[1], text.data(), text.size());
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string text(4096, '\0');
  const ssize_t count = ::read(ends[0], text.data(), text.size());
  text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) return WTERMSIG(status) == SIGALRM ? "hung" : "crashed";
  return text;
}

class HostileFilesTest : public ::testing::Test {
 protected:
  HostileFilesTest() {
    WorkDatabase work = WorkDatabase::open(scratch / "work.db");
    work.replace_decisions(example_environment(), example_decisions(4));
    work.write_snapshot(snapshot);
  }
  static void write(const fs::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }
  /// A rollback journal that would set the snapshot's first decision to another time.
  std::string hot_journal() {
    const fs::path copy = scratch / "copy.db";
    fs::copy_file(snapshot, copy);
    std::string journal;
    {
      Connection writer = Connection::open(copy, Access::write, "writer");
      writer.execute("PRAGMA cache_spill = 1; PRAGMA cache_size = 1; BEGIN; UPDATE decision SET median_us = 0.25");
      writer.execute(
          "UPDATE environment SET gpu_name = 'changed'; UPDATE candidate SET source_hash = source_hash || ''");
      sqlite3_db_cacheflush(writer.handle());
      journal = read_file(copy.string() + "-journal");
      writer.execute("ROLLBACK");
    }
    return journal;
  }

  ScratchDirectory scratch;
  fs::path snapshot = scratch / "snapshot.db";
};

TEST_F(HostileFilesTest, SharedPagesDoNotHangReaders) {
  for (const char* table : {"candidate", "decision", "environment"}) {
    const std::string bytes = with_shared_pages(snapshot, table);
    write(scratch / "evil.db", bytes);
    EXPECT_CONTAINS(outcome([&] { read_decisions(scratch / "evil.db"); }), "is damaged") << table;
    EXPECT_CONTAINS(outcome([&] { read_decisions_from_bytes(bytes, "evil.db"); }), "is damaged") << table;
  }
}

TEST_F(HostileFilesTest, EveryQueryOfAReaderHasABudget) {
  const std::string bytes = with_shared_pages(snapshot, "decision");
  write(scratch / "evil.db", bytes);
  const auto scan = [](Connection connection) { connection.integer("SELECT count(DISTINCT median_us) FROM decision"); };
  for (const Access access : {Access::read, Access::read_immutable, Access::write})
    EXPECT_CONTAINS(outcome([&] { scan(Connection::open(scratch / "evil.db", access, "evil.db")); }), "far more work");
  EXPECT_CONTAINS(outcome([&] { scan(Connection::from_image(bytes, false, "evil.db")); }), "far more work");
}

TEST_F(HostileFilesTest, ASnapshotNeverHasAJournal) {
  const auto before = read_decisions(snapshot);
  const std::string journal = hot_journal();
  ASSERT_GT(journal.size(), page_bytes);
  for (const char* suffix : {"-journal"}) {
    write(snapshot.string() + suffix, journal);
    EXPECT_CONTAINS(outcome([&] { read_decisions(snapshot); }), "never has a journal");
    EXPECT_CONTAINS(outcome([&] { read_for_broadcast(snapshot); }), "never has a journal");
    fs::remove(snapshot.string() + suffix);
  }
  EXPECT_EQ(read_decisions(snapshot), before);
}

TEST_F(HostileFilesTest, AJournalOfAnotherUserIsNotReplayed) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  const fs::path work = scratch / "work.db";
  for (const char* suffix : {"-wal", "-journal"}) {
    const fs::path beside = work.string() + suffix;
    write(beside, std::string("\xd9\xd5\x05\xf9\x20\xa1\x63\xd7") + std::string(600, '\0'));
    ASSERT_EQ(::chown(work.c_str(), 1234, 1234), 0);
    ASSERT_EQ(::chown(beside.c_str(), 65534, 65534), 0);
    EXPECT_CONTAINS(outcome([&] { read_decisions(work); }), "belongs to user 65534");
    EXPECT_CONTAINS(outcome([&] { WorkDatabase::open(work); }), "belongs to user 65534");
    fs::remove(beside);
    fs::create_symlink(scratch / "elsewhere", beside);
    EXPECT_CONTAINS(outcome([&] { WorkDatabase::open(work); }), "no regular file");
    EXPECT_FALSE(fs::exists(scratch / "elsewhere"));
    fs::remove(beside);
  }
  EXPECT_EQ(outcome([&] { WorkDatabase::open(work); }), "read");
}

TEST_F(HostileFilesTest, TheLockFileIsNoWayToOtherFiles) {
  const fs::path work = scratch / "work.db", lock = scratch / "work.db.lock", precious = scratch / "precious";
  write(precious, "a thesis");
  fs::create_symlink(precious, lock);
  EXPECT_CONTAINS(outcome([&] { WorkDatabase::open(work); }), "work.db.lock");
  fs::remove(lock);
  fs::create_hard_link(precious, lock);
  EXPECT_CONTAINS(outcome([&] { WorkDatabase::open(work); }), "not a lock file");
  EXPECT_TRUE(fs::exists(lock));
  fs::remove(lock);
  write(lock, "somebody's notes");
  EXPECT_CONTAINS(outcome([&] { WorkDatabase::open(work); }), "not a lock file");
  EXPECT_EQ(read_file(lock), "somebody's notes");
  EXPECT_EQ(read_file(precious), "a thesis");
}

TEST_F(HostileFilesTest, AFileWithTwoNamesHasNoWriter) {
  const fs::path work = scratch / "work.db";
  fs::create_hard_link(work, scratch / "other.db");
  for (const char* name : {"work.db", "other.db"})
    EXPECT_CONTAINS(outcome([&] { WorkDatabase::open(scratch / name); }), "2 names");
  fs::remove(scratch / "other.db");
  EXPECT_EQ(outcome([&] { WorkDatabase::open(work); }), "read");
}

TEST_F(HostileFilesTest, AMountPointHasNoWriter) {
  write(scratch / "mounted.db", "");
  const fs::path mounted = scratch / "mounted.db";
  if (::mount((scratch / "work.db").c_str(), mounted.c_str(), nullptr, MS_BIND, nullptr) != 0)
    GTEST_SKIP() << "mounting is not allowed here";
  const std::string what = outcome([&] { WorkDatabase::open(mounted); });
  ::umount(mounted.c_str());
  EXPECT_CONTAINS(what, "mount point");
}

TEST_F(HostileFilesTest, TheLockFollowsAFileThatIsRenamed) {
  WorkDatabase writer = WorkDatabase::open(scratch / "work.db");
  for (const char* suffix : {"", "-wal", "-shm"})
    fs::rename(scratch / (std::string("work.db") + suffix), scratch / (std::string("moved.db") + suffix));
  EXPECT_CONTAINS(outcome([&] { WorkDatabase::open(scratch / "moved.db"); }), "under another name");
}

/// For a GPU that is newer than the compiler a kernel is PTX, which is text and no ELF file.
TEST_F(HostileFilesTest, AKernelInPtxIsReadAndOneThatIsNoTextIsRefused) {
  const auto snapshot_with = [&](const std::string& target, const std::string& image) {
    StoredKernel kernel{std::string(64, 'a'), "trtllm/oneshot_push rank=0", std::string(64, 'b'), {}};
    kernel.kernel.image = image;
    kernel.kernel.entry = "arbiter_kernel";
    kernel.kernel.target = target;
    write_snapshot(scratch / "kernels.db", {{example_environment(), example_decisions(1)}}, {kernel});
    return read_kernels_from_bytes(read_for_broadcast(scratch / "kernels.db"), "kernels.db");
  };
  const std::string ptx = ".version 9.0\n.target compute_121\n";
  ASSERT_EQ(snapshot_with("compute_121", ptx).size(), 1U);
  EXPECT_EQ(snapshot_with("compute_121", ptx).front().kernel.image, ptx);
  EXPECT_CONTAINS(outcome([&] { snapshot_with("compute_121", ptx + '\0' + ptx); }), "no PTX text");
  EXPECT_CONTAINS(outcome([&] { snapshot_with("sm_90a", ptx); }), "ELF");
}

TEST_F(HostileFilesTest, CarriedKernelsAreCountedAndNotLoaded) {
  EXPECT_EQ(carried_kernels(snapshot).count, 0U);
  EXPECT_EQ(not_loaded("snapshot.db", carried_kernels(snapshot)), "");
  StoredKernel kernel{std::string(64, 'a'), "trtllm/oneshot_push rank=0", std::string(64, 'b'), {}};
  kernel.kernel = {".version 9.0\n", "arbiter_kernel", "compute_121", {}};
  write_snapshot(scratch / "kernels.db", {{example_environment(), example_decisions(1)}}, {kernel});
  const std::string expected =
      "'kernels\\x1b.db' carries 1 compiled kernel, made on " + example_environment().gpu_name + ", not loaded";
  EXPECT_EQ(not_loaded("kernels\x1b.db", carried_kernels(scratch / "kernels.db")), expected);
  const std::string bytes = read_for_broadcast(scratch / "kernels.db");
  EXPECT_EQ(not_loaded("kernels\x1b.db", carried_kernels_in_bytes(bytes, "bytes")), expected);
  EXPECT_EQ(carried_kernels(scratch / "work.db").count, 0U);
}

TEST(LockAdvice, NamesTheCause) {
  EXPECT_CONTAINS(db::lock_advice(ENOSYS), "Lustre");
  EXPECT_CONTAINS(db::lock_advice(ENOTSUP), "arbiter merge");
  EXPECT_EQ(db::lock_advice(EACCES), "");
}

TEST_F(HostileFilesTest, DeepJsonIsAnError) {
  for (const std::string& text :
       {std::string(100'000, '['), "{\"a\":" + std::string(100'000, '['), "{\"a\":" + std::string(100'000, '{')}) {
    write_with_json(snapshot, scratch / "evil.db", text);
    EXPECT_CONTAINS(outcome([&] { read_decisions(scratch / "evil.db"); }), "nested deeper than 1");
  }
}

TEST(NamesTest, HoldNoControlCharactersAndHaveALength) {
  ScratchDirectory scratch;
  WorkDatabase database = WorkDatabase::open(scratch / "work.db");
  for (const char* evil : {"H200\n__import__('os').system('id')", "\x1b[2J", "a\x7f",
                           "a\xc2\x9b"
                           "2J"}) {
    Environment environment = example_environment();
    environment.gpu_name = evil;
    EXPECT_THROW(database.replace_decisions(environment, example_decisions(2)), DatabaseError);
    std::vector<Decision> decisions = example_decisions(2);
    decisions[0].candidate.name = evil;
    EXPECT_THROW(database.replace_decisions(example_environment(), decisions), DatabaseError);
    decisions = example_decisions(2);
    decisions[0].pattern = evil;
    EXPECT_THROW(database.replace_decisions(example_environment(), decisions), DatabaseError);
  }
  std::vector<Decision> decisions = example_decisions(2);
  decisions[0].candidate.name = std::string(201, 'a');
  EXPECT_THROW(database.replace_decisions(example_environment(), decisions), DatabaseError);
  decisions[0].candidate.name = std::string(200, 'a');
  EXPECT_NO_THROW(database.replace_decisions(example_environment(), decisions));
}

}  // namespace
}  // namespace arbiter::test
