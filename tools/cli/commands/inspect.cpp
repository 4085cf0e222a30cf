// arbiter inspect: every candidate of one problem, and why it won or lost.
#include <algorithm>
#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include "arbiter/tuner/inspect.hpp"
#include "commands/command.hpp"
#include "options/database.hpp"
#include "options/options.hpp"
#include "options/query.hpp"
#include "text/environment.hpp"
#include "text/json.hpp"
#include "text/print.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

/// The problem in one environment.
struct Found {
  const Environment* environment = nullptr;
  Inspection inspection;
};

std::vector<Found> find(const Contents& contents, const ProblemQuery& query, const EnvironmentFilter& filter,
                        const std::string& file) {
  std::vector<std::pair<const Environment*, std::vector<ProblemTrials>>> tried;
  std::vector<Problem> problems;
  for (const auto& [key, environment] : contents.environments) {
    if (!filter.admits(environment)) continue;
    tried.emplace_back(&environment, problem_trials(contents, key));
    for (const ProblemTrials& problem : tried.back().second) {
      if (std::find(problems.begin(), problems.end(), problem.problem) == problems.end()) {
        problems.push_back(problem.problem);
      }
    }
  }
  if (tried.empty() && !contents.environments.empty())
    throw Error(file + " has no such environment; see: arbiter show");
  if (problems.empty() && contents.trials.empty() && !contents.decisions.empty()) {
    throw Error(file + " is a snapshot: it holds decisions (arbiter show), not the measurements behind them; " +
                "inspect the work database it was made from");
  }
  const Problem problem = find_problem(query, problems, file);
  // GPUs first: who has both in one file asks about those.
  std::stable_partition(tried.begin(), tried.end(), [](const auto& entry) { return entry.first->device != "cpu"; });
  std::vector<Found> found;
  for (const auto& [environment, measured] : tried) {
    for (const ProblemTrials& trials : measured) {
      if (trials.problem == problem) found.push_back({environment, inspect(contents, environment->key(), trials)});
    }
  }
  return found;
}

std::string giga(double bytes_per_second) {
  char text[32];
  const double number = bytes_per_second * 1e-9;
  std::snprintf(text, sizeof text, number < 0.1 ? "%.2g" : number < 10 ? "%.2f" : "%.1f", number);
  return text;
}

std::string interval(const Summary& summary) {
  return format_microseconds(summary.ci_low_us) + " - " + format_microseconds(summary.ci_high_us);
}

void print_as_table(const Contents& contents, const Found& found) {
  const Problem& problem = found.inspection.problem;
  print("%s: %s\nenvironment %s: %s\n", problem.name().c_str(),
        format_bytes(static_cast<std::uint64_t>(problem.bytes())).c_str(), short_key(*found.environment).c_str(),
        describe(*found.environment).c_str());
  std::set<std::string> runs;
  for (const InspectedCandidate& candidate : found.inspection.candidates) runs.insert(candidate.latest.trial->run);
  for (const std::string& id : runs) {
    const Run& run = contents.runs.at(id).run;
    print("run %s: %s, %s UTC%s\n", id.c_str(), run.host.c_str(), format_date(run.started).c_str(),
          run.dropped().empty() ? "" : ("; " + run.dropped() + " dropped during it").c_str());
  }
  if (const Decision* decision = found.inspection.decision) {
    print("decision: %lld to %lld tokens\n", static_cast<long long>(decision->tokens_min),
          static_cast<long long>(decision->tokens_max));
  }
  print("\n");
  const bool several = runs.size() > 1;
  std::vector<std::string> header{"candidate", "us", "95% interval", "samples", "alg GB/s", "bus GB/s"};
  if (several) header.emplace_back("run");
  header.insert(header.end(), {"verdict", "parameters"});
  Table table(header);
  for (const InspectedCandidate& candidate : found.inspection.candidates) {
    const CandidateText text = split_candidate(candidate.latest.candidate->name);
    std::vector<std::string> row{text.algorithm};
    if (const auto& summary = candidate.summary) {
      row.insert(row.end(), {format_microseconds(summary->median_us), interval(*summary),
                             std::to_string(summary->samples), giga(algorithm_bandwidth(problem, summary->median_us)),
                             giga(bus_bandwidth(problem, summary->median_us))});
    } else {
      row.insert(row.end(), {"-", "-", "-", "-", "-"});
    }
    if (several) row.push_back(candidate.latest.trial->run.substr(0, 8));
    row.push_back(candidate.verdict + (candidate.summary && candidate.summary->bimodal ? " (two modes)" : ""));
    row.push_back(text.parameters);
    table.add(std::move(row));
  }
  table.print();
}

