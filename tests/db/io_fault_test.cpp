// An I/O error or a full disk at every single write, sync, truncation and deletion that SQLite makes: the call says so,
// what was committed before stays, and the next run goes on.
#include <sqlite3.h>

#include <cstring>

#include "db/fixtures.hpp"
#include "sqlite/sqlite.hpp"

namespace arbiter::test {
namespace {

/// What fails, and when: the `fails_at`-th operation that changes a file, and all later ones if it lasts.
struct Plan {
  int fails_at = 0;  ///< 0: nothing fails
  bool lasts = false;
  int code = SQLITE_OK;
  int seen = 0;

  bool strikes() {
    ++seen;
    return fails_at != 0 && (seen == fails_at || (lasts && seen > fails_at));
  }
};

/// SQLite's own file system, in between which the plan strikes.
class FaultyFileSystem {
 public:
  FaultyFileSystem() : real_(sqlite3_vfs_find(nullptr)), vfs_(*real_) {
    vfs_.szOsFile = static_cast<int>(sizeof(File)) + real_->szOsFile;
    vfs_.zName = "faulty";
    vfs_.pNext = nullptr;
    vfs_.pAppData = this;
    vfs_.xOpen = [](sqlite3_vfs* vfs, sqlite3_filename name, sqlite3_file* file, int flags, int* out) {
      FaultyFileSystem& self = from(vfs);
      auto* opened = reinterpret_cast<File*>(file);
      opened->base.pMethods = nullptr;
      const int code = self.real_->xOpen(self.real_, name, real(file), flags, out);
      if (code != SQLITE_OK) return code;
      opened->plan = &self.plan;
      opened->base.pMethods = &methods;
      return code;
    };
    vfs_.xDelete = [](sqlite3_vfs* vfs, const char* name, int sync) {
      FaultyFileSystem& self = from(vfs);
      // A full disk lets files be deleted.
      if (self.plan.code != SQLITE_FULL && self.plan.strikes()) return int{SQLITE_IOERR_DELETE};
      return self.real_->xDelete(self.real_, name, sync);
    };
    if (sqlite3_vfs_register(&vfs_, 1) != SQLITE_OK) std::abort();
  }
  FaultyFileSystem(const FaultyFileSystem&) = delete;
  FaultyFileSystem& operator=(const FaultyFileSystem&) = delete;
  ~FaultyFileSystem() {
    sqlite3_vfs_unregister(&vfs_);
    sqlite3_vfs_register(real_, 1);
  }

  Plan plan;

 private:
  struct File {
    sqlite3_file base;
    Plan* plan;
  };
  static FaultyFileSystem& from(sqlite3_vfs* vfs) { return *static_cast<FaultyFileSystem*>(vfs->pAppData); }
  static sqlite3_file* real(sqlite3_file* file) {
    return reinterpret_cast<sqlite3_file*>(reinterpret_cast<char*>(file) + sizeof(File));
  }
  static int fault(sqlite3_file* file, int otherwise) {
    Plan& plan = *reinterpret_cast<File*>(file)->plan;
    if (!plan.strikes()) return SQLITE_OK;
    return plan.code == SQLITE_FULL ? SQLITE_FULL : otherwise;
  }

  static constexpr sqlite3_io_methods methods = {
      .iVersion = 2,
      .xClose = [](sqlite3_file* f) { return real(f)->pMethods->xClose(real(f)); },
      .xRead = [](sqlite3_file* f, void* to, int bytes,
                  sqlite3_int64 at) { return real(f)->pMethods->xRead(real(f), to, bytes, at); },
      .xWrite =
          [](sqlite3_file* f, const void* from, int bytes, sqlite3_int64 at) {
            const int code = fault(f, SQLITE_IOERR_WRITE);
            // A write that fails may have written half.
            if (code != SQLITE_OK && bytes > 1) real(f)->pMethods->xWrite(real(f), from, bytes / 2, at);
            return code != SQLITE_OK ? code : real(f)->pMethods->xWrite(real(f), from, bytes, at);
          },
      .xTruncate =
          [](sqlite3_file* f, sqlite3_int64 size) {
            const int code = fault(f, SQLITE_IOERR_TRUNCATE);
            return code != SQLITE_OK ? code : real(f)->pMethods->xTruncate(real(f), size);
          },
      .xSync =
          [](sqlite3_file* f, int flags) {
            const int code = fault(f, SQLITE_IOERR_FSYNC);
            return code != SQLITE_OK ? code : real(f)->pMethods->xSync(real(f), flags);
          },
      .xFileSize = [](sqlite3_file* f, sqlite3_int64* size) { return real(f)->pMethods->xFileSize(real(f), size); },
      .xLock = [](sqlite3_file* f, int level) { return real(f)->pMethods->xLock(real(f), level); },
      .xUnlock = [](sqlite3_file* f, int level) { return real(f)->pMethods->xUnlock(real(f), level); },
      .xCheckReservedLock = [](sqlite3_file* f,
                               int* held) { return real(f)->pMethods->xCheckReservedLock(real(f), held); },
      .xFileControl = [](sqlite3_file* f, int op,
                         void* arg) { return real(f)->pMethods->xFileControl(real(f), op, arg); },
      .xSectorSize = [](sqlite3_file* f) { return real(f)->pMethods->xSectorSize(real(f)); },
      .xDeviceCharacteristics = [](sqlite3_file* f) { return real(f)->pMethods->xDeviceCharacteristics(real(f)); },
      .xShmMap = [](sqlite3_file* f, int page, int bytes, int extend,
                    void volatile** to) { return real(f)->pMethods->xShmMap(real(f), page, bytes, extend, to); },
      .xShmLock = [](sqlite3_file* f, int offset, int n,
                     int flags) { return real(f)->pMethods->xShmLock(real(f), offset, n, flags); },
      .xShmBarrier = [](sqlite3_file* f) { real(f)->pMethods->xShmBarrier(real(f)); },
      .xShmUnmap = [](sqlite3_file* f, int remove) { return real(f)->pMethods->xShmUnmap(real(f), remove); },
      .xFetch = nullptr,
      .xUnfetch = nullptr,
  };

