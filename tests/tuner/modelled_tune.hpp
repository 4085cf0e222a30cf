// A tune over modelled candidates: what the tests of the search, the budget and the crashes have in common.
#pragma once

#include "modelled.hpp"

namespace arbiter::testing {

inline std::uint64_t hash_of(const std::string& text) {
  std::uint64_t hash = 1469598103934665603ULL;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  return hash ^ (hash >> 29);
}

/// One-shot is fastest up to `crossover` tokens, two-shot from there on. The default of each is its best; everything
/// else is slower by a tenth to nine tenths.
inline CostOf two_lines(double crossover) {
  return [crossover](const CandidateSpec& spec, const Problem& problem) {
    const auto tokens = static_cast<double>(problem.tokens);
    double ns =
        spec.algorithm().starts_with("oneshot") ? 2000 + 100 * tokens : 2000 + 80 * (crossover + 0.5) + 20 * tokens;
    if (problem.mode == Mode::eager) ns += 3000;
    const auto is = [&](const char* axis, int value) {
      return spec.kernel->parameters.count(axis) != 0 && spec.kernel->parameters.at(axis) == value;
    };
    const bool first = spec.algorithm().ends_with("_push") && is("threads", 256) && is("vectors", 1) &&
                       is("cluster", 1) && spec.max_blocks == 0;
    return static_cast<std::int64_t>(ns * (first ? 1.0 : 1.1 + 0.1 * static_cast<double>(hash_of(spec.name()) % 9)));
  };
}

inline ProblemFamily small_family(std::int64_t max_tokens, Mode mode = Mode::graph) {
  return {"allreduce", Dtype::bf16, 8, max_tokens, mode};
}

inline TuneOptions modelled_options(const std::filesystem::path& database) {
  TuneOptions options;
  options.families = {small_family(16)};
  options.database = database;
  options.effort.anchor_candidates = 10;
  options.effort.candidates = 6;
  options.effort.final_samples = 10;
  options.measure = MeasureSettings::for_device(DeviceKind::cpu);
  options.measure.replays = 5;
  return options;
}

/// Rank 0's result; both ranks must have the same decisions.
inline TuneResult modelled_tune(const TuneOptions& options, const CostOf& cost,
                                const std::function<void(Group&, TuneOptions&)>& change = {},
                                ProgressSink* sink = nullptr) {
  TuneResult results[2];
  on_clockwork_ranks(2, [&](Group& group, Board& board) {
    TuneOptions mine = options;
    mine.source = modelled_source(board, cost);
    if (change) change(group, mine);
    results[group.rank()] = tune(group, mine, group.rank() == 0 ? sink : nullptr);
  });
  EXPECT_EQ(results[0].decisions, results[1].decisions) << "the ranks must decide the same";
  EXPECT_EQ(results[0].notes, results[1].notes);
  return results[0];
}

}  // namespace arbiter::testing
