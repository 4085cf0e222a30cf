#include "text/show_tables.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "arbiter/db/nccl_configuration.hpp"
#include "arbiter/generator/joined.hpp"
#include "arbiter/tuner/inspect.hpp"
#include "text/candidates.hpp"
#include "text/environment.hpp"
#include "text/measured.hpp"
#include "text/table.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

using Decisions = std::vector<Decision>::const_iterator;

bool same_family(const Decision& a, const Decision& b) {
  return a.pattern == b.pattern && a.dtype == b.dtype && a.hidden == b.hidden && a.world == b.world && a.mode == b.mode;
}

std::string interval(const Decision& decision) {
  if (decision.tokens_min == decision.tokens_max) return fmt::format("{}", decision.tokens_min);
  return fmt::format("{}-{}", decision.tokens_min, decision.tokens_max);
}

std::vector<double> ratios(const Measurements& measurements, Decisions begin, Decisions end) {
  std::vector<double> all;
  for (auto d = begin; d != end; ++d) {
    const double nccl = measurements.of(*d).nccl_us;
    if (nccl > 0 && d->median_us > 0) all.push_back(nccl / d->median_us);
  }
  return all;
}

std::string size_text(std::int64_t bytes) { return format_bytes(static_cast<std::uint64_t>(bytes)); }

/// Of a snapshot from before schema 4 the size that a time belongs to is not known, unless the interval has but one.
bool knows_sizes(const Measurements& measurements, Decisions begin, Decisions end) {
  return measurements.any() ||
         std::all_of(begin, end, [&](const Decision& d) { return measurements.of(d).tokens > 0; });
}

std::string family_table(const Measurements& measurements, Decisions begin, Decisions end, const TerminalStyle& style) {
  std::vector<std::string> winners, runners_up, names;
  for (auto d = begin; d != end; ++d) {
    winners.push_back(family_name(d->candidate));
    names.push_back(d->candidate.name);
    runners_up.push_back(d->runner_up ? family_name(*d->runner_up) : "-");
  }
  std::vector<std::string> both = winners;
  both.insert(both.end(), runners_up.begin(), runners_up.end());
  const std::vector<Cell> cells = family_cells(both);
  const ParameterColumn parameters = parameter_column(names);
  const std::vector<double> known = ratios(measurements, begin, end);

  const std::string over = ratio_range(known);
  std::string text =
      wrapped(fmt::format("{} {}, hidden {}, {} ranks, {}{}", begin->pattern, to_string(begin->dtype), begin->hidden,
                          begin->world, to_string(begin->mode), over.empty() ? "" : ": " + over),
              style.columns, 2);
  if (!parameters.legend.empty()) text += wrapped("  " + parameters.legend, style.columns, 4);
  const bool sizes_known = knows_sizes(measurements, begin, end);
  std::vector<std::string> header{"tokens", sizes_known ? "timed at" : "up to", "winner", "us"};
  if (!known.empty()) header.emplace_back("vs NCCL");
  header.insert(header.end(), {"runner-up", "us"});
  if (!parameters.title.empty()) header.push_back(parameters.title);
  Table table(header);
  std::size_t row = 0;
  for (auto d = begin; d != end; ++d, ++row) {
    const DecisionMeasurements at = measurements.of(*d);
    Cell winner = cells[row];
    winner.strong = true;
    std::vector<Cell> line{interval(*d),
                           sizes_known ? (at.bytes > 0 ? size_text(at.bytes) : "-") : size_text(d->bytes_max()), winner,
                           format_microseconds(d->median_us)};
    if (!known.empty()) line.emplace_back(ratio_text(at.nccl_us, d->median_us));
    line.push_back(cells[winners.size() + row]);
    line.emplace_back(d->runner_up ? format_microseconds(d->runner_up_median_us) : "-");
    if (!parameters.title.empty()) line.emplace_back(parameters.cells[row]);
    table.add_cells(std::move(line));
  }
  return text + table.text(style, 2);
}

