// arbiter inspect: every candidate of one problem, and why it won or lost.
#include <fmt/format.h>

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
#include "text/candidates.hpp"
#include "text/environment.hpp"
#include "text/json.hpp"
#include "text/print.hpp"
#include "text/table.hpp"
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

/// Half of the 95% interval, relative to the median.
std::string uncertainty(const Summary& summary) {
  if (summary.median_us <= 0) return "-";
  return fmt::format("{:.1f}%", 50 * (summary.ci_high_us - summary.ci_low_us) / summary.median_us);
}

/// A verdict is "winner: fastest beyond noise": what stands in the table, and the rest in a note below it.
class Notes {
 public:
  std::string shorten(const InspectedCandidate& candidate) {
    std::string verdict = candidate.verdict;
    if (candidate.screened) verdict = fmt::format("screened, {:+.1f}%", candidate.slower_percent);
    if (candidate.summary && candidate.summary->bimodal) verdict += ", two modes";
    const std::size_t colon = verdict.find(": ");
    if (colon == std::string::npos) return verdict;
    const std::string rest = verdict.substr(colon + 2);
    auto found = std::find(notes_.begin(), notes_.end(), rest);
    if (found == notes_.end()) found = notes_.insert(notes_.end(), rest);
    return fmt::format("{} [{}]", verdict.substr(0, colon), found - notes_.begin() + 1);
  }
  void print(const TerminalStyle& style) const {
    for (std::size_t i = 0; i < notes_.size(); ++i) {
      cli::print("%s", wrapped(fmt::format("[{}] {}", i + 1, notes_[i]), style.columns, 4).c_str());
    }
  }

 private:
  std::vector<std::string> notes_;
};

/// Of the finalists; 0 if NCCL is none.
double nccl_us(const Inspection& inspection) {
  double best = 0;
  for (const InspectedCandidate& candidate : inspection.candidates) {
    if (!candidate.summary || candidate.screened || candidate.latest.candidate->backend != Backend::nccl) continue;
    if (best == 0 || candidate.summary->median_us < best) best = candidate.summary->median_us;
  }
  return best;
}

bool knows_registers(const Inspection& inspection) {
  return std::any_of(
      inspection.candidates.begin(), inspection.candidates.end(),
      [](const InspectedCandidate& candidate) { return is_recorded(candidate.latest.trial->use.registers); });
}

/// "64", or "64+8" with 8 bytes that did not fit.
std::string registers(const KernelUse& use) {
  if (!is_recorded(use.registers)) return "-";
  return use.spill_bytes > 0 ? fmt::format("{}+{}", use.registers, use.spill_bytes) : std::to_string(use.registers);
}

void print_heading(const Contents& contents, const Found& found, const TerminalStyle& style) {
  const Problem& problem = found.inspection.problem;
  const auto line = [&](const std::string& text) { print("%s", wrapped(text, style.columns, 2).c_str()); };
  line(fmt::format("{}: {}", problem.name(), format_bytes(static_cast<std::uint64_t>(problem.bytes()))));
  line(fmt::format("environment {}: {}", short_key(*found.environment), describe(*found.environment)));
  std::set<std::string> runs;
  for (const InspectedCandidate& candidate : found.inspection.candidates) runs.insert(candidate.latest.trial->run);
  for (const std::string& id : runs) {
    const Run& run = contents.runs.at(id).run;
    line(fmt::format("run {}: {}, {} UTC{}", id, run.host, format_date(run.started),
                     run.dropped().empty() ? "" : "; " + run.dropped() + " dropped during it"));
  }
  const Decision* decision = found.inspection.decision;
  if (decision == nullptr) return;
  const InspectedCandidate& winner = found.inspection.candidates.front();
  const double nccl = nccl_us(found.inspection);
  std::string over;
  if (winner.winner && winner.summary && nccl > 0)
    over = ": " + ratio_text(nccl, winner.summary->median_us) + " over NCCL";
  line(fmt::format("decision: {} for {} to {} tokens{}", family_name(decision->candidate), decision->tokens_min,
                   decision->tokens_max, over));
}

