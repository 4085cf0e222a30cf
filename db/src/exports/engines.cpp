// The tables that engines have of their own.
#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>
#include <map>
#include <set>

#include "arbiter/error.hpp"
#include "arbiter/generator/catalogue.hpp"
#include "exports/comment.hpp"
#include "exports/curves.hpp"
#include "records/digest.hpp"

namespace arbiter {
namespace {

using db::BandPoint;
using db::in_a_comment;
using db::ProblemTimes;

bool follows_with_epilogue(const Candidate& c) { return c.name.find("+epilogue") != std::string::npos; }
bool is_nccl(const Candidate& c) { return c.backend == Backend::nccl; }
bool is_fused(const Candidate& c) { return !is_nccl(c) && !follows_with_epilogue(c); }

/// What the catalogue says of a fused kernel's algorithm; null for anything else. Of an algorithm that it does not have
/// nobody knows how it moves data.
const AlgorithmEntry* algorithm_of(const Candidate& c) {
  if (!is_fused(c)) return nullptr;
  for (const AlgorithmEntry& entry : Catalogue::builtin().algorithms())
    if (entry.backend == c.backend && entry.name == c.algorithm) return &entry;
  return nullptr;
}
bool is_one_shot(const Candidate& c) {
  const AlgorithmEntry* algorithm = algorithm_of(c);
  return algorithm != nullptr && algorithm->one_shot();
}
bool is_two_shot(const Candidate& c) {
  const AlgorithmEntry* algorithm = algorithm_of(c);
  return algorithm != nullptr && algorithm->two_shot();
}
bool moves_by(const Candidate& c, Transport transport) {
  const AlgorithmEntry* algorithm = algorithm_of(c);
  return algorithm != nullptr && algorithm->transport == transport;
}

const Environment& environment_of(const Contents& contents, const std::string& key) {
  const auto found = contents.environments.find(key);
  if (found == contents.environments.end()) throw DatabaseError("there is no environment " + key);
  return found->second;
}

[[noreturn]] void nothing_for(const char* format, const char* needs) {
  throw DatabaseError(std::string("there is nothing in it for the format '") + format + "', which needs " + needs +
                      ". Tune that first, or choose another environment.");
}

std::string subject(const char* what, int compute_capability, int world, Mode mode) {
  return fmt::format("{}, compute capability {}, {} ranks, {}", what, compute_capability, world, to_string(mode));
}

std::string mib(std::int64_t bytes) { return db::exact_text(static_cast<double>(bytes) / (1024 * 1024)); }

/// {compute capability: {ranks: value}}
std::string dictionary(const char* name, int compute_capability, const std::map<int, std::string>& values) {
  std::string text = fmt::format("{} = {{\n    {}: {{\n", name, compute_capability);
  for (const auto& [world, value] : values) text += fmt::format("        {}: {},\n", world, value);
  return text + "    },\n}\n";
}

}  // namespace

EngineExport export_vllm(const Contents& contents, const std::string& key) {
  const Environment& environment = environment_of(contents, key);
  const std::vector<ProblemTimes> all = db::problem_times(contents, key);
  Mode mode = Mode::eager;
  for (const ProblemTimes& times : all) {
    if (times.problem.mode == Mode::graph && times.problem.pattern != "allreduce") mode = Mode::graph;
  }
  std::map<int, std::vector<BandPoint>> fused, one_shot;
  for (const ProblemTimes& times : all) {
    const Problem& problem = times.problem;
    if (problem.mode != mode || problem.pattern == "allreduce") continue;
    const auto bytes = problem.bytes();
    fused[problem.world].push_back(
        {bytes, {db::fastest(times, is_fused), db::fastest(times, [](const Candidate& c) { return !is_fused(c); })}});
    one_shot[problem.world].push_back({bytes, {db::fastest(times, is_one_shot), db::fastest(times, is_two_shot)}});
  }
  if (fused.empty()) nothing_for("vllm", "fused patterns");
  EngineExport result;
  const int capability = environment.compute_capability;
  std::map<int, std::string> fused_mib, one_shot_mib;
  for (const auto& [world, points] : fused) {
    const db::BandFit limit = db::fit_bands(points, 2, subject("largest fused message", capability, world, mode));
    fused_mib[world] = mib(limit.largest[0]);
    result.losses.push_back(limit.loss);
    // Above the fused limit the engine does not ask, so those sizes must not pull at the one-shot limit.
    std::vector<BandPoint> below;
    for (const BandPoint& point : one_shot[world]) {
      if (point.bytes <= limit.largest[0]) below.push_back(point);
    }
    const db::BandFit shots = db::fit_bands(below, 2, subject("largest one-shot message", capability, world, mode));
    one_shot_mib[world] = mib(shots.largest[0]);
    result.losses.push_back(shots.loss);
  }
  result.text = "# " + in_a_comment(environment.gpu_name) + ", MiB by compute capability and number of ranks\n" +
                dictionary("FI_ALLREDUCE_FUSION_MAX_SIZE_MB", capability, fused_mib) +
                dictionary("_FI_ALLREDUCE_ONE_SHOT_MAX_SIZES_MB", capability, one_shot_mib);
  return result;
}

EngineExport export_sglang(const Contents& contents, const std::string& key) {
  const Environment& environment = environment_of(contents, key);
  std::map<int, std::map<Mode, std::vector<BandPoint>>> points;
  // The engine has two-shot kernels that pull, and no others: what stages or pushes must not speak for them.
  const auto one_shot = [](Transport transport) {
    return [transport](const Candidate& c) { return is_one_shot(c) && moves_by(c, transport); };
  };
  const auto two_shot_pull = [](const Candidate& c) { return is_two_shot(c) && moves_by(c, Transport::pull); };
  for (const ProblemTimes& times : db::problem_times(contents, key)) {
    const Problem& problem = times.problem;
    if (problem.pattern != "allreduce") continue;
    points[problem.world][problem.mode].push_back(
        {problem.bytes(),
         {db::fastest(times, one_shot(Transport::push)), db::fastest(times, one_shot(Transport::pull)),
          db::fastest(times, two_shot_pull), db::fastest(times, is_nccl)}});
  }
  if (points.empty()) nothing_for("sglang", "the pattern allreduce");
  EngineExport result;
  result.text = fmt::format("# {}: bytes; a message is below a threshold or goes to the next one\n{{\n    {}: {{\n",
                            in_a_comment(environment.gpu_name), environment.compute_capability);
  for (const auto& [world, modes] : points) {
    result.text += fmt::format("        {}: {{\n", world);
    for (const auto& [mode, list] : modes) {
      const db::BandFit fit =
          db::fit_bands(list, 4, subject("thresholds", environment.compute_capability, world, mode));
      result.losses.push_back(fit.loss);
      const auto below = [&](std::size_t i) {
        // Inclusive here, exclusive there.
        return std::to_string(fit.largest[i] == 0 ? 0 : fit.largest[i] + 1);
      };
      result.text += "            \"" + std::string(to_string(mode)) + "\": {\"one_shot_push_threshold\": " + below(0) +
                     ", \"one_shot_pull_threshold\": " + below(1) + ", \"two_shot_pull_threshold\": " + below(2) +
                     "},\n";
    }
    result.text += "        },\n";
  }
  result.text += "    },\n}\n";
  return result;
}

namespace {

constexpr std::array<int, 3> table_worlds = {2, 4, 8};
constexpr std::array<const char*, 2> table_patterns = {"allreduce", "allreduce_residual_rmsnorm"};
constexpr std::array<const char*, 2> table_fusions = {"NONE", "RESIDUAL_RMS_NORM"};
constexpr int first_hidden = 7, hidden_sizes = 7, token_sizes = 15;  // powers of two
constexpr std::array<int, 3> strategies = {0, 4, 5};                 // NCCL, one-shot, two-shot

std::array<std::optional<double>, 3> strategy_times(const ProblemTimes& times) {
  return {db::fastest(times, [](const Candidate& c) { return !is_fused(c); }), db::fastest(times, is_one_shot),
          db::fastest(times, is_two_shot)};
}

std::size_t fastest_strategy(const ProblemTimes& times) {
  const auto us = strategy_times(times);
  std::size_t best = 0;
  for (std::size_t i = 0; i < us.size(); ++i) {
    if (us[i] && (!us[best] || *us[i] < *us[best])) best = i;
  }
  return best;
}

/// What was measured nearest to a cell: the nearest hidden size, then the nearest message (both by ratio).
const ProblemTimes* nearest(const std::vector<const ProblemTimes*>& family, int hidden, std::int64_t tokens) {
  const ProblemTimes* best = nullptr;
  std::pair<double, double> least;
  for (const ProblemTimes* times : family) {
    const auto& p = times->problem;
    const double apart = std::fabs(std::log2(static_cast<double>(p.hidden) / hidden));
    const double message =
        std::fabs(std::log2(static_cast<double>(p.tokens) * p.hidden / (static_cast<double>(tokens) * hidden)));
    if (best == nullptr || std::pair(apart, message) < least) {
      best = times;
      least = {apart, message};
    }
  }
  return best;
}

/// Where the engine looks a size up: the power of two below, within the table.
int cell(std::int64_t size, int first, int count) {
  const int power = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(size))) - 1 - first;
  return std::min(std::max(power, 0), count - 1);
}

}  // namespace

