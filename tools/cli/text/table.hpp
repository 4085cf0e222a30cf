// Tables that fit the terminal: names shorten, then text wraps; numbers stay whole.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "text/terminal.hpp"

namespace arbiter::cli {

struct Cell {
  std::string text;
  std::string brief;    ///< shown instead where the table is too wide; empty: there is no shorter form
  bool strong = false;  ///< stands out on a colour terminal

  Cell(std::string shown, std::string shorter = "", bool stands_out = false)  // NOLINT(google-explicit-constructor)
      : text(std::move(shown)), brief(std::move(shorter)), strong(stands_out) {}
  Cell(const char* shown) : text(shown) {}  // NOLINT(google-explicit-constructor)
};

/// Rows of text, aligned when printed, with control characters as escapes. Columns whose cells all look like numbers
/// are aligned to the right.
class Table {
 public:
  explicit Table(const std::vector<std::string>& header);
  void add(std::vector<std::string> row);
  void add_cells(std::vector<Cell> row);
  std::size_t rows() const noexcept { return rows_.size() - 1; }

  /// Indented by `indent` spaces, without trailing spaces, in at most `style.columns` columns if that can be done: the
  /// widest columns take their brief forms, then those that are not numbers wrap, at words where possible.
  std::string text(const TerminalStyle& style, int indent = 0) const;
  /// The same to standard output.
  void print(int indent = 0) const;
  void print(const TerminalStyle& style, int indent = 0) const;

 private:
  std::vector<std::vector<Cell>> rows_;
};

/// A paragraph in at most `columns` columns, with control characters as escapes; further lines are indented by `indent`
/// spaces. Ends with a line feed.
std::string wrapped(const std::string& paragraph, int columns, int indent = 0);

}  // namespace arbiter::cli
