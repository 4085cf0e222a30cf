// Which database a command works on: its first word or --db, else ARBITER_DB, else arbiter.db in the current directory.
#pragma once

#include <filesystem>

#include "options/options.hpp"

namespace arbiter::cli {

void declare_database(Options& options, const std::string& what_for);
/// The same, and as a word without dashes: for commands that take no other words.
void declare_database_word(Options& options, const std::string& what_for);

/// `word`: the database as a word, where the command's words are other things too. Throws UsageError if it is named
/// twice.
std::filesystem::path database_path(const Options& options);
std::filesystem::path database_path(const Options& options, const std::string& word);

/// For commands that only read `file`: says on standard error how many compiled kernels it carries. Nothing runs them.
void mention_kernels(const std::filesystem::path& file);

}  // namespace arbiter::cli
