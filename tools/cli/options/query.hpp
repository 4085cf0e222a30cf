// Which measured problem is meant: options, or the compact text that names a problem everywhere else
// ("allreduce bf16 hidden=8192 tokens=64 world=2 graph").
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "arbiter/db/records.hpp"
#include "options/options.hpp"

namespace arbiter::cli {

/// What was said about a problem; the rest is open.
struct ProblemQuery {
  std::optional<std::string> pattern;
  std::optional<Dtype> dtype;
  std::optional<int> hidden;
  std::optional<std::int64_t> tokens;
  std::optional<int> world;
  std::optional<Mode> mode;
  bool in_place = false;

  bool admits(const Problem&) const;
};

/// Declares --pattern, --dtype, --hidden, --tokens, --world, --mode and --in-place.
void declare_problem_query(Options& options);

/// The options, and the words (one text or several). Throws UsageError for what cannot be understood or is said twice.
ProblemQuery read_problem_query(const Options& options);

/// The first word, if it names a database (a file that exists, or a name with a dot or a slash) and no part of a
/// problem; else empty. read_problem_query() leaves it out.
std::string database_word(const Options& options);

/// The one problem that the query admits. Throws UsageError if there are several, naming what would tell them apart,
/// and Error if there is none, naming the measured problem that is nearest to what was asked. `where` is what was
/// searched.
const Problem& find_problem(const ProblemQuery& query, const std::vector<Problem>& measured, const std::string& where);

}  // namespace arbiter::cli