void write(llvm::json::OStream& json, const Problem& problem, const InspectedCandidate& candidate) {
  const Candidate& what = *candidate.latest.candidate;
  const StoredTrial& trial = *candidate.latest.trial;
  json.object([&] {
    write_text(json, "candidate", what.name);
    write_text(json, "backend", to_string(what.backend));
    write_text(json, "algorithm", what.algorithm);
    write_text(json, "numerics", to_string(what.numerics));
    write_text(json, "source_hash", what.source_hash);
    write_text(json, "run", trial.run);
    write_text(json, "status", to_string(trial.status));
    write_text(json, "reason", trial.reason);
    json.attribute("winner", candidate.winner);
    write_text(json, "verdict", candidate.verdict);
    json.attribute("blocks", trial.blocks);
    json.attribute("calls_per_sample", trial.calls_per_sample);
    if (!candidate.summary) {
      json.attribute("samples", 0);
      for (const char* unknown : {"median_us", "ci_low_us", "ci_high_us", "bimodal", "slower_percent",
                                  "algorithm_bandwidth", "bus_bandwidth"}) {
        json.attribute(unknown, nullptr);
      }
      return;
    }
    const Summary& summary = *candidate.summary;
    json.attribute("samples", static_cast<std::int64_t>(summary.samples));
    write_number(json, "median_us", summary.median_us);
    write_number(json, "ci_low_us", summary.ci_low_us);
    write_number(json, "ci_high_us", summary.ci_high_us);
    json.attribute("bimodal", summary.bimodal);
    write_number(json, "slower_percent", candidate.slower_percent);
    write_number(json, "algorithm_bandwidth", algorithm_bandwidth(problem, summary.median_us));
    write_number(json, "bus_bandwidth", bus_bandwidth(problem, summary.median_us));
  });
}

void print_as_json(const std::vector<Found>& found) {
  const Inspection& inspection = found.front().inspection;
  const Problem& problem = inspection.problem;
  print_json(*found.front().environment, [&](llvm::json::OStream& json) {
    json.attributeObject("problem", [&] {
      write_text(json, "name", problem.name());
      write_text(json, "pattern", problem.pattern);
      write_text(json, "dtype", to_string(problem.dtype));
      json.attribute("hidden", problem.hidden);
      json.attribute("tokens", problem.tokens);
      json.attribute("world", problem.world);
      write_text(json, "mode", to_string(problem.mode));
      json.attribute("in_place", problem.in_place);
      json.attribute("bytes", problem.bytes());
    });
    if (inspection.decision != nullptr) {
      json.attributeObject("decision", [&] {
        json.attribute("tokens_min", inspection.decision->tokens_min);
        json.attribute("tokens_max", inspection.decision->tokens_max);
        write_text(json, "candidate", inspection.decision->candidate.name);
      });
    } else {
      json.attribute("decision", nullptr);
    }
    json.attributeArray("candidates", [&] {
      for (const InspectedCandidate& candidate : inspection.candidates) write(json, problem, candidate);
    });
  });
  std::vector<const Environment*> environments;
  for (const Found& entry : found) environments.push_back(entry.environment);
  mention_others(environments);
}

}  // namespace

Options inspect_options() {
  constexpr int most_words = 8;
  Options options(
      "inspect",
      "Shows every candidate that was tried on one problem: median and 95% interval of its time, the\n"
      "bandwidth that means, and why it won or lost. alg GB/s: bytes of one rank's message per second; bus\n"
      "GB/s: that times 2(N-1)/N, as nccl-tests defines it. What is not said about the problem is found\n"
      "out, if only one measured problem matches.",
      "arbiter inspect --db cluster.db 'allreduce bf16 hidden=8192 tokens=64 world=2'\n"
      "arbiter inspect --db cluster.db --pattern allreduce_residual_rmsnorm --world 4 --tokens 16 --json");
  options.words("[PROBLEM]", "PROBLEM: the problem in one text or several words, instead of the options below.",
                most_words);
  declare_database(options, "work database to read");
  declare_problem_query(options);
  declare_environment_filter(options);
  options.flag("json", "for programs; see docs/cli.md");
  return options;
}

int run_inspect(const Options& options) {
  const ProblemQuery query = read_problem_query(options);
  const EnvironmentFilter filter = read_environment_filter(options);
  const std::filesystem::path file = database_path(options);
  const Contents contents = read_contents(file);
  mention_kernels(file);
  const std::vector<Found> found = find(contents, query, filter, file.string());
  if (options.has("json")) {
    print_as_json(found);
    return exit_success;
  }
  for (const Found& entry : found) {
    if (&entry != &found.front()) print("\n");
    print_as_table(contents, entry);
  }
  return exit_success;
}

}  // namespace arbiter::cli
