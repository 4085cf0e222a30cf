// Rows of the table kernel.
#pragma once

#include "arbiter/db/kernels.hpp"
#include "sqlite/sqlite.hpp"

namespace arbiter::db {

void insert_kernel(Connection&, const StoredKernel&);
/// Ordered by key. Throws DatabaseError naming the connection for anything that is damaged.
std::vector<StoredKernel> load_kernels(Connection&);

}  // namespace arbiter::db