void print_as_table(const Contents& contents, const Found& found) {
  const TerminalStyle style = TerminalStyle::of_stdout();
  const Problem& problem = found.inspection.problem;
  print_heading(contents, found, style);
  std::vector<std::string> families, names, runs;
  for (const InspectedCandidate& candidate : found.inspection.candidates) {
    families.push_back(family_name(*candidate.latest.candidate));
    names.push_back(candidate.latest.candidate->name);
    if (std::find(runs.begin(), runs.end(), candidate.latest.trial->run) == runs.end()) {
      runs.push_back(candidate.latest.trial->run);
    }
  }
  const std::vector<Cell> cells = family_cells(families);
  const ParameterColumn parameters = parameter_column(names);
  const double nccl = nccl_us(found.inspection);
  if (!parameters.legend.empty()) {
    print("%s", wrapped(parameters.legend, style.columns, 2).c_str());
  }
  print("\n");
  std::vector<std::string> header{"candidate"};
  if (!parameters.title.empty()) header.push_back(parameters.title);
  header.insert(header.end(), {"us", "+-", "n", "bus GB/s"});
  const bool compiled = knows_registers(found.inspection);
  if (compiled) header.emplace_back("regs");
  if (nccl > 0) header.emplace_back("vs NCCL");
  if (runs.size() > 1) header.emplace_back("run");
  header.emplace_back("verdict");
  Table table(header);
  Notes notes;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const InspectedCandidate& candidate = found.inspection.candidates[i];
    std::vector<Cell> row{cells[i]};
    if (!parameters.title.empty()) row.emplace_back(parameters.cells[i]);
    if (const auto& summary = candidate.summary) {
      for (const std::string& text :
           {format_microseconds(summary->median_us), uncertainty(*summary), std::to_string(summary->samples),
            giga(bus_bandwidth(problem, summary->median_us))}) {
        row.emplace_back(text);
      }
    } else {
      row.insert(row.end(), 4, Cell("-"));
    }
    if (compiled) row.emplace_back(registers(candidate.latest.trial->use));
    if (nccl > 0) row.emplace_back(candidate.summary ? ratio_text(nccl, candidate.summary->median_us) : "-");
    if (runs.size() > 1) row.emplace_back(candidate.latest.trial->run.substr(0, 8));
    row.emplace_back(notes.shorten(candidate));
    if (candidate.winner) {
      for (Cell& cell : row) cell.strong = true;
    }
    table.add_cells(std::move(row));
  }
  table.print(style);
  print("\n");
  notes.print(style);
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
    json.attribute("screened", candidate.screened);
    write_text(json, "verdict", candidate.verdict);
    json.attribute("blocks", trial.blocks);
    json.attribute("calls_per_sample", trial.calls_per_sample);
    write_known_fields(json, trial.use);
    if (!candidate.summary) {
      json.attribute("samples", 0);
      for (const char* unknown : {"median_us", "ci_low_us", "ci_high_us", "bimodal", "slower_percent",
                                  "algorithm_bandwidth", "bus_bandwidth"}) {
        json.attribute(unknown, nullptr);
      }
      return;
    }
    const Summary& summary = *candidate.summary;
    write_field(json, "samples", summary.samples);
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
      write_fields(json, problem);
      json.attribute("bytes", problem.bytes());
    });
    if (inspection.decision != nullptr) {
      json.attributeObject("decision", [&] {
        json.attribute("tokens_min", inspection.decision->tokens_min);
        json.attribute("tokens_max", inspection.decision->tokens_max);
        write_text(json, "candidate", inspection.decision->candidate.name);
        write_known_fields(json, inspection.decision->use);
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
      "Shows every candidate that was tried on one problem: the median of its time, half of its 95% interval\n"
      "(+-), the number of samples (n), the bus bandwidth that means (bytes of one rank's message per second,\n"
      "times 2(N-1)/N, as nccl-tests defines it), registers of a thread and + bytes that did not fit into them\n"
      "(regs), and why it won or lost, and by how much. Candidates that were only screened have a few samples. What is "
      "not said about the problem is found out, if only one\n"
      "measured problem matches.",
      "arbiter inspect cluster.db allreduce bf16 hidden=8192 tokens=64 world=2\n"
      "arbiter inspect --db cluster.db --pattern allreduce_residual_rmsnorm --world 4 --tokens 16 --json");
  options.words(
      "[DB] [PROBLEM]",
      "DB: the same as --db DB. PROBLEM: the problem in one text or several words, instead of the options below.",
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
  const std::filesystem::path file = database_path(options, database_word(options));
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
