// arbiter diff: which decisions changed between two databases, and by how much time.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "arbiter/db/diff.hpp"
#include "arbiter/tuner/inspect.hpp"
#include "commands/command.hpp"
#include "options/database.hpp"
#include "options/decision_filter.hpp"
#include "options/options.hpp"
#include "text/candidates.hpp"
#include "text/json.hpp"
#include "text/measured.hpp"
#include "text/print.hpp"
#include "text/table.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

struct Pair {
  std::string before, after;  ///< environment keys; empty: there is none
};

/// Equal environments belong together. One that was alone in each file is compared although it changed.
std::vector<Pair> pair_up(const Contents& before, const Contents& after) {
  std::vector<Pair> pairs;
  if (before.decisions.size() == 1 && after.decisions.size() == 1) {
    return {{before.decisions.begin()->first, after.decisions.begin()->first}};
  }
  for (const auto& [key, decisions] : before.decisions)
    pairs.push_back({key, after.decisions.contains(key) ? key : ""});
  for (const auto& [key, decisions] : after.decisions) {
    if (!before.decisions.contains(key)) pairs.push_back({"", key});
  }
  return pairs;
}

std::string percent(const DecisionChange& change) {
  if (change.tokens == 0 || change.before_us <= 0) return "-";
  char text[32];
  std::snprintf(text, sizeof text, "%+.1f%%", 100 * (change.after_us - change.before_us) / change.before_us);
  return text;
}

bool same_family(const Decision& a, const Decision& b) {
  return a.pattern == b.pattern && a.dtype == b.dtype && a.hidden == b.hidden && a.world == b.world && a.mode == b.mode;
}

using Changes = std::vector<DecisionChange>::const_iterator;

/// One pattern, dtype, hidden size, number of ranks and mode.
void print_family(Changes begin, Changes end, const Measurements& measurements, const TerminalStyle& style) {
  const Decision& family = begin->decision;
  print("\n%s", wrapped(fmt::format("{} {}, hidden {}, {} ranks, {}", family.pattern, to_string(family.dtype),
                                    family.hidden, family.world, to_string(family.mode)),
                        style.columns, 2)
                    .c_str());
  std::vector<std::string> families, names;
  for (auto change = begin; change != end; ++change) {
    for (const auto* candidate : {&change->before, &change->after}) {
      families.push_back(*candidate ? family_name(**candidate) : "-");
      names.push_back(*candidate ? (*candidate)->name : "-");
    }
  }
  const std::vector<Cell> cells = family_cells(families);
  const ParameterColumn parameters = parameter_column(names);
  if (!parameters.legend.empty()) {
    print("%s", wrapped("  " + parameters.legend, style.columns, 4).c_str());
  }
  const auto cell = [&](std::size_t i) {
    const std::string behind = parameters.cells[i] == "-" ? "" : " " + parameters.cells[i];
    return Cell(cells[i].text + behind, (cells[i].brief.empty() ? cells[i].text : cells[i].brief) + behind);
  };
  bool nccl_known = false;
  for (auto change = begin; change != end; ++change) {
    nccl_known = nccl_known || measurements.nccl_us(change->decision, change->tokens) > 0;
  }
  std::vector<std::string> header{"tokens", "at", "us", "now", "change"};
  if (nccl_known) header.emplace_back("vs NCCL");
  header.insert(header.end(), {"before", "after"});
  Table table(header);
  for (auto change = begin; change != end; ++change) {
    const bool timed = change->tokens != 0;
    std::vector<Cell> row{fmt::format("{}-{}", change->decision.tokens_min, change->decision.tokens_max),
                          timed ? std::to_string(change->tokens) : "-",
                          timed ? format_microseconds(change->before_us) : "-",
                          timed ? format_microseconds(change->after_us) : "-", percent(*change)};
    if (nccl_known) {
      row.emplace_back(timed ? ratio_text(measurements.nccl_us(change->decision, change->tokens), change->after_us)
                             : "-");
    }
    const auto i = 2 * static_cast<std::size_t>(change - begin);
    row.push_back(cell(i));
    row.push_back(cell(i + 1));
    row.back().strong = true;
    table.add_cells(std::move(row));
  }
  table.print(style, 2);
}

