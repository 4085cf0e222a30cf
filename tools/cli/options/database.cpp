#include "options/database.hpp"

#include "arbiter/db/kernels.hpp"
#include "arbiter/variables.hpp"
#include "text/print.hpp"

namespace arbiter::cli {

void declare_database(Options& options, const std::string& what_for) {
  options.value("db", "FILE", what_for + "\n(default: $ARBITER_DB, else arbiter.db in this directory)");
}

std::filesystem::path database_path(const Options& options) {
  if (options.has("db")) return options.text("db");
  const std::string from_environment = EnvironmentVariables::read().db;
  return from_environment.empty() ? "arbiter.db" : from_environment;
}

void mention_kernels(const std::filesystem::path& file) {
  const std::string text = not_loaded(file.string(), carried_kernels(file));
  if (!text.empty()) print_error("arbiter: %s\n", text.c_str());
}

}  // namespace arbiter::cli