EngineExport export_tensorrt_llm(const Contents& contents, const std::string& key) {
  const Environment& environment = environment_of(contents, key);
  const std::vector<ProblemTimes> all = db::problem_times(contents, key);
  EngineExport result;
  const std::string sm = std::to_string(environment.compute_capability);
  std::string rows;
  for (const int world : table_worlds) {
    rows += fmt::format("    {{\n        // TP={}\n", world);
    for (std::size_t fusion = 0; fusion < table_patterns.size(); ++fusion) {
      rows += std::string("        {  // ") + table_fusions[fusion] + "\n";
      std::vector<const ProblemTimes*> family;
      for (const ProblemTimes& times : all) {
        const Problem& p = times.problem;
        if (p.world == world && p.pattern == table_patterns[fusion] && p.dtype != Dtype::fp32) family.push_back(&times);
      }
      std::array<std::array<std::size_t, token_sizes>, hidden_sizes> table{};  // NCCL where nothing is known
      for (int h = 0; h < hidden_sizes; ++h) {
        rows += "            {";
        for (int t = 0; t < token_sizes; ++t) {
          auto& entry = table[static_cast<std::size_t>(h)][static_cast<std::size_t>(t)];
          const ProblemTimes* times = nearest(family, 1 << (first_hidden + h), std::int64_t{1} << t);
          if (times != nullptr) entry = fastest_strategy(*times);
          rows += (t == 0 ? "" : ", ") + std::to_string(strategies[entry]);
        }
        rows += fmt::format("}},  // hidden {}\n", 1 << (first_hidden + h));
      }
      rows += "        },\n";
      if (family.empty()) continue;
      Loss loss;
      loss.what = fmt::format("table of SM {}, {} ranks, {}", sm, world, table_fusions[fusion]);
      for (const ProblemTimes* times : family) {
        const auto us = strategy_times(*times);
        const auto best = us[fastest_strategy(*times)];
        if (!best) continue;
        const int h = cell(times->problem.hidden, first_hidden, hidden_sizes);
        const int t = cell(times->problem.tokens, 0, token_sizes);
        db::add_loss(loss, us[table[static_cast<std::size_t>(h)][static_cast<std::size_t>(t)]], *best);
      }
      db::finish_loss(loss);
      result.losses.push_back(loss);
    }
    rows += "    },\n";
  }
  if (result.losses.empty()) {
    nothing_for("tensorrt-llm", "the patterns allreduce or allreduce_residual_rmsnorm on 2, 4 or 8 ranks");
  }
  result.text = "// " + in_a_comment(environment.gpu_name) +
                ". [TP][fusion][hidden][tokens]: 0 NCCL, 4 one-shot, 5 two-shot\n"
                "// Hidden: 128, 256, ... 8192. Tokens: 1, 2, ... 16384\n"
                "inline AllReduceBestStrategyTableType AllReduceBestStrategyTableSM" +
                sm + " = {\n" + rows + "};\n";
  return result;
}

}  // namespace arbiter