void print_as_tables(const std::vector<DecisionChange>& changes, const Measurements& measurements) {
  const TerminalStyle style = TerminalStyle::of_stdout();
  for (auto at = changes.begin(); at != changes.end();) {
    const auto end = std::find_if(
        at, changes.end(), [&](const DecisionChange& change) { return !same_family(at->decision, change.decision); });
    print_family(at, end, measurements, style);
    at = end;
  }
}

void write(llvm::json::OStream& json, const DecisionChange& change) {
  json.object([&] {
    write_fields(json, change.decision);
    for (const auto& [member, candidate] : {std::pair{"before", &change.before}, {"after", &change.after}}) {
      if (*candidate) {
        write_text(json, member, (*candidate)->name);
      } else {
        json.attribute(member, nullptr);
      }
    }
    for (const auto& [member, use] : {std::pair{"before_use", &change.before_use}, {"after_use", &change.after_use}}) {
      json.attributeObject(member, [&, use = use] { write_known_fields(json, *use); });
    }
    if (change.tokens == 0) {
      for (const char* unknown : {"tokens", "before_us", "after_us"}) json.attribute(unknown, nullptr);
      return;
    }
    json.attribute("tokens", change.tokens);
    write_number(json, "before_us", change.before_us);
    write_number(json, "after_us", change.after_us);
  });
}

/// Those of both files.
void filter_decisions(Contents& before, Contents& after, const DecisionFilter& filter) {
  std::vector<std::vector<Decision>*> lists;
  for (Contents* contents : {&before, &after}) {
    for (auto& [key, decisions] : contents->decisions) lists.push_back(&decisions);
  }
  keep_admitted(lists, filter);
}

}  // namespace

Options diff_options() {
  Options options(
      "diff",
      "Lists the intervals of tokens that BEFORE and AFTER, two databases or snapshots, decide differently:\n"
      "the winners, and the times of both at the largest size in the interval that both were measured at\n"
      "(as measured in AFTER, if it knows). Environments are paired by key; if each file has decisions of\n"
      "only one, those are compared. vs NCCL: how many times as fast as NCCL what AFTER decided is. Exit\n"
      "status 0 whether or not something differs.",
      "arbiter diff last-week.db today.db\n"
      "arbiter diff last-week.db today.db --world 4 --pattern allreduce");
  options.words("BEFORE AFTER", "BEFORE, AFTER: work databases or snapshots.", 2).files();
  declare_decision_filter(options);
  options.flag("json", "for programs; see docs/cli.md");
  return options;
}

int run_diff(const Options& options) {
  if (options.words().size() != 2) throw UsageError("expected two databases: BEFORE and AFTER");

  const DecisionFilter filter = read_decision_filter(options);
  Contents before = read_contents(options.words()[0]);
  Contents after = read_contents(options.words()[1]);
  filter_decisions(before, after, filter);
  for (const std::string& file : options.words()) mention_kernels(file);
  const std::vector<Pair> pairs = pair_up(before, after);
  if (options.has("json")) {
    print_json([&](llvm::json::OStream& json) {
      json.attribute("schema", json_schema);
      json.attributeArray("environments", [&] {
        for (const Pair& pair : pairs) {
          json.object([&] {
            write_text(json, "before", pair.before);
            write_text(json, "after", pair.after);
            json.attributeArray("changes", [&] {
              for (const DecisionChange& change : diff(before, pair.before, after, pair.after)) write(json, change);
            });
          });
        }
      });
    });
    return exit_success;
  }
  const char* separator = "";
  for (const Pair& pair : pairs) {
    const std::vector<DecisionChange> changes = diff(before, pair.before, after, pair.after);
    const Contents& holder = pair.after.empty() ? before : after;
    const std::string& key = pair.after.empty() ? pair.before : pair.after;
    print("%s%s, environment %s%s: %zu changes\n", separator, holder.environments.at(key).gpu_name.c_str(),
          key.substr(0, 12).c_str(),
          pair.before == pair.after || pair.before.empty() || pair.after.empty()
              ? ""
              : (" (before: " + pair.before.substr(0, 12) + ")").c_str(),
          changes.size());
    separator = "\n";
    if (!changes.empty()) print_as_tables(changes, Measurements(holder, key));
  }
  if (pairs.empty()) print("no decisions in either\n");
  return exit_success;
}

}  // namespace arbiter::cli
