// What standard output can show.
#pragma once

namespace arbiter::cli {

struct TerminalStyle {
  int columns = 80;
  bool unicode = true;  ///< else ASCII
  bool colour = false;

  /// Columns from the terminal, else from COLUMNS, else 80. Colour on a terminal, unless NO_COLOR is set or TERM is
  /// "dumb". Unicode if the locale's variables name UTF-8.
  static TerminalStyle of_stdout();
};

}  // namespace arbiter::cli
