// The results of a bench as tables for people.
#pragma once

#include <llvm/Support/JSON.h>

#include <string>
#include <vector>

namespace arbiter::cli {

/// `document` as bench_json() writes it. One table for each mode, world, dtype, pattern and hidden size; `against`
/// limits the columns beside auto (empty: all). How much faster auto is than the first of them is a column too.
void print_bench_table(const llvm::json::Object& document, const std::vector<std::string>& against);

}  // namespace arbiter::cli
