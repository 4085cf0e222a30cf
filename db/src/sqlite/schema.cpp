#include "sqlite/schema.hpp"

#include <fmt/format.h>

#include <array>

#include "arbiter/db/database.hpp"

namespace arbiter::db {
namespace {

// Keys are SHA-256 (64 hexadecimal digits) over the content, so that two databases merge by INSERT OR IGNORE.
// Spellings (dtype, mode, backend, numerics, status) are checked by the reader, not here: a new backend must not
// need a new schema version.
constexpr const char* version_1 = R"sql(
CREATE TABLE environment (
  key TEXT PRIMARY KEY CHECK (length(key) = 64),
  device TEXT NOT NULL,
  gpu_name TEXT NOT NULL,
  sm_count INTEGER NOT NULL CHECK (sm_count >= 0),
  compute_capability INTEGER NOT NULL CHECK (compute_capability >= 0),
  memory_clock_mhz INTEGER NOT NULL CHECK (memory_clock_mhz >= 0),
  power_limit_watts INTEGER NOT NULL CHECK (power_limit_watts >= 0),
  driver_version TEXT NOT NULL,
  cuda_runtime TEXT NOT NULL,
  compiler_version TEXT NOT NULL,
  nccl_version TEXT NOT NULL,
  topology TEXT NOT NULL,
  nodes INTEGER NOT NULL CHECK (nodes >= 0),
  ranks_per_node INTEGER NOT NULL CHECK (ranks_per_node >= 0),
  symmetric_memory TEXT NOT NULL,
  multicast INTEGER NOT NULL CHECK (multicast IN (0, 1)),
  nccl_variables TEXT NOT NULL,
  arbiter_version TEXT NOT NULL,
  catalogue_hash TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE run (
  id TEXT PRIMARY KEY CHECK (length(id) > 0),
  environment TEXT NOT NULL REFERENCES environment (key),
  host TEXT NOT NULL,
  command TEXT NOT NULL,
  started INTEGER NOT NULL,
  finished INTEGER NOT NULL,
  sm_clock_start_mhz INTEGER NOT NULL,
  sm_clock_end_mhz INTEGER NOT NULL,
  power_start_watts INTEGER NOT NULL,
  power_end_watts INTEGER NOT NULL,
  clocks_dropped INTEGER NOT NULL CHECK (clocks_dropped IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE TABLE problem (
  key TEXT PRIMARY KEY CHECK (length(key) = 64),
  pattern TEXT NOT NULL,
  dtype TEXT NOT NULL,
  hidden INTEGER NOT NULL CHECK (hidden > 0),
  tokens INTEGER NOT NULL CHECK (tokens > 0),
  world INTEGER NOT NULL CHECK (world > 0),
  mode TEXT NOT NULL,
  in_place INTEGER NOT NULL CHECK (in_place IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE TABLE candidate (
  key TEXT PRIMARY KEY CHECK (length(key) = 64),
  backend TEXT NOT NULL,
  algorithm TEXT NOT NULL,
  name TEXT NOT NULL,
  numerics TEXT NOT NULL,
  source_hash TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE trial (
  key TEXT PRIMARY KEY CHECK (length(key) = 64),
  environment TEXT NOT NULL REFERENCES environment (key),
  problem TEXT NOT NULL REFERENCES problem (key),
  candidate TEXT NOT NULL REFERENCES candidate (key),
  run TEXT NOT NULL REFERENCES run (id),
  sequence INTEGER NOT NULL CHECK (sequence > 0),
  status TEXT NOT NULL,
  reason TEXT NOT NULL,
  calls_per_sample INTEGER NOT NULL CHECK (calls_per_sample >= 0),
  blocks INTEGER NOT NULL CHECK (blocks >= 0),
  UNIQUE (environment, problem, candidate, sequence, run)
) STRICT, WITHOUT ROWID;

CREATE INDEX trial_running ON trial (environment) WHERE status = 'running';

CREATE TABLE sample (
  trial TEXT NOT NULL REFERENCES trial (key) ON DELETE CASCADE,
  ordinal INTEGER NOT NULL CHECK (ordinal >= 0),
  us REAL NOT NULL CHECK (us >= 0),
  PRIMARY KEY (trial, ordinal)
) STRICT, WITHOUT ROWID;

CREATE TABLE decision (
  key TEXT PRIMARY KEY CHECK (length(key) = 64),
  environment TEXT NOT NULL REFERENCES environment (key),
  mode TEXT NOT NULL,
  world INTEGER NOT NULL CHECK (world > 0),
  dtype TEXT NOT NULL,
  pattern TEXT NOT NULL,
  hidden INTEGER NOT NULL CHECK (hidden > 0),
  tokens_min INTEGER NOT NULL CHECK (tokens_min > 0),
  tokens_max INTEGER NOT NULL CHECK (tokens_max >= tokens_min),
  candidate TEXT NOT NULL REFERENCES candidate (key),
  median_us REAL NOT NULL CHECK (median_us >= 0),
  runner_up TEXT REFERENCES candidate (key),
  runner_up_median_us REAL NOT NULL CHECK (runner_up_median_us >= 0),
  UNIQUE (environment, mode, world, dtype, pattern, hidden, tokens_min)
) STRICT, WITHOUT ROWID;
)sql";

// What NCCL alone does best: programs that use only NCCL know bytes and ranks, not patterns and rows.
constexpr const char* version_2 = R"sql(
CREATE TABLE nccl_choice (
  key TEXT PRIMARY KEY CHECK (length(key) = 64),
  environment TEXT NOT NULL REFERENCES environment (key),
  world INTEGER NOT NULL CHECK (world > 0),
  bytes_min INTEGER NOT NULL CHECK (bytes_min > 0),
  bytes_max INTEGER NOT NULL CHECK (bytes_max >= bytes_min),
  candidate TEXT NOT NULL REFERENCES candidate (key),
  median_us REAL NOT NULL CHECK (median_us >= 0),
  forced TEXT REFERENCES candidate (key),
  forced_median_us REAL NOT NULL CHECK (forced_median_us >= 0),
  UNIQUE (environment, world, bytes_min)
) STRICT, WITHOUT ROWID;
)sql";

// Outcomes get a digest, because their samples are not part of any key: a damaged one would pass for a measurement.
// Rows of versions 1 and 2 have none. Snapshots may hold the kernels that their decisions need.
constexpr const char* version_3 = R"sql(
ALTER TABLE environment ADD COLUMN nvlink_domains TEXT NOT NULL DEFAULT '';
ALTER TABLE run ADD COLUMN digest TEXT NOT NULL DEFAULT '' CHECK (length(digest) IN (0, 64));
ALTER TABLE trial ADD COLUMN digest TEXT NOT NULL DEFAULT '' CHECK (length(digest) IN (0, 64));

CREATE TABLE kernel (
  key TEXT PRIMARY KEY CHECK (length(key) = 64),
  name TEXT NOT NULL,
  source_hash TEXT NOT NULL CHECK (length(source_hash) = 64),
  target TEXT NOT NULL CHECK (length(target) > 0),
  entry TEXT NOT NULL CHECK (length(entry) > 0),
  registers INTEGER NOT NULL,
  shared_bytes INTEGER NOT NULL,
  spill_bytes INTEGER NOT NULL,
  stack_bytes INTEGER NOT NULL,
  image BLOB NOT NULL CHECK (length(image) > 0),
  digest TEXT NOT NULL CHECK (length(digest) = 64)
) STRICT, WITHOUT ROWID;
)sql";

// What the compiler made of the kernels that were timed, and the size at which a decision's times were taken. What was
// stored before says that it does not know (-1), and keeps its keys and digests.
constexpr const char* version_4 = R"sql(
ALTER TABLE trial ADD COLUMN registers INTEGER NOT NULL DEFAULT -1 CHECK (registers >= -1);
ALTER TABLE trial ADD COLUMN spill_bytes INTEGER NOT NULL DEFAULT -1 CHECK (spill_bytes >= -1);
ALTER TABLE decision ADD COLUMN measured_tokens INTEGER NOT NULL DEFAULT -1 CHECK (measured_tokens >= -1);
ALTER TABLE decision ADD COLUMN registers INTEGER NOT NULL DEFAULT -1 CHECK (registers >= -1);
ALTER TABLE decision ADD COLUMN spill_bytes INTEGER NOT NULL DEFAULT -1 CHECK (spill_bytes >= -1);
ALTER TABLE decision ADD COLUMN runner_up_registers INTEGER NOT NULL DEFAULT -1 CHECK (runner_up_registers >= -1);
ALTER TABLE decision ADD COLUMN runner_up_spill_bytes INTEGER NOT NULL DEFAULT -1 CHECK (runner_up_spill_bytes >= -1);
)sql";

constexpr std::array<Migration, 4> all_migrations = {{
    {"environments, runs, problems, candidates, trials, samples and decisions", version_1},
    {"the best NCCL configuration for each message size", version_2},
    {"NVLink domains, digests of what was measured, and kernels in snapshots", version_3},
    {"registers and spills of what was timed, and the size at which it was", version_4},
}};
static_assert(all_migrations.size() == database_schema_version);

std::string hexadecimal(std::int64_t value) {
  static constexpr std::string_view digits = "0123456789abcdef";
  std::string text = "0x";
  for (int shift = 28; shift >= 0; shift -= 4) text += digits[static_cast<std::size_t>(value >> shift & 15)];
  return text;
}

/// Everything that CREATE statements made, as text. What SQLite itself adds (statistics, automatic indexes) is left
/// out.
std::string schema_text(Connection& connection) {
  Statement query(connection,
                  "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema "
                  "WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type, name");
  std::string text;
  while (query.step()) {
    for (int column = 0; column < 4; ++column) text += query.text(column) + "\n";
  }
  return text;
}

}  // namespace

std::span<const Migration> migrations() { return all_migrations; }

FileKind identify(Connection& connection, int newest_version) {
  const std::int64_t application = connection.integer("PRAGMA application_id");
  const std::int64_t version = connection.integer("PRAGMA user_version");
  if (application == 0 && version == 0 && connection.integer("SELECT EXISTS (SELECT 1 FROM sqlite_schema)") == 0) {
    return FileKind::empty;
  }
  if (application != database_application_id) {
    throw DatabaseError(connection.name() + ": it belongs to another program: its application id is " +
                        hexadecimal(application) + ", expected " + hexadecimal(database_application_id) +
                        ". Choose another file name; nothing was changed.");
  }
  if (version > newest_version) {
    throw DatabaseError(
        fmt::format("{}: it was written by a newer Arbiter (schema version {}; this one knows versions up to {}). Use "
                    "that Arbiter, or make a new file with this one; nothing was changed.",
                    connection.name(), version, newest_version));
  }
  if (version < 0) {
    throw DatabaseError(
        fmt::format("{}: its schema version is {}, which never existed. The file is damaged: restore a copy of it, or "
                    "remove it and tune again.",
                    connection.name(), version));
  }
  return FileKind::ours;
}

void migrate(Connection& connection, std::span<const Migration> steps) {
  const auto newest = static_cast<std::int64_t>(steps.size());
  const auto version = [&] { return connection.integer("PRAGMA user_version"); };
  for (std::int64_t from = version(); from < newest; from = version()) {
    const Migration& step = steps[static_cast<std::size_t>(from)];
    try {
      Transaction transaction(connection);
      // Read again now that nobody else can write.
      if (version() != from) continue;
      connection.execute(step.sql);
      connection.execute(fmt::format("PRAGMA application_id = {}", database_application_id));
      connection.execute(fmt::format("PRAGMA user_version = {}", from + 1));
      transaction.commit();
    } catch (const SqliteError& error) {
      throw SqliteError(fmt::format("{} This was the step from schema version {} to {} ({}), which was undone.",
                                    error.what(), from, from + 1, step.summary),
                        error.code());
    }
  }
}

namespace {

std::string text_of(std::span<const Migration> steps) {
  Connection reference = Connection::memory("the reference schema");
  migrate(reference, steps);
  return schema_text(reference);
}

}  // namespace

void require_schema(Connection& connection, std::span<const Migration> steps) {
  static const std::string released = text_of(all_migrations);  // making it takes as long as reading a snapshot
  const bool all = steps.data() == all_migrations.data() && steps.size() == all_migrations.size();
  if (schema_text(connection) != (all ? released : text_of(steps))) {
    throw DatabaseError(
        fmt::format("{}: its tables are not those of schema version {}. The file is damaged or was edited by hand: "
                    "restore a copy of it, or remove it and tune again.",
                    connection.name(), steps.size()));
  }
}

}  // namespace arbiter::db
