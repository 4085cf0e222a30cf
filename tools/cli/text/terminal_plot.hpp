// Curves in a terminal, on logarithmic axes.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "text/terminal.hpp"

namespace arbiter::cli {

struct PlotCurve {
  std::string name;
  std::vector<std::pair<double, double>> points;  ///< message bytes, microseconds; ascending, above zero
};

/// Up to which message size a curve wins, ascending.
struct PlotWinner {
  double up_to = 0;       ///< bytes, inclusive
  std::size_t curve = 0;  ///< index
};

/// Lines of text, each at most `style.columns` wide (40 at least): the curves with a mark for each at every point, axes
/// in microseconds and bytes, a row with the mark of the winner at each size, and what the marks mean. Empty without
/// points.
std::string plot(const std::vector<PlotCurve>&, const std::vector<PlotWinner>&, const TerminalStyle&);

}  // namespace arbiter::cli
