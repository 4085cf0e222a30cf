// Which database a command works on: --db, else ARBITER_DB, else arbiter.db in the current directory.
#pragma once

#include <filesystem>

#include "options/options.hpp"

namespace arbiter::cli {

void declare_database(Options& options, const std::string& what_for);
std::filesystem::path database_path(const Options& options);

/// For commands that only read `file`: says on standard error how many compiled kernels it carries. Nothing runs them.
void mention_kernels(const std::filesystem::path& file);

}  // namespace arbiter::cli
