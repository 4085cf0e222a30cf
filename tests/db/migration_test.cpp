// Recognising files, and bringing old ones up to date without ever harming one.
#include <array>
#include <fstream>

#include "arbiter/db/contents.hpp"

#include "db/fixtures.hpp"
#include "sqlite/reader.hpp"
#include "sqlite/schema.hpp"

namespace arbiter::test {
namespace {

using db::Access;
using db::Connection;
using db::Migration;

constexpr std::array<Migration, 2> two_steps = {{
    {"the first", "CREATE TABLE first (a INTEGER NOT NULL) STRICT; INSERT INTO first VALUES (7)"},
    {"the second", "ALTER TABLE first ADD COLUMN b INTEGER NOT NULL DEFAULT 5; CREATE TABLE second (c TEXT) STRICT"},
}};
constexpr std::array<Migration, 2> second_fails = {{
    two_steps[0],
    {"the broken one", "CREATE TABLE second (c TEXT) STRICT; UPDATE first SET a = 8; SELECT nonsense FROM nowhere"},
}};

Connection raw(const std::filesystem::path& path) { return Connection::open(path, Access::write, "raw"); }

TEST(MigrationTest, StepsBuildOnEachOther) {
  Connection connection = Connection::memory("memory");
  db::migrate(connection, std::span(two_steps).first(1));
  EXPECT_EQ(connection.integer("PRAGMA user_version"), 1);
  db::migrate(connection, two_steps);
  EXPECT_EQ(connection.integer("PRAGMA user_version"), 2);
  EXPECT_EQ(connection.integer("PRAGMA application_id"), database_application_id);
  EXPECT_EQ(connection.integer("SELECT a * 10 + b FROM first"), 75);
  db::migrate(connection, two_steps);  // nothing left to do
  EXPECT_EQ(connection.integer("PRAGMA user_version"), 2);
  EXPECT_NO_THROW(db::require_schema(connection, two_steps));
}

TEST(MigrationTest, AFailedStepIsUndoneAndSaid) {
  Connection connection = Connection::memory("memory");
  const std::string message = message_of([&] { db::migrate(connection, second_fails); });
  EXPECT_CONTAINS(message, "from schema version 1 to 2 (the broken one)");
  EXPECT_EQ(connection.integer("PRAGMA user_version"), 1) << "the first step stays";
  EXPECT_EQ(connection.integer("SELECT a FROM first"), 7) << "the second left nothing";
  EXPECT_EQ(connection.integer("SELECT count(*) FROM sqlite_schema"), 1);
  EXPECT_FALSE(connection.in_transaction());
}

TEST(MigrationTest, ADifferentSchemaIsNoticed) {
  Connection connection = Connection::memory("memory");
  db::migrate(connection, two_steps);
  connection.execute("CREATE INDEX extra ON first (a)");
  EXPECT_CONTAINS(message_of([&] { db::require_schema(connection, two_steps); }), "edited by hand");
}

TEST(MigrationTest, AnOlderViewIsMigratedInMemoryOnly) {
  ScratchDirectory scratch;
  const auto path = scratch / "old.db";
  {
    Connection old = raw(path);
    db::migrate(old);
  }
  std::vector<Migration> newer(db::migrations().begin(), db::migrations().end());
  newer.push_back({"a later column", "ALTER TABLE decision ADD COLUMN later INTEGER NOT NULL DEFAULT 5"});
  const auto before = contents(scratch.path());
  db::with_reader(path, [&](Connection& view, db::FileKind) {
    std::optional<Connection> migrated;
    Connection& prepared = db::prepare_view(view, migrated, newer);
    EXPECT_EQ(prepared.integer("PRAGMA user_version"), database_schema_version + 1);
    EXPECT_EQ(prepared.integer("SELECT count(later) FROM decision"), 0);
    EXPECT_EQ(view.integer("PRAGMA user_version"), database_schema_version);
  });
  EXPECT_EQ(contents(scratch.path()), before);
}

TEST(MigrationTest, VersionZeroIsUpgraded) {
  ScratchDirectory scratch;
  const auto marked = scratch / "marked.db";  // killed between being marked and being filled
  raw(marked).execute("PRAGMA application_id = 0x41524254");
  EXPECT_TRUE(read_decisions(marked).empty()) << "a reader migrates a copy in memory";
  EXPECT_TRUE(WorkDatabase::open(marked).decisions().empty());
  const auto empty = scratch / "empty.db";  // an SQLite file with nothing in it
  raw(empty).execute("VACUUM");
  EXPECT_TRUE(WorkDatabase::open(empty).decisions().empty());
  const auto nothing = scratch / "nothing.db";
  write_file(nothing, "");
  EXPECT_TRUE(WorkDatabase::open(nothing).decisions().empty());
  for (const auto& path : {marked, empty, nothing}) {
    Connection connection = raw(path);
    EXPECT_EQ(connection.integer("PRAGMA user_version"), database_schema_version);
    EXPECT_EQ(connection.integer("PRAGMA application_id"), database_application_id);
    EXPECT_NO_THROW(db::require_schema(connection));
  }
}

const std::string newer_version = std::to_string(database_schema_version + 1);

/// What every released schema version left behind, as text in tests/db/schemas: version-<n>.sql makes the file, and
/// version-<n>.jsonl is what that version exported from it.
std::filesystem::path schemas() { return std::filesystem::path(ARBITER_TEST_SCHEMAS); }

Contents exported_by(int version) {
  std::ifstream text(schemas() / ("version-" + std::to_string(version) + ".jsonl"));
  return parse_jsonl(text, "version-" + std::to_string(version) + ".jsonl");
}

std::filesystem::path database_of(int version, const ScratchDirectory& scratch) {
  auto path = scratch / ("version-" + std::to_string(version) + ".db");
  raw(path).execute(read_file(schemas() / ("version-" + std::to_string(version) + ".sql")));
  return path;
}

TEST(MigrationTest, EveryEarlierVersionHasAFixture) {
  for (int version = 1; version < database_schema_version; ++version) {
    ScratchDirectory scratch;
    EXPECT_EQ(raw(database_of(version, scratch)).integer("PRAGMA user_version"), version);
  }
  EXPECT_FALSE(std::filesystem::exists(schemas() / ("version-" + std::to_string(database_schema_version) + ".sql")))
      << "a fixture of the present version would not test anything: make it when the next one comes";
}

TEST(MigrationTest, EveryEarlierVersionIsReadWithoutBeingChanged) {
  for (int version = 1; version < database_schema_version; ++version) {
    SCOPED_TRACE(version);
    ScratchDirectory scratch;
    const auto path = database_of(version, scratch);
    const auto before = contents(scratch.path());
    EXPECT_EQ(read_contents(path), exported_by(version));
    EXPECT_EQ(read_decisions_from_bytes(read_file(path), "bytes"), read_decisions(path));
    EXPECT_FALSE(read_decisions_from_bytes(read_for_broadcast(path), "broadcast").empty());
    EXPECT_EQ(contents(scratch.path()), before);
  }
}

TEST(MigrationTest, EveryEarlierVersionIsUpgradedByAWriterAndMeasuresOn) {
  for (int version = 1; version < database_schema_version; ++version) {
    SCOPED_TRACE(version);
    ScratchDirectory scratch;
    const auto path = database_of(version, scratch);
    const Contents before = exported_by(version);
    {
      WorkDatabase database = WorkDatabase::open(path);
      EXPECT_EQ(database.contents(), before) << "every row survives, under the same key";
      const Environment old = before.environments.begin()->second;
      const std::string run = database.begin_run(old, {});
      EXPECT_EQ(database.trial(old, example_problem(64), example_candidate(3))->status, TrialStatus::crashed)
          << "the trial that the old version left running";
      const Trial again = done_trial(64, 3);
      database.begin_trial(run, old, again.problem, again.candidate);
      database.finish_trial(run, old, again);
      EXPECT_EQ(database.trial(old, again.problem, again.candidate)->samples_us, again.samples_us);
      database.write_snapshot(scratch / "snapshot.db");
    }
    EXPECT_EQ(raw(path).integer("PRAGMA user_version"), database_schema_version);
    EXPECT_EQ(raw(path).text("PRAGMA integrity_check"), "ok");
    EXPECT_EQ(read_decisions(scratch / "snapshot.db").front().decisions, before.decisions.begin()->second);
  }
}

TEST(MigrationTest, AnUpgradeThatFailsLeavesTheOldVersionReadable) {
  for (int version = 1; version < database_schema_version; ++version) {
    ScratchDirectory scratch;
    const auto path = database_of(version, scratch);
    // In the way of the last step: what it creates is there already. The steps before it stay.
    raw(path).execute("ALTER TABLE decision ADD COLUMN measured_tokens TEXT");
    EXPECT_CONTAINS(message_of([&] { WorkDatabase::open(path); }), "which was undone");
    EXPECT_EQ(raw(path).integer("PRAGMA user_version"), database_schema_version - 1);
    raw(path).execute("ALTER TABLE decision DROP COLUMN measured_tokens");
    EXPECT_EQ(read_contents(path), exported_by(version));
  }
}

/// Every way to use `path` is refused with a message that contains `part`, and no byte changes, in or beside it.
void expect_refused_untouched(const ScratchDirectory& scratch, const std::filesystem::path& path,
                              const std::string& part) {
  const auto before = contents(scratch.path());
  EXPECT_CONTAINS(message_of([&] { WorkDatabase::open(path); }), part);
  EXPECT_CONTAINS(message_of([&] { WorkDatabase::open(path); }), path.filename().string());
  EXPECT_CONTAINS(message_of([&] { read_decisions(path); }), part);
  EXPECT_CONTAINS(message_of([&] { read_for_broadcast(path); }), part);
  EXPECT_CONTAINS(message_of([&] { read_decisions_from_bytes(read_file(path), path.string()); }), part);
  EXPECT_CONTAINS(message_of([&] { read_decisions_from_bytes(read_file(path), path.string()); }),
                  path.filename().string());
  EXPECT_EQ(contents(scratch.path()), before);
}

TEST(MigrationTest, ANewerVersionIsRefusedAndLeftUntouched) {
  for (const char* journal : {"DELETE", "WAL"}) {
    ScratchDirectory scratch;
    const auto path = scratch / "newer.db";
    { WorkDatabase::open(path).replace_decisions(example_environment(), example_decisions()); }
    {
      Connection connection = raw(path);
      connection.text("PRAGMA journal_mode = " + std::string(journal));
      connection.execute("PRAGMA user_version = " + newer_version + "; CREATE TABLE later (x)");
    }
    expect_refused_untouched(scratch, path, "newer Arbiter (schema version " + newer_version);
  }
}

TEST(MigrationTest, ANewerVersionInUseIsLeftUntouchedToo) {
  ScratchDirectory scratch;
  const auto path = scratch / "newer.db";
  { WorkDatabase::open(path); }
  Connection other = raw(path);
  other.execute("PRAGMA user_version = " + newer_version + "; CREATE TABLE later (x)");  // sits in the -wal
  ASSERT_GT(std::filesystem::file_size(scratch / "newer.db-wal"), 0U);
  const auto main_before = read_file(path);
  const auto wal_before = read_file(scratch / "newer.db-wal");
  EXPECT_CONTAINS(message_of([&] { WorkDatabase::open(path); }), "newer Arbiter");
  EXPECT_EQ(read_file(path), main_before);
  EXPECT_EQ(read_file(scratch / "newer.db-wal"), wal_before);
}

TEST(MigrationTest, AnotherProgramsDatabaseIsRefused) {
  ScratchDirectory scratch;
  const auto path = scratch / "theirs.db";
  raw(path).execute("PRAGMA application_id = 0x12345678; CREATE TABLE decision (x)");
  expect_refused_untouched(scratch, path, "0x12345678");
  const auto plain = scratch / "plain.db";
  raw(plain).execute("CREATE TABLE decision (x)");  // no application id at all
  expect_refused_untouched(scratch, plain, "another program");
}

TEST(MigrationTest, FilesThatAreNotSqliteAreRefused) {
  ScratchDirectory scratch;
  write_file(scratch / "notes.txt", "buy milk");
  expect_refused_untouched(scratch, scratch / "notes.txt", "not an SQLite database");
  write_file(scratch / "long.bin", std::string(100'000, 'x'));
  expect_refused_untouched(scratch, scratch / "long.bin", "not an SQLite database");
  write_file(scratch / "start.db", std::string("SQLite format 3\0", 16));
  expect_refused_untouched(scratch, scratch / "start.db", "truncated");
}

TEST(MigrationTest, AnImpossibleVersionIsRefused) {
  ScratchDirectory scratch;
  const auto path = scratch / "odd.db";
  { WorkDatabase::open(path); }
  raw(path).execute("PRAGMA user_version = -3");
  EXPECT_CONTAINS(message_of([&] { WorkDatabase::open(path); }), "-3");
}

}  // namespace
}  // namespace arbiter::test
