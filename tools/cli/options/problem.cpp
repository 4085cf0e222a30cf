#include "options/problem.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "arbiter/generator/catalogue.hpp"
#include "arbiter/vocabulary.hpp"
#include "options/models.hpp"
#include "options/names.hpp"

namespace arbiter::cli {
namespace {

constexpr int most_tokens = 1 << 20;

template <typename Value, typename Parse>
std::vector<Value> read_names(const Options& options, const std::string& name, Value otherwise, Parse parse) {
  std::vector<Value> values;
  for (const std::string& text : options.texts(name)) {
    const Value value = parse(text);  // several spellings may mean the same
    if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
  }
  if (values.empty()) values.push_back(std::move(otherwise));
  return values;
}

void check_hidden(int hidden, Dtype dtype) {
  const auto multiple = static_cast<int>(vector_elements(dtype));
  if (hidden % multiple != 0) {
    throw UsageError(
        fmt::format("--hidden {}: a row of {} must be a multiple of {} elements (16 bytes); the nearest is {}", hidden,
                    to_string(dtype), multiple, std::max(1, (hidden + multiple / 2) / multiple) * multiple));
  }
}

/// Before any process is started for it.
void check_possible(const std::string& pattern, Dtype dtype, int hidden) {
  if (const auto reason = impossible(Catalogue::builtin().pattern(pattern), dtype, hidden)) {
    throw UsageError(*reason + ". Leave this combination out, or measure the others in a command of their own");
  }
}

}  // namespace

ProblemDefaults problem_defaults(DeviceKind device, bool quick) {
  if (device == DeviceKind::cpu)
    return {1024, 16, quick ? std::vector<std::int64_t>{1, 8} : std::vector<std::int64_t>{}};
  if (quick) return {8192, 1024, {1, 4, 16, 64, 256, 1024}};
  return {8192, 8192, {}};
}

void declare_problem_options(Options& options) {
  declare_model(options);
  options.list("pattern", "NAME", "allreduce, allreduce_residual_rmsnorm, ... (default: these two)")
      .choices(pattern_names())
      .list("dtype", "NAME", "bf16, fp16, fp32 (default: bf16)")
      .choices(dtype_names())
      .list("hidden", "H", "elements of a row (default: 8192; 1024 on the CPU device)")
      .list("mode", "NAME", "graph or eager (default: graph)")
      .choices(mode_names())
      .list("tokens", "N", "sizes to measure (default: powers of two and the midpoints, up to --max-tokens)")
      .value("max-tokens", "N", "largest size (default: 8192; 16 on the CPU device)")
      .flag("quick", "a handful of sizes only");
}

Problems read_problems(const Options& options, DeviceKind device) {
  const ProblemDefaults defaults = problem_defaults(device, options.has("quick"));
  Problems problems;
  for (const int tokens : options.integers("tokens", 1, most_tokens, {})) problems.tokens.push_back(tokens);
  if (problems.tokens.empty()) problems.tokens = defaults.tokens;
  if (options.has("max-tokens")) {
    const std::int64_t limit = options.integer("max-tokens", 1, most_tokens, 0);
    std::erase_if(problems.tokens, [&](std::int64_t tokens) { return tokens > limit; });
    if (problems.tokens.empty() && options.has("tokens")) {
      throw UsageError(fmt::format("--max-tokens {} leaves none of the sizes in --tokens", limit));
    }
  }
  std::vector<int> model_hiddens;
  const ModelPreset model = read_models(options, model_hiddens);
  // The CPU device is a thousand times slower: there a model keeps its shapes, but not its largest steps.
  std::int64_t otherwise = defaults.max_tokens;
  if (model.max_tokens > 0 && device != DeviceKind::cpu) otherwise = model.max_tokens;
  const std::int64_t largest = problems.tokens.empty() ? otherwise : problems.tokens.back();
  const std::int64_t max_tokens = options.integer("max-tokens", 1, most_tokens, largest);

  std::vector<std::string> patterns;
  for (const std::string& pattern : options.texts("pattern")) {
    const std::string& name = Catalogue::builtin().pattern(pattern).name;
    if (std::find(patterns.begin(), patterns.end(), name) == patterns.end()) patterns.push_back(name);
  }
  if (patterns.empty()) patterns = model.patterns;
  if (patterns.empty()) patterns = {"allreduce", "allreduce_residual_rmsnorm"};
  auto dtypes = read_names(options, "dtype", Dtype::bf16, parse_dtype);
  if (!options.has("dtype") && !model.dtypes.empty()) dtypes = model.dtypes;
  const auto modes = read_names(options, "mode", Mode::graph, parse_mode);
  const std::vector<int> hiddens =
      options.integers("hidden", 1, 1 << 20, model_hiddens.empty() ? std::vector<int>{defaults.hidden} : model_hiddens);
  for (const Dtype dtype : dtypes) {
    for (const int hidden : hiddens) {
      check_hidden(hidden, dtype);
      for (const std::string& pattern : patterns) check_possible(pattern, dtype, hidden);
      for (const Mode mode : modes) {
        for (const std::string& pattern : patterns) {
          problems.families.push_back({pattern, dtype, hidden, max_tokens, mode});
        }
      }
    }
  }
  return problems;
}

}  // namespace arbiter::cli
