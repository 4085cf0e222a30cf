#include "options/query.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <set>
#include <sstream>
#include <string_view>
#include <system_error>

#include "arbiter/generator/joined.hpp"
#include "arbiter/vocabulary.hpp"
#include "options/names.hpp"
#include "text/numbers.hpp"

namespace arbiter::cli {
namespace {

constexpr std::string_view keys[] = {"pattern", "dtype", "hidden", "tokens", "world", "mode"};

/// Whatever a database can hold can be asked for.
template <typename Number>
constexpr Number most = std::numeric_limits<Number>::max();

template <typename Value>
void set_once(std::optional<Value>& field, Value value, const std::string& what) {
  if (field) throw UsageError("the problem's " + what + " is given twice");
  field = std::move(value);
}

void set(ProblemQuery& query, const std::string& key, const std::string& text) {
  if (text.empty()) throw UsageError(key + "= needs a value");
  if (key == "pattern") return set_once(query.pattern, text, key);
  if (key == "dtype") return set_once(query.dtype, parse_dtype(text), key);
  if (key == "mode") return set_once(query.mode, parse_mode(text), key);
  if (key == "tokens") return set_once(query.tokens, parse_integer(text, key, 1, most<std::int64_t>), key);
  const auto number = static_cast<int>(parse_integer(text, key, 1, most<int>));
  if (key == "hidden") return set_once(query.hidden, number, key);
  if (key == "world") return set_once(query.world, number, key);
  throw UsageError(unknown_name_message("part of a problem", key, keys));
}

/// A word without "=" is known by its spelling: a dtype, a mode, "in_place", else the pattern.
void set_word(ProblemQuery& query, const std::string& word) {
  for (const Dtype dtype : {Dtype::bf16, Dtype::fp16, Dtype::fp32}) {
    if (word == to_string(dtype)) return set(query, "dtype", word);
  }
  for (const Mode mode : {Mode::graph, Mode::eager}) {
    if (word == to_string(mode)) return set(query, "mode", word);
  }
  if (word == "in_place") {
    query.in_place = true;
    return;
  }
  if (query.pattern) {
    throw UsageError("'" + word + "' is not understood: the pattern is '" + *query.pattern +
                     "' already; numbers are written hidden=8192 tokens=64 world=2");
  }
  query.pattern = word;
}

/// How far a problem is from what was asked; what was not asked counts nothing. A doubling counts one, another name
/// more than any number of doublings that occurs.
double distance(const ProblemQuery& query, const Problem& problem) {
  const auto doublings = [](double a, double b) { return std::fabs(std::log2(a / b)); };
  double sum = query.in_place == problem.in_place ? 0 : 10;
  if (query.pattern && *query.pattern != problem.pattern) sum += 1000;
  if (query.dtype && *query.dtype != problem.dtype) sum += 200;
  if (query.mode && *query.mode != problem.mode) sum += 100;
  if (query.world) sum += 50 * doublings(*query.world, problem.world);
  if (query.hidden) sum += 4 * doublings(*query.hidden, problem.hidden);
  if (query.tokens) sum += doublings(static_cast<double>(*query.tokens), static_cast<double>(problem.tokens));
  return sum;
}

/// "hidden=4096,8192": the values of one part, if the problems differ in it; up to `shown` of them.
template <typename Get>
std::string choices(const std::vector<const Problem*>& problems, std::string_view part, Get get) {
  constexpr std::size_t shown = 12;
  std::vector<std::string> values;
  for (const Problem* problem : problems) {
    std::ostringstream text;
    text << get(*problem);
    if (std::find(values.begin(), values.end(), text.str()) == values.end()) values.push_back(text.str());
  }
  if (values.size() < 2) return "";
  const bool all = values.size() <= shown;
  if (!all) values.resize(shown);
  return fmt::format("\n  {}={}{}", part, joined(values, ","), all ? "" : ",...");
}

std::string ambiguous(const std::vector<const Problem*>& found) {
  std::string message = fmt::format("{} measured problems match; say which:", found.size());
  message += choices(found, "pattern", [](const Problem& p) { return p.pattern; });
  message += choices(found, "dtype", [](const Problem& p) { return to_string(p.dtype); });
  message += choices(found, "hidden", [](const Problem& p) { return p.hidden; });
  message += choices(found, "tokens", [](const Problem& p) { return p.tokens; });
  message += choices(found, "world", [](const Problem& p) { return p.world; });
  message += choices(found, "mode", [](const Problem& p) { return to_string(p.mode); });
  return message;
}

}  // namespace

bool ProblemQuery::admits(const Problem& problem) const {
  const auto agrees = [](const auto& asked, const auto& there) { return !asked || *asked == there; };
  return agrees(pattern, problem.pattern) && agrees(dtype, problem.dtype) && agrees(hidden, problem.hidden) &&
         agrees(tokens, problem.tokens) && agrees(world, problem.world) && agrees(mode, problem.mode) &&
         in_place == problem.in_place;
}

void declare_problem_query(Options& options) {
  options.value("pattern", "NAME", "allreduce, allreduce_residual_rmsnorm, ...")
      .choices(pattern_names())
      .value("dtype", "NAME", "bf16, fp16, fp32")
      .choices(dtype_names())
      .value("hidden", "H", "elements of a row")
      .value("tokens", "N", "rows")
      .value("world", "N", "number of ranks")
      .value("mode", "NAME", "graph or eager")
      .choices(mode_names())
      .flag("in-place", "the problem whose output is its input");
}

std::string database_word(const Options& options) {
  if (options.words().empty()) return "";
  const std::string& word = options.words().front();
  std::error_code ignored;
  const bool is_file = std::filesystem::is_regular_file(word, ignored) || word.find_first_of("./") != std::string::npos;
  return is_file && word.find_first_of(" =") == std::string::npos ? word : "";
}

ProblemQuery read_problem_query(const Options& options) {
  ProblemQuery query;
  query.in_place = options.has("in-place");
  for (const std::string_view key : keys) {
    const std::string name(key);
    if (options.has(name)) set(query, name, options.text(name));
  }
  const bool named = !database_word(options).empty();
  for (std::size_t i = named ? 1 : 0; i < options.words().size(); ++i) {
    const std::string& text = options.words()[i];
    std::istringstream words(text);
    for (std::string word; words >> word;) {
      const std::size_t equals = word.find('=');
      if (equals == std::string::npos) {
        set_word(query, word);
      } else {
        set(query, word.substr(0, equals), word.substr(equals + 1));
      }
    }
  }
  return query;
}

const Problem& find_problem(const ProblemQuery& query, const std::vector<Problem>& measured, const std::string& where) {
  if (measured.empty()) throw Error(where + " has no measurements; make some with: arbiter tune");
  std::vector<const Problem*> found;
  for (const Problem& problem : measured) {
    if (query.admits(problem)) found.push_back(&problem);
  }
  if (found.size() == 1) return *found.front();
  if (!found.empty()) throw UsageError(ambiguous(found));
  if (query.pattern) {
    std::set<std::string_view> patterns;
    for (const Problem& problem : measured) patterns.insert(problem.pattern);
    if (!patterns.contains(*query.pattern)) {
      const std::vector<std::string_view> valid(patterns.begin(), patterns.end());
      throw Error("in " + where + ": " + unknown_name_message("pattern", *query.pattern, valid));
    }
  }
  const auto nearest = std::min_element(measured.begin(), measured.end(), [&](const Problem& a, const Problem& b) {
    return distance(query, a) < distance(query, b);
  });
  throw Error(where + " has no such problem; the nearest that was measured is:\n  arbiter inspect --db " + where +
              " '" + nearest->name() + "'");
}

}  // namespace arbiter::cli
