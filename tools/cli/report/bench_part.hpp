// What `arbiter bench --json` printed, as the report draws it.
#pragma once

#include <string>

#include "report/data.hpp"

namespace arbiter::cli {

/// Does the file hold JSON instead of a database? False for what cannot be read: reading it as a database says why.
bool is_bench_file(const std::string& file);

/// The results of each row as points, and what auto chose as decisions that reach to the next row. Throws Error naming
/// the file if it is not what `arbiter bench --json` prints.
ReportPart bench_part(const std::string& file);

}  // namespace arbiter::cli