  sqlite3_vfs* real_;
  sqlite3_vfs vfs_;
};

/// What the database said that it had done.
struct Acknowledged {
  int trials = 0;
  bool decisions = false;
  bool snapshot = false;
  std::string error;
};

constexpr int trials = 3;

Acknowledged work(const std::filesystem::path& path, const std::filesystem::path& snapshot) {
  Acknowledged done;
  try {
    const Environment environment = example_environment();
    WorkDatabase database = WorkDatabase::open(path);
    const std::string run = database.begin_run(environment, {});
    for (int number = 0; number < trials; ++number) {
      const Trial trial = done_trial(64, number);
      database.begin_trial(run, environment, trial.problem, trial.candidate);
      database.finish_trial(run, environment, trial);
      ++done.trials;
    }
    database.replace_decisions(environment, example_decisions(5));
    done.decisions = true;
    database.write_snapshot(snapshot);
    done.snapshot = true;
  } catch (const DatabaseError& error) {
    done.error = error.what();
  }
  return done;
}

void expect_kept(const Acknowledged& done, const std::filesystem::path& path, const std::filesystem::path& snapshot) {
  WorkDatabase database = WorkDatabase::open(path);  // a new process, on a disk that works again
  for (int number = 0; number < done.trials; ++number) {
    const auto trial = database.trial(example_environment(), example_problem(), example_candidate(number));
    ASSERT_TRUE(trial) << "trial " << number << " was acknowledged and is gone";
    EXPECT_EQ(trial->status, TrialStatus::done);
    EXPECT_EQ(trial->samples_us, done_trial().samples_us);
  }
  const auto sets = database.decisions();
  if (done.decisions) {
    ASSERT_EQ(sets.size(), 1U);
  }
  if (!sets.empty()) {
    EXPECT_EQ(sets[0].decisions, example_decisions(5)) << "all of them or none";
  }
  if (done.snapshot) {
    EXPECT_EQ(read_decisions(snapshot), sets);
  } else {
    EXPECT_FALSE(std::filesystem::exists(snapshot)) << "a snapshot appears complete or not at all";
  }
  const std::string run = database.begin_run(example_environment(), {});
  const Trial more = done_trial(64, 50);
  database.begin_trial(run, example_environment(), more.problem, more.candidate);
  database.finish_trial(run, example_environment(), more);
}

void everywhere(int code, bool lasts, const char* part, int first, int step) {
  FaultyFileSystem files;
  int faults = 0, silent = 0;
  for (int at = first;; at += step) {
    SCOPED_TRACE("operation " + std::to_string(at));
    const ScratchDirectory scratch;
    const auto path = scratch / "work.db";
    const auto snapshot = scratch / "snapshot.db";
    files.plan = {.fails_at = at, .lasts = lasts, .code = code, .seen = 0};
    const Acknowledged done = work(path, snapshot);
    const bool struck = files.plan.seen >= at;
    files.plan = {};
    if (!struck) break;
    ++faults;
    if (done.error.empty()) {
      ++silent;  // while closing: what was committed lies in the -wal
    } else {
      const bool named =
          done.error.find("work.db") != std::string::npos || done.error.find("snapshot.db") != std::string::npos;
      EXPECT_TRUE(named) << done.error;
      EXPECT_CONTAINS(done.error, part);
    }
    try {
      expect_kept(done, path, snapshot);
    } catch (const DatabaseError& error) {
      ADD_FAILURE() << error.what() << "\nafter: " << done.error;
      for (const auto& [name, bytes] : contents(scratch.path()))
        ADD_FAILURE() << name << ": " << bytes.size() << " " << (bytes.empty() ? 0 : int{bytes[0]});
    }
    for (const auto& [name, bytes] : contents(scratch.path())) EXPECT_EQ(name.find(".part"), std::string::npos) << name;
    db::Connection raw = db::Connection::open(path, db::Access::write, "raw");
    EXPECT_EQ(raw.text("PRAGMA integrity_check"), "ok");
    if (::testing::Test::HasFailure()) return;
  }
  std::printf("%d faults, %d of them while closing\n", faults, silent);
  EXPECT_GT(faults, 30) << "the file system in between was not used";
  EXPECT_LT(silent, faults / 2);
}

TEST(IoFaultTest, ADiskThatFillsUpAtAnyWrite) { everywhere(SQLITE_FULL, true, "full", 1, 1); }
TEST(IoFaultTest, ADiskThatIsFullForAMoment) { everywhere(SQLITE_FULL, false, "full", 1, 2); }
TEST(IoFaultTest, ADiskThatBreaksAtAnyWrite) { everywhere(SQLITE_IOERR, true, "I/O error", 2, 2); }
TEST(IoFaultTest, ADiskThatFailsOnce) { everywhere(SQLITE_IOERR, false, "I/O error", 1, 1); }

}  // namespace
}  // namespace arbiter::test