/// "ring, ll128, 8 channels"; "as NCCL chooses".
Cell configuration_cell(const Candidate& candidate) {
  const std::optional<NcclConfiguration> asked = nccl_configuration(candidate);
  if (!asked) return candidate.name;
  std::vector<std::string> parts;
  for (const std::string_view part : {to_string(asked->algorithm), to_string(asked->protocol)}) {
    if (!part.empty()) parts.emplace_back(part);
  }
  std::vector<std::string> brief = parts;
  if (asked->channels != 0) {
    parts.push_back("at most " + plural(static_cast<std::size_t>(asked->channels), "channel"));
    brief.push_back(fmt::format("<={} ch.", asked->channels));
  }
  return parts.empty() ? Cell("as NCCL chooses") : Cell(joined(parts, ", "), joined(brief, " "));
}

std::string nccl_tables(const Measurements& measurements, const DecisionSet& set, const TerminalStyle& style) {
  std::string text;
  for (auto at = set.nccl.begin(); at != set.nccl.end();) {
    const int world = at->world;
    const auto end = std::find_if(at, set.nccl.end(), [&](const NcclChoice& choice) { return choice.world != world; });
    text += "\n" + wrapped(fmt::format("NCCL alone, plain allreduce, {} on {}: what libarbiter-nccl-tuner.so serves "
                                       "from a snapshot",
                                       plural(static_cast<std::size_t>(world), "rank"),
                                       plural(static_cast<std::size_t>(nodes_of(set.environment, world)), "node")),
                           style.columns, 2);
    std::vector<std::string> header{"bytes up to"};
    if (measurements.any()) header.emplace_back("timed at");
    header.insert(header.end(), {"configuration", "us", "fastest that names all", "us"});
    Table table(header);
    for (; at != end; ++at) {
      std::vector<Cell> row{fmt::format("{}", at->bytes_max)};
      const std::int64_t bytes = measurements.bytes_of(*at);
      if (measurements.any()) row.emplace_back(bytes > 0 ? size_text(bytes) : "-");
      row.push_back(configuration_cell(at->candidate));
      row.emplace_back(format_microseconds(at->median_us));
      row.push_back(at->forced ? configuration_cell(*at->forced) : Cell("-"));
      row.emplace_back(at->forced ? format_microseconds(at->forced_median_us) : "-");
      table.add_cells(std::move(row));
    }
    text += table.text(style, 2);
  }
  return text;
}

}  // namespace

std::string headline(const Contents& contents, const DecisionSet& set) {
  const Measurements measurements(contents, set.environment.key());
  const std::string over = ratio_range(ratios(measurements, set.decisions.begin(), set.decisions.end()));
  std::set<int> worlds;
  for (const Decision& decision : set.decisions) worlds.insert(decision.world);
  return fmt::format("{}{}, {} ranks on {}", over.empty() ? "" : over + ", ", plural(set.decisions.size(), "decision"),
                     joined(worlds, ", "),
                     set.environment.device == "cpu" ? "the CPU device" : set.environment.gpu_name);
}

std::string show_tables(const Contents& contents, const std::vector<DecisionSet>& sets, const TerminalStyle& style) {
  std::string text;
  for (const DecisionSet& set : sets) {
    const Measurements measurements(contents, set.environment.key());
    if (!text.empty()) text += "\n";
    if (!set.decisions.empty()) text += wrapped(headline(contents, set), style.columns, 2);
    text += wrapped("environment " + short_key(set.environment) + ": " + describe(set.environment), style.columns, 2);
    if (set.decisions.empty()) text += "no decisions\n";
    if (!knows_sizes(measurements, set.decisions.begin(), set.decisions.end())) {
      text +=
          wrapped("a snapshot: times were taken at some size of the interval, at most the one shown", style.columns, 2);
    }
    for (auto at = set.decisions.begin(); at != set.decisions.end();) {
      const auto end = std::find_if(at, set.decisions.end(), [&](const Decision& d) { return !same_family(*at, d); });
      text += "\n" + family_table(measurements, at, end, style);
      at = end;
    }
    if (!set.decisions.empty()) {
      text +=
          "\n" + wrapped(
                     "other sizes were not measured: the nearest tuned hidden size, what is shipped and the heuristic "
                     "decide there",
                     style.columns, 2);
    }
    text += nccl_tables(measurements, set, style);
  }
  return text;
}

}  // namespace arbiter::cli
