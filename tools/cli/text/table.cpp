#include "text/table.hpp"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <numeric>

#include "arbiter/generator/plain_text.hpp"

namespace arbiter::cli {
namespace {

constexpr std::size_t wide_gap = 2;   ///< between columns; 1 where that spares a word from being broken
constexpr std::size_t narrowest = 8;  ///< columns are not wrapped below this
constexpr const char* strong = "\033[1;32m";
constexpr const char* plain = "\033[0m";

bool looks_like_number(const std::string& cell) {
  return cell.empty() || cell == "-" || (cell.front() >= '0' && cell.front() <= '9') ||
         ((cell.front() == '+' || cell.front() == '-') && cell.size() > 1 && cell[1] >= '0' && cell[1] <= '9');
}

/// Characters, not bytes: what follows the first byte of a character in UTF-8 takes no room.
std::size_t width_of(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U; }));
}

/// Where `text` may be broken: behind a space, a comma or a slash.
std::vector<std::string> pieces_of(const std::string& text) {
  std::vector<std::string> pieces;
  std::string piece;
  for (const char c : text) {
    piece += c;
    if (c != ' ' && c != ',' && c != '/') continue;
    pieces.push_back(std::move(piece));
    piece.clear();
  }
  if (!piece.empty()) pieces.push_back(std::move(piece));
  return pieces;
}

std::string without_trailing_spaces(std::string text) {
  text.erase(text.find_last_not_of(' ') + 1);
  return text;
}

/// The first `width` characters of `text` are taken from it.
std::string take(std::string& text, std::size_t width) {
  std::size_t at = 0;
  for (std::size_t seen = 0; at < text.size(); ++at) {
    if ((static_cast<unsigned char>(text[at]) & 0xc0U) != 0x80U && ++seen > width) break;
  }
  std::string taken = text.substr(0, at);
  text.erase(0, at);
  return taken;
}

std::vector<std::string> lines_of(const std::string& text, std::size_t width) {
  if (width_of(text) <= width) return {text};
  std::vector<std::string> lines;
  std::string line;
  for (std::string piece : pieces_of(text)) {
    if (!line.empty() && width_of(without_trailing_spaces(line + piece)) > width) {
      lines.push_back(without_trailing_spaces(std::move(line)));
      line.clear();
    }
    while (width_of(without_trailing_spaces(piece)) > width) lines.push_back(take(piece, width));
    line += piece;
  }
  if (!without_trailing_spaces(line).empty()) lines.push_back(without_trailing_spaces(std::move(line)));
  return lines;
}

std::size_t longest_piece(const std::string& text) {
  std::size_t longest = 0;
  for (const std::string& piece : pieces_of(text)) {
    longest = std::max(longest, width_of(without_trailing_spaces(piece)));
  }
  return longest;
}

/// How the columns of one table are laid out.
struct Layout {
  std::vector<std::vector<std::string>> shown;  ///< the form of every cell
  std::vector<std::size_t> widths, least;       ///< least: without breaking a word
  std::vector<bool> numeric;
  std::size_t gap = wide_gap;

  explicit Layout(const std::vector<std::vector<Cell>>& rows) {
    const std::size_t columns = rows.front().size();
    numeric.assign(columns, rows.size() > 1);
    widths.resize(columns);
    least.resize(columns);
    for (const auto& row : rows) {
      shown.emplace_back();
      for (std::size_t c = 0; c < columns; ++c) {
        shown.back().push_back(row[c].text);
        if (shown.size() > 1 && !looks_like_number(row[c].text)) numeric[c] = false;
      }
    }
    for (std::size_t c = 0; c < columns; ++c) measure(c);
  }

  void measure(std::size_t column) {
    widths[column] = least[column] = 0;
    for (const auto& row : shown) {
      widths[column] = std::max(widths[column], width_of(row[column]));
      least[column] = std::max(least[column], longest_piece(row[column]));
    }
  }
  std::size_t total() const { return std::accumulate(widths.begin(), widths.end(), gap * (widths.size() - 1)); }

  /// The title of a column of numbers may take several lines.
  void wrap_titles() {
    for (std::size_t c = 0; c < widths.size(); ++c) {
      if (!numeric[c]) continue;
      widths[c] = longest_piece(shown.front()[c]);
      for (std::size_t r = 1; r < shown.size(); ++r) widths[c] = std::max(widths[c], width_of(shown[r][c]));
    }
  }

