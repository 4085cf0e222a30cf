// Everything a database holds: from rows to values and back.
#pragma once

#include "arbiter/db/contents.hpp"
#include "sqlite/sqlite.hpp"

namespace arbiter::db {

/// Throws DatabaseError naming the connection for anything that is damaged.
Contents load_contents(Connection&);

/// The same, after SQLite's own check of the whole file.
Contents load_checked_contents(Connection&);

/// With the problem and the candidate, which must be there.
Trial trial_of(const Contents&, const StoredTrial&);

/// Make the rows of a database that holds `have` those of `want`, decisions excepted, in an open transaction. `want`
/// holds at least everything that `have` does, at the same stage or a later one.
MergeReport store_measurements(Connection&, const Contents& have, const Contents& want);

}  // namespace arbiter::db
