#include "text/show_plot.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <map>
#include <string>
#include <utility>

#include "arbiter/generator/plain_text.hpp"
#include "report/family_curves.hpp"
#include "text/environment.hpp"
#include "text/print.hpp"
#include "text/terminal_plot.hpp"

namespace arbiter::cli {
namespace {

bool same_family(const Decision& decision, const Decision& other) {
  return belongs(other, {decision.pattern, decision.dtype, decision.hidden, 0, decision.mode}, decision.world);
}

std::string title(const Decision& d) {
  return fmt::format("{} {}, hidden {}, {} ranks, {}: microseconds over the message of one rank", d.pattern,
                     to_string(d.dtype), d.hidden, d.world, to_string(d.mode));
}

/// `begin` to `end`: the decisions of one family, ascending.
using Decisions = std::vector<Decision>::const_iterator;

void print_plot(const FamilyCurves& curves, Decisions begin, Decisions end, const TerminalStyle& style) {
  const ProblemFamily family{begin->pattern, begin->dtype, begin->hidden, 0, begin->mode};
  std::map<std::string, PlotCurve> by_name;
  for (const FamilySize& size : curves.sizes) {
    const Problem& p = size.problem;
    if (p.pattern != family.pattern || p.dtype != family.dtype || p.hidden != family.hidden || p.mode != family.mode ||
        p.world != begin->world) {
      continue;
    }
    for (const auto& [name, point] : size.families) {
      by_name[name].points.emplace_back(static_cast<double>(p.bytes()), point.median_us);
    }
  }
  // A decision's winner has a mark even if its measurements are gone.
  for (Decisions d = begin; d != end; ++d) by_name[family_name(d->candidate)];
  std::vector<PlotCurve> list;
  std::map<std::string, std::size_t> numbers;
  for (auto& [name, curve] : by_name) {
    numbers[name] = list.size();
    list.push_back({visible(name), std::move(curve.points)});
  }
  std::vector<PlotWinner> winners;
  for (Decisions d = begin; d != end; ++d) {
    const double up_to = d + 1 == end ? std::numeric_limits<double>::infinity() : static_cast<double>(d->bytes_max());
    winners.push_back({up_to, numbers[family_name(d->candidate)]});
  }
  print("%s\n", title(*begin).c_str());
  std::fputs(plot(list, winners, style).c_str(), stdout);  // with colours
}

}  // namespace

void print_plots(const Contents& contents, const std::vector<DecisionSet>& sets) {
  const TerminalStyle style = TerminalStyle::of_stdout();
  const char* separator = "";
  for (const DecisionSet& set : sets) {
    const FamilyCurves curves = family_curves(contents, set.environment.key(), false);
    print("%s%s\nenvironment %s\n", separator, describe(set.environment).c_str(), short_key(set.environment).c_str());
    if (curves.snapshot) {
      print("a snapshot: only winners and runner-ups %s are known\n",
            curves.sizes_known ? "at one size of each interval" : "where intervals end");
    }
    separator = "\n";
    for (auto at = set.decisions.begin(); at != set.decisions.end();) {
      const auto end = std::find_if(at, set.decisions.end(), [&](const Decision& d) { return !same_family(*at, d); });
      print("\n");
      print_plot(curves, at, end, style);
      at = end;
    }
    if (set.decisions.empty()) print("no decisions\n");
  }
}

}  // namespace arbiter::cli
