// A disk that fills up: every call fails with a clear message, and what was committed before stays readable.
#include <pthread.h>

#include <csignal>

#include "db/fixtures.hpp"
#include "file_limit.hpp"
#include "sqlite/sqlite.hpp"

namespace arbiter::test {
namespace {

void expect_sound(const std::filesystem::path& path) {
  db::Connection raw = db::Connection::open(path, db::Access::write, "raw");
  EXPECT_EQ(raw.text("PRAGMA integrity_check"), "ok");
}

TEST(DiskFullTest, TrialsWrittenBeforeStayAndTheErrorSaysWhy) {
  ScratchDirectory scratch;
  const auto path = scratch / "work.db";
  const int finished = with_file_limit(400'000, [&] {
    const Environment environment = example_environment();
    WorkDatabase database = WorkDatabase::open(path);
    const std::string run = database.begin_run(environment, {});
    for (int number = 0; number < 90; ++number) {
      Trial trial = done_trial(64, number);
      trial.samples_us.assign(300, number);
      try {
        database.begin_trial(run, environment, trial.problem, trial.candidate);
        database.finish_trial(run, environment, trial);
      } catch (const DatabaseError& error) {
        const std::string what = error.what();
        const bool clear = what.find("work.db") != std::string::npos && what.find("is kept") != std::string::npos;
        if (!clear) std::fprintf(stderr, "child: %s\n", what.c_str());
        // The same object still reads.
        const bool reads = number == 0 || database.trial(environment, trial.problem, example_candidate(0)).has_value();
        return clear && reads ? number : 102;
      }
    }
    return 103;
  });
  ASSERT_GT(finished, 0) << "the limit must strike after something was written";
  ASSERT_LT(finished, 90);
  WorkDatabase database = WorkDatabase::open(path);
  for (int number = 0; number < finished; ++number) {
    const auto trial = database.trial(example_environment(), example_problem(), example_candidate(number));
    ASSERT_TRUE(trial) << number;
    EXPECT_EQ(trial->samples_us.size(), 300U);
  }
  { WorkDatabase closing = std::move(database); }
  expect_sound(path);
}

TEST(DiskFullTest, DecisionsAreReplacedCompletelyOrNotAtAll) {
  ScratchDirectory scratch;
  const auto path = scratch / "work.db";
  { WorkDatabase::open(path).replace_decisions(example_environment(), example_decisions(10)); }
  const auto size = std::filesystem::file_size(path);
  EXPECT_EQ(with_file_limit(size,
                            [&] {
                              WorkDatabase database = WorkDatabase::open(path);
                              try {
                                database.replace_decisions(example_environment(), example_decisions(4000));
                              } catch (const DatabaseError&) {
                                return 0;
                              }
                              return 1;
                            }),
            0);
  const auto sets = read_decisions(path);
  ASSERT_EQ(sets.size(), 1U);
  EXPECT_EQ(sets[0].decisions, example_decisions(10));
  expect_sound(path);
}

TEST(DiskFullTest, AnOldSnapshotSurvivesAFailedNewOne) {
  ScratchDirectory scratch;
  const auto path = scratch / "work.db";
  const auto snapshot = scratch / "snapshot.db";
  WorkDatabase database = WorkDatabase::open(path);
  database.replace_decisions(example_environment(), example_decisions(3));
  database.write_snapshot(snapshot);
  const std::string old = read_file(snapshot);
  database.replace_decisions(example_environment(), example_decisions(500));
  { WorkDatabase closing = std::move(database); }
  EXPECT_EQ(with_file_limit(100'000,
                            [&] {
                              WorkDatabase limited = WorkDatabase::open(path);
                              try {
                                limited.write_snapshot(snapshot);
                              } catch (const DatabaseError& error) {
                                return std::string(error.what()).find("snapshot.db") != std::string::npos ? 0 : 2;
                              }
                              return 1;
                            }),
            0);
  EXPECT_EQ(read_file(snapshot), old);
  EXPECT_EQ(contents(scratch.path()).size(), 2U) << "the unfinished file was removed";
}

TEST(DiskFullTest, NoRoomToCreateADatabase) {
  for (const std::uint64_t limit : {0U, 10U, 5'000U, 20'000U}) {
    ScratchDirectory scratch;
    const auto path = scratch / "work.db";
    EXPECT_EQ(with_file_limit(limit,
                              [&] {
                                try {
                                  WorkDatabase::open(path);
                                } catch (const DatabaseError&) {
                                  return 0;
                                }
                                return 1;
                              }),
              0)
        << limit;
    EXPECT_NO_THROW(WorkDatabase::open(path)) << "with room again, the half-made file is no obstacle: " << limit;
  }
}

TEST(DiskFullTest, ReadingWhatACrashLeftNeedsRoomAndSaysSo) {
  ScratchDirectory scratch;
  const auto path = scratch / "work.db", crashed = scratch / "crashed.db";
  WorkDatabase database = WorkDatabase::open(path);
  database.replace_decisions(example_environment(), example_decisions(200));
  for (const char* suffix : {"", "-wal"}) write_file(crashed.native() + suffix, read_file(path.native() + suffix));
  EXPECT_EQ(read_decisions(crashed).at(0).decisions, example_decisions(200));
  EXPECT_EQ(with_file_limit(4096,
                            [&] {
                              try {
                                read_decisions(crashed);
                              } catch (const DatabaseError& error) {
                                return std::string(error.what()).find("no room") != std::string::npos ? 0 : 2;
                              }
                              return 1;
                            }),
            0);
}

TEST(DiskFullTest, TheHostProgramsSignalsAreAsTheyWere) {
  ScratchDirectory scratch;
  const int kept = with_file_limit(5'000, [&] {
    struct sigaction disposition {};
    sigset_t mask;
    try {
      WorkDatabase::open(scratch / "work.db");
    } catch (const DatabaseError&) {
      const bool same = ::sigaction(SIGXFSZ, nullptr, &disposition) == 0 && disposition.sa_handler == SIG_DFL &&
                        ::pthread_sigmask(SIG_BLOCK, nullptr, &mask) == 0 && ::sigismember(&mask, SIGXFSZ) == 0;
      return same ? 0 : 2;
    }
    return 1;
  });
  EXPECT_EQ(kept, 0);
}

}  // namespace
}  // namespace arbiter::test