  /// Takes away from the widest column that may still give, until everything fits.
  void narrow(std::size_t room, const std::function<std::size_t(std::size_t)>& down_to) {
    while (total() > room) {
      std::size_t widest = widths.size();
      for (std::size_t c = 0; c < widths.size(); ++c) {
        if (numeric[c] || widths[c] <= std::max(narrowest, down_to(c))) continue;
        if (widest == widths.size() || widths[c] > widths[widest]) widest = c;
      }
      if (widest == widths.size()) return;
      --widths[widest];
    }
  }
};

void shorten(Layout& layout, const std::vector<std::vector<Cell>>& rows, std::size_t room) {
  std::vector<std::size_t> order(layout.widths.size());
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return layout.widths[a] > layout.widths[b]; });
  for (const std::size_t column : order) {
    if (layout.total() <= room) return;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      if (!rows[r][column].brief.empty()) layout.shown[r][column] = rows[r][column].brief;
    }
    layout.measure(column);
  }
}

}  // namespace

Table::Table(const std::vector<std::string>& header) {
  rows_.emplace_back();
  for (const std::string& title : header) rows_.front().emplace_back(visible(title));
}

void Table::add(std::vector<std::string> row) { add_cells({row.begin(), row.end()}); }

void Table::add_cells(std::vector<Cell> row) {
  row.resize(rows_.front().size(), Cell(""));
  for (Cell& cell : row) {
    cell.text = visible(cell.text);
    cell.brief = visible(cell.brief);
  }
  rows_.push_back(std::move(row));
}

std::string Table::text(const TerminalStyle& style, int indent) const {
  Layout layout(rows_);
  const auto left = static_cast<std::size_t>(indent);
  const std::size_t room = static_cast<std::size_t>(std::max(style.columns, 1)) - std::min<std::size_t>(left, 40);
  shorten(layout, rows_, room);
  if (layout.total() > room) layout.wrap_titles();
  if (layout.total() > room) {  // less space between columns may be enough
    layout.gap = 1;
    if (layout.total() > room) layout.gap = wide_gap;
  }
  layout.narrow(room, [&](std::size_t c) { return layout.least[c]; });
  if (layout.total() > room) layout.gap = 1;
  layout.narrow(room, [](std::size_t) { return std::size_t{0}; });
  std::string all;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    std::vector<std::vector<std::string>> cells;
    std::size_t height = 1;
    for (std::size_t c = 0; c < layout.widths.size(); ++c) {
      cells.push_back(lines_of(layout.shown[r][c], layout.widths[c]));
      height = std::max(height, cells.back().size());
    }
    for (std::size_t l = 0; l < height; ++l) {
      std::string line(left, ' ');
      std::size_t blank = left;  // where what is seen ends: padding behind it is not printed
      for (std::size_t c = 0; c < cells.size(); ++c) {
        const std::string cell = l < cells[c].size() ? cells[c][l] : "";
        const std::string padding(layout.widths[c] - std::min(layout.widths[c], width_of(cell)), ' ');
        const bool bold = style.colour && rows_[r][c].strong && !cell.empty();
        const std::string shown = bold ? strong + cell + plain : cell;
        line += layout.numeric[c] ? padding + shown : shown;
        if (!cell.empty()) blank = line.size();
        if (!layout.numeric[c]) line += padding;
        line.append(layout.gap, ' ');
      }
      line.resize(blank);
      all += without_trailing_spaces(std::move(line)) + "\n";
    }
  }
  return all;
}

void Table::print(int indent) const { print(TerminalStyle::of_stdout(), indent); }

void Table::print(const TerminalStyle& style, int indent) const {
  std::fputs(text(style, indent).c_str(), stdout);  // with colours; cells and titles are escaped already
}

std::string wrapped(const std::string& paragraph, int columns, int indent) {
  const std::string text = visible(paragraph);
  const auto left = static_cast<std::size_t>(indent);
  const std::size_t room = static_cast<std::size_t>(std::max(columns, 20));
  std::vector<std::string> lines = lines_of(text, room);
  if (lines.size() > 1 && left > 0) {
    // The first line reaches further to the left than the others.
    const std::string first = lines.front();
    std::string rest = text.substr(std::min(text.size(), first.size()));
    rest.erase(0, rest.find_first_not_of(' '));
    lines = lines_of(rest, room - std::min(left, room - 10));
    for (std::string& line : lines) line.insert(0, left, ' ');
    lines.insert(lines.begin(), first);
  }
  std::string all;
  for (const std::string& line : lines) all += line + "\n";
  return all;
}

}  // namespace arbiter::cli
