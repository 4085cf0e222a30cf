#include "commands/bench_stages.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <utility>

#include "arbiter/tuner/measure.hpp"
#include "arbiter/tuner/statistics.hpp"
#include "arbiter/tuner/verify.hpp"
#include "commands/command.hpp"
#include "ranks/tools.hpp"
#include "text/json.hpp"
#include "text/table.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

struct StageRow {
  ProblemFamily family;
  std::int64_t tokens = 0;
  std::string variant;
  Summary time;
  std::string failure;  ///< empty when it was timed
};

/// All variants of one pattern at one size, sampled in turns; the fastest.
StageRow fastest(Group& group, const ProblemFamily& family, std::int64_t tokens, const MeasureSettings& settings) {
  StageRow row{family, tokens, "", {}, "no stand-alone kernel fits"};
  std::vector<LoadRequest> requests;
  for (const CandidateSpec& spec : enumerate_candidates(group.capabilities(), family, {}))
    requests.push_back({spec, family});
  std::vector<LoadResult> loaded = load_on_all_ranks(group, requests);
  Verifier verifier(group, family);
  Timing timing(group, family, tokens, settings, &verifier);
  std::map<std::size_t, std::string> names;
  for (const LoadResult& result : loaded) {
    if (!result.candidate) {
      row.failure = result.reason;
      continue;
    }
    const Verification verification = verifier.verify_before_timing(subject_of(*result.candidate), tokens);
    if (!verification.ok()) {
      row.failure = result.candidate->record().name + ": " + verification.reason;
      continue;
    }
    const std::size_t index = timing.add(subject_of(*result.candidate));
    if (timing.entry(index).ok()) names.emplace(index, result.candidate->record().name);
  }
  std::vector<std::size_t> which;
  for (const auto& [index, name] : names) which.push_back(index);
  if (!which.empty()) timing.sample(which, 6, 1);
  for (const auto& [index, name] : names) {
    if (!timing.entry(index).ok()) continue;
    const Summary time = summarise(timing.entry(index).samples_us, 1);
    if (!row.variant.empty() && row.time.median_us <= time.median_us) continue;
    row.variant = name;
    row.time = time;
    row.failure.clear();
  }
  return row;
}

void print_rows(const std::vector<StageRow>& rows) {
  Table table({"pattern", "tokens", "us", "more than the first", "variant"});
  std::map<std::int64_t, double> first;
  for (const StageRow& row : rows) {
    char time[32] = "-", more[32] = "-";
    if (row.failure.empty()) {
      const double base = first.emplace(row.tokens, row.time.median_us).first->second;
      std::snprintf(time, sizeof time, "%.2f", row.time.median_us);
      std::snprintf(more, sizeof more, "%+.2f", row.time.median_us - base);
    }
    table.add({row.family.pattern, std::to_string(row.tokens), time, more,
               row.failure.empty() ? row.variant : "not timed: " + row.failure});
  }
  table.print();
}

}  // namespace

int run_stages(const Options& options, const SessionOptions& session, const Problems& problems) {
  const EnvironmentVariables variables = measuring_variables(session.device);
  std::shared_ptr<Bootstrap> alone = std::move(make_in_process_bootstraps(1).front());
  std::shared_ptr<Device> device = session.device == DeviceKind::cpu
                                       ? make_cpu_device(0)
                                       : make_cuda_device(session.gpus.empty() ? 0 : session.gpus.front());
  GroupOptions group_options;
  group_options.variables = variables;
  group_options.nccl = false;
  group_options.cache = make_cache(variables);
  const auto group = make_group(alone, device, group_options);
  std::vector<std::int64_t> sizes = problems.tokens;
  if (sizes.empty()) sizes = {1, 16, 64, 128};
  const MeasureSettings settings = MeasureSettings::for_device(session.device);
  std::vector<StageRow> rows;
  {
    ProgressLine progress;
    for (ProblemFamily family : problems.families) {
      if (group->catalogue().pattern(family.pattern).plain()) continue;
      family.max_tokens = *std::max_element(sizes.begin(), sizes.end());
      for (const std::int64_t tokens : sizes) {
        progress.update(fmt::format("{} tokens={}", family.pattern, tokens));
        rows.push_back(fastest(*group, family, tokens, settings));
      }
    }
  }
  if (!options.has("json")) {
    print_rows(rows);
    return exit_success;
  }
  print_json([&](llvm::json::OStream& json) {
    json.attribute("schema", json_schema);
    if (options.has("record")) write_text(json, "command", command_text("bench", options.arguments()));
    write_environment(json, "environment", group->environment());
    json.attributeArray("stages", [&] {
      for (const StageRow& row : rows) {
        json.object([&] {
          write_text(json, "pattern", row.family.pattern);
          write_text(json, "dtype", to_string(row.family.dtype));
          json.attribute("hidden", row.family.hidden);
          json.attribute("tokens", row.tokens);
          if (!row.failure.empty()) {
            write_text(json, "unavailable", row.failure);
            return;
          }
          write_text(json, "variant", row.variant);
          write_number(json, "median_us", row.time.median_us);
          write_number(json, "ci_low_us", row.time.ci_low_us);
          write_number(json, "ci_high_us", row.time.ci_high_us);
        });
      }
    });
  });
  return exit_success;
}

}  // namespace arbiter::cli
