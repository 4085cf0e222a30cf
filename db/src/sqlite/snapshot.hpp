// Decisions as a database of their own: the same decisions give the same bytes.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "arbiter/db/kernels.hpp"
#include "sqlite/sqlite.hpp"

namespace arbiter::db {

/// The bytes of a snapshot. The sets are in the order of load_decisions, which is what makes the bytes repeatable.
std::string snapshot_image(const std::vector<DecisionSet>&);

/// The same as a file that appears complete or not at all. Refuses to replace anything but a snapshot: measurements
/// are never overwritten. Throws DatabaseError.
void write_snapshot_file(const std::filesystem::path&, const std::vector<DecisionSet>&,
                         const std::vector<StoredKernel>&);

/// Whether the file, apart from anything beside it, is a snapshot that write_snapshot_file() wrote.
bool is_sealed(const Connection&);

}  // namespace arbiter::db
