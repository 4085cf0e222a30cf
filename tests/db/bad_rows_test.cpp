// Rows that SQLite finds nothing wrong with, but that make no sense. Their keys are recomputed where that matters, so
// that the check under test is the one that must catch them.
#include <cmath>
#include <functional>

#include "db/fixtures.hpp"
#include "records/digest.hpp"
#include "sqlite/rows.hpp"
#include "sqlite/schema.hpp"

namespace arbiter::test {
namespace {

using db::Connection;

/// One row that can be changed in any column without becoming equal to another.
constexpr const char* one_row =
    " WHERE key = (SELECT min(key) FROM decision WHERE world = 4 AND runner_up IS NOT NULL)";

std::string image_after(std::string sql) {
  if (sql.starts_with("UPDATE decision") && sql.find("WHERE runner_up") == std::string::npos) sql += one_row;
  Connection connection = Connection::memory("memory");
  db::migrate(connection);
  db::insert_environment(connection, example_environment());
  for (const Decision& decision : example_decisions(20)) {
    db::insert_decision(connection, example_environment().key(), decision);
  }
  connection.execute("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON");
  connection.execute(sql);
  return connection.serialize();
}

void expect_refused(const std::string& sql, const char* part) {
  const std::string message = message_of([&] { read_decisions_from_bytes(image_after(sql), "edited.db"); });
  EXPECT_CONTAINS(message, part) << "\nafter: " << sql;
  EXPECT_CONTAINS(message, "'edited.db'");
}

TEST(BadRowsTest, TheUneditedImageReads) {
  const auto sets = read_decisions_from_bytes(image_after("SELECT 1"), "edited.db");
  ASSERT_EQ(sets.size(), 1U);
  EXPECT_EQ(sets[0].decisions, example_decisions(20));
}

TEST(BadRowsTest, EveryEditedColumnIsNoticed) {
  expect_refused("UPDATE decision SET tokens_max = tokens_max + 1", "table decision does not match its key");
  expect_refused("UPDATE decision SET tokens_min = tokens_min + 1", "table decision does not match its key");
  expect_refused("UPDATE decision SET median_us = median_us * 2", "table decision does not match its key");
  expect_refused("UPDATE decision SET runner_up_median_us = 3.5 WHERE runner_up IS NOT NULL",
                 "table decision does not match its key");
  expect_refused("UPDATE decision SET runner_up = NULL", "table decision does not match its key");
  expect_refused("UPDATE decision SET world = 3", "table decision does not match its key");
  expect_refused("UPDATE decision SET measured_tokens = tokens_max", "table decision does not match its key");
  for (const char* use : {"registers", "spill_bytes", "runner_up_registers", "runner_up_spill_bytes"}) {
    expect_refused("UPDATE decision SET " + std::string(use) + " = 7", "table decision does not match its key");
  }
  expect_refused("UPDATE decision SET hidden = 4096", "table decision does not match its key");
  expect_refused("UPDATE decision SET mode = 'eager'", "table decision does not match its key");
  expect_refused("UPDATE decision SET dtype = 'fp16'", "table decision does not match its key");
  expect_refused("UPDATE decision SET pattern = 'other' || pattern", "table decision does not match its key");
  expect_refused("UPDATE decision SET candidate = (SELECT key FROM candidate WHERE name LIKE 'nccl%')",
                 "table decision does not match its key");
  expect_refused("UPDATE candidate SET numerics = 'nccl'", "table decision does not match its key");
  expect_refused("UPDATE candidate SET algorithm = 'twoshot_push'", "table decision does not match its key");
  expect_refused("UPDATE candidate SET name = name || 'x'", "table candidate does not match its key");
  expect_refused("UPDATE environment SET sm_count = 131", "table environment does not match its key");
  expect_refused("UPDATE environment SET gpu_name = 'NVIDIA B200'", "table environment does not match its key");
}

TEST(BadRowsTest, UnknownSpellings) {
  expect_refused("UPDATE decision SET mode = 'grpah'", "unknown mode 'grpah'");
  expect_refused("UPDATE decision SET dtype = 'int8'", "'int8'");
  expect_refused("UPDATE candidate SET backend = 'magic'", "unknown backend 'magic'");
  expect_refused("UPDATE candidate SET numerics = ''", "numerics");
  expect_refused("UPDATE environment SET nccl_variables = '[1]'", "nccl_variables");
  expect_refused("UPDATE environment SET nccl_variables = 'x'", "nccl_variables");
  expect_refused("UPDATE environment SET nccl_variables = '{\"a\":1}'", "nccl_variables");
}

TEST(BadRowsTest, RowsThatAreNotThere) {
  expect_refused("DELETE FROM candidate", "names rows that are not there");
  expect_refused("DELETE FROM environment", "names rows that are not there");
  expect_refused("UPDATE decision SET runner_up = 'nobody' WHERE runner_up IS NOT NULL",
                 "names rows that are not there");
}

TEST(BadRowsTest, ValuesOutOfRange) {
  expect_refused("UPDATE decision SET tokens_min = 0", "damaged");
  expect_refused("UPDATE decision SET tokens_max = -5", "damaged");
  expect_refused("UPDATE decision SET registers = -2", "damaged");
  expect_refused("UPDATE decision SET median_us = -1.0", "damaged");
  expect_refused("UPDATE decision SET hidden = 5000000000", "out of range");
  expect_refused("UPDATE environment SET sm_count = 5000000000", "out of range");
}

TEST(BadRowsTest, AnotherSchema) {
  expect_refused("CREATE TABLE more (x)", "not those of schema version");
  expect_refused("CREATE VIEW more AS SELECT 1", "not those of schema version");
  expect_refused("CREATE TRIGGER t AFTER INSERT ON run BEGIN DELETE FROM run; END", "not those of schema version");
  expect_refused("DROP TABLE sample", "not those of schema version");
  expect_refused("DROP TABLE decision; CREATE VIEW decision AS SELECT * FROM candidate", "not those of schema version");
  expect_refused("ALTER TABLE decision RENAME COLUMN median_us TO us", "not those of schema version");
}

/// A decision whose key is right, written past the checks of the writer.
void expect_refused_with_key(const std::function<void(Decision&)>& spoil, const char* part) {
  Connection connection = Connection::memory("memory");
  db::migrate(connection);
  connection.execute("PRAGMA ignore_check_constraints = ON");
  db::insert_environment(connection, example_environment());
  auto decisions = example_decisions(20);
  spoil(decisions[0]);
  for (const Decision& decision : decisions) db::insert_decision(connection, example_environment().key(), decision);
  const std::string bytes = connection.serialize();
  EXPECT_CONTAINS(message_of([&] { read_decisions_from_bytes(bytes, "made.db"); }), part);
}

TEST(BadRowsTest, WellSealedNonsense) {
  expect_refused_with_key([](Decision& d) { d.tokens_max = 101; }, "overlaps the next one");
  expect_refused_with_key([](Decision& d) { d.median_us = HUGE_VAL; }, "finite");
  expect_refused_with_key([](Decision& d) { d.runner_up_median_us = HUGE_VAL; }, "finite");
  expect_refused_with_key([](Decision& d) { d.runner_up.reset(); }, "no runner_up");
  expect_refused_with_key([](Decision& d) { d.pattern = ""; }, "pattern is empty");
  expect_refused_with_key([](Decision& d) { d.pattern = "\xff\xfe"; }, "UTF-8");
  expect_refused_with_key([](Decision& d) { d.tokens_min = -1; }, "damaged");
}

TEST(BadRowsTest, AnUnknownTrialStatusIsNamed) {
  ScratchDirectory scratch;
  const auto path = scratch / "work.db";
  {
    WorkDatabase database = WorkDatabase::open(path);
    const std::string run = database.begin_run(example_environment(), {});
    database.begin_trial(run, example_environment(), example_problem(), example_candidate());
    database.finish_trial(run, example_environment(), done_trial());
  }
  Connection(Connection::open(path, db::Access::write, "raw")).execute("UPDATE trial SET status = 'dnoe'");
  WorkDatabase database = WorkDatabase::open(path);
  const std::string message = message_of([&] { database.trials(example_environment(), example_problem()); });
  EXPECT_CONTAINS(message, "'dnoe'");
  EXPECT_CONTAINS(message, "work.db");
}

}  // namespace
}  // namespace arbiter::test
