// What a merge or an import added, for people and for programs.
#pragma once

#include <llvm/Support/JSON.h>

#include <filesystem>

#include "arbiter/db/database.hpp"

namespace arbiter::cli {

void print_report(const MergeReport&, const std::filesystem::path& database, bool as_json);

}  // namespace arbiter::cli
