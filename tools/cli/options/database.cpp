#include "options/database.hpp"

#include "arbiter/db/kernels.hpp"
#include "arbiter/variables.hpp"
#include "text/print.hpp"

namespace arbiter::cli {

void declare_database(Options& options, const std::string& what_for) {
  options.value("db", "FILE", what_for + "\n(default: $ARBITER_DB, else arbiter.db in this directory)");
}

void declare_database_word(Options& options, const std::string& what_for) {
  options.words("[DB]", "DB: the same as --db DB.", 1).files();
  declare_database(options, what_for);
}

std::filesystem::path database_path(const Options& options) {
  const bool is_database = options.words_description().placeholder == "[DB]" && !options.words().empty();
  return database_path(options, is_database ? options.words().front() : "");
}

std::filesystem::path database_path(const Options& options, const std::string& word) {
  if (!word.empty() && options.has("db")) {
    throw UsageError("the database is named twice: '" + word + "' and --db '" + options.text("db") + "'");
  }
  if (!word.empty()) return word;
  if (options.has("db")) return options.text("db");
  const std::string from_environment = EnvironmentVariables::read().db;
  return from_environment.empty() ? "arbiter.db" : from_environment;
}

void mention_kernels(const std::filesystem::path& file) {
  const std::string text = not_loaded(file.string(), carried_kernels(file));
  if (!text.empty()) print_error("arbiter: %s\n", text.c_str());
}

}  // namespace arbiter::cli
