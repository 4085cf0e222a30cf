// Curves in a terminal, on logarithmic axes.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace arbiter::cli {

/// What standard output can show.
struct TerminalStyle {
  int columns = 80;
  bool unicode = true;  ///< else ASCII
  bool colour = false;

  /// Columns from the terminal, else from COLUMNS, else 80. Colour on a terminal, unless NO_COLOR is set or TERM is
  /// "dumb". Unicode if the locale's variables name UTF-8.
  static TerminalStyle of_stdout();
};

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
