#include "text/terminal_plot.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string_view>

#include "text/text.hpp"

namespace arbiter::cli {
namespace {

constexpr std::size_t height = 16;  ///< rows of the drawing
constexpr std::size_t margin = 7;   ///< columns left of it: "1000 |"

constexpr std::array<const char*, 10> unicode_marks{"●", "■", "▲", "◆", "○", "□", "△", "◇", "★", "☆"};
constexpr std::array<const char*, 10> ascii_marks{"o", "x", "+", "*", "#", "@", "%", "&", "=", "$"};
constexpr std::array<int, 10> colours{34, 33, 32, 35, 36, 31, 94, 93, 92, 95};  // ANSI foregrounds

/// UTF-8 of a code point above 0x7ff.
std::string utf8(unsigned code) {
  return {static_cast<char>(0xe0 | (code >> 12)), static_cast<char>(0x80 | ((code >> 6) & 0x3f)),
          static_cast<char>(0x80 | (code & 0x3f))};
}

/// What a file says took no time, less than any clock can tell or longer than there was any, has a place on a
/// logarithmic axis all the same. The largest message has 2^63 bytes.
double drawn(double value) { return std::clamp(value, 1e-3, 1e20); }

/// Maps a logarithm onto 0..steps-1.
struct Axis {
  double low = 0, high = 1;
  std::size_t steps = 1;

  static Axis over(double low, double high, std::size_t steps) {
    low = drawn(low);
    high = drawn(high);
    if (low == high) {
      low /= 1.5;
      high *= 1.5;
    }
    return {std::log(low), std::log(high), steps};
  }
  double at(double value) const {
    return (std::log(drawn(value)) - low) / (high - low) * static_cast<double>(steps - 1);
  }
  std::size_t step(double value) const {
    return static_cast<std::size_t>(std::clamp(std::lround(at(value)), 0L, static_cast<long>(steps) - 1));
  }
};

class Canvas {
 public:
  Canvas(std::size_t width, const TerminalStyle& style) : width_(width), style_(style), cells_(width * height) {}

  std::size_t dots_across() const { return style_.unicode ? 2 * width_ : width_; }
  std::size_t dots_down() const { return style_.unicode ? 4 * height : height; }

  void line(double x0, double y0, double x1, double y1, std::size_t curve) {
    const double steps = std::max({1.0, std::fabs(x1 - x0), std::fabs(y1 - y0)});
    for (double i = 0; i <= steps; ++i) dot(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps, curve);
  }

  /// A mark covers the dots of its cell; of several in one cell the last stays.
  void mark(double x, double y, std::size_t curve) {
    Cell& here = cell(x, y);
    here.marked = true;
    here.curve = curve;
  }

  std::string row(std::size_t r) const {
    std::string text;
    for (std::size_t c = 0; c < width_; ++c) {
      const Cell& here = cells_[r * width_ + c];
      if (here.marked) {
        text += paint(mark_of(here.curve), here.curve);
      } else if (here.dots != 0) {
        text += paint(style_.unicode ? utf8(0x2800U + here.dots) : ".", here.curve);
      } else {
        text += ' ';
      }
    }
    return text.erase(text.find_last_not_of(' ') + 1);
  }

  std::string mark_of(std::size_t curve) const {
    return style_.unicode ? unicode_marks[curve % unicode_marks.size()] : ascii_marks[curve % ascii_marks.size()];
  }
  std::string paint(const std::string& text, std::size_t curve) const {
    if (!style_.colour) return text;
    return fmt::format("\033[{}m{}\033[0m", colours[curve % colours.size()], text);
  }

 private:
  struct Cell {
    std::uint8_t dots = 0;
    bool marked = false;
    std::size_t curve = 0;
  };

  std::size_t across(double x) const { return static_cast<std::size_t>(std::max(0L, std::lround(x))); }
  /// Dots count upwards, rows downwards.
  std::size_t down(double y) const { return dots_down() - 1 - static_cast<std::size_t>(std::max(0L, std::lround(y))); }

  Cell& cell(double x, double y) {
    const std::size_t per_column = dots_across() / width_, per_row = dots_down() / height;
    return cells_[down(y) / per_row * width_ + across(x) / per_column];
  }

  void dot(double x, double y, std::size_t curve) {
    Cell& here = cell(x, y);
    // The dots of a braille cell are numbered down the left column, down the right one, then the row below both.
    constexpr std::uint8_t bits[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    here.dots = static_cast<std::uint8_t>(here.dots | (style_.unicode ? bits[down(y) % 4][across(x) % 2] : 1));
    here.curve = curve;
  }

  std::size_t width_;
  TerminalStyle style_;
  std::vector<Cell> cells_;
};

std::optional<std::size_t> winner_at(const std::vector<PlotWinner>& winners, double bytes) {
  const auto found = std::find_if(winners.begin(), winners.end(),
                                  [&](const PlotWinner& winner) { return bytes <= winner.up_to * (1 + 1e-9); });
  if (found == winners.end()) return std::nullopt;
  return found->curve;
}

/// 1, 2 and 5 times powers of ten: the row of each, and its text.
std::array<std::string, height> labels_of(const Axis& y) {
  std::array<std::string, height> labels;
  for (double power = 1e-3; power < 1e9; power *= 10) {
    for (const double digit : {1.0, 2.0, 5.0}) {
      const double value = digit * power;
      if (std::log(value) < y.low || std::log(value) > y.high) continue;
      char text[32];
      std::snprintf(text, sizeof text, "%*.6g", static_cast<int>(margin) - 2, value);
      std::string& label = labels[height - 1 - y.step(value) * height / y.steps];
      if (label.empty()) label = text;
    }
  }
  return labels;
}

/// Powers of two below the axis, as many as there is room for.
std::string bytes_row(const Axis& x, std::size_t width) {
  std::string row(width + 1, ' ');
  std::size_t free = 0;
  for (double bytes = 1; std::log(bytes) <= x.high + 1e-9; bytes *= 4) {
    if (std::log(bytes) < x.low - 1e-9) continue;
    const std::string text = format_bytes(static_cast<std::uint64_t>(bytes));
    const std::size_t column = x.step(bytes) * width / x.steps;
    // Below its tick, or as near as the ends of the row allow.
    const std::size_t half = std::min(column, text.size() / 2);
    const std::size_t from = std::min(column - half, row.size() - text.size());
    if (from < free) continue;
    row.replace(from, text.size(), text);
    free = from + text.size() + 3;
  }
  return row.erase(row.find_last_not_of(' ') + 1);
}

/// As many of "mark name" on a line as fit.
std::string legend(const std::vector<PlotCurve>& curves, const Canvas& canvas, std::size_t columns) {
  std::string text, line;
  std::size_t used = 0;
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const std::size_t length = curves[i].name.size() + 4;
    if (used != 0 && margin + used + length > columns) {
      text += line.erase(line.find_last_not_of(' ') + 1) + "\n";
      line.clear();
      used = 0;
    }
    if (used == 0) line = std::string(margin, ' ');
    line += canvas.paint(canvas.mark_of(i), i) + " " + curves[i].name + "  ";
    used += length;
  }
  return text + line.erase(line.find_last_not_of(' ') + 1) + "\n";
}

}  // namespace

std::string plot(const std::vector<PlotCurve>& curves, const std::vector<PlotWinner>& winners,
                 const TerminalStyle& style) {
  double least_x = INFINITY, most_x = 0, least_y = INFINITY, most_y = 0;
  for (const PlotCurve& curve : curves) {
    for (const auto& [x, y] : curve.points) {
      least_x = std::min(least_x, x);
      most_x = std::max(most_x, x);
      least_y = std::min(least_y, y);
      most_y = std::max(most_y, y);
    }
  }
  if (most_x <= 0) return "";
  const auto width = static_cast<std::size_t>(std::clamp(style.columns, 40, 140)) - margin - 1;
  Canvas canvas(width, style);
  const Axis x = Axis::over(least_x, most_x, canvas.dots_across());
  const Axis y = Axis::over(least_y, most_y, canvas.dots_down());
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const auto& points = curves[i].points;
    for (std::size_t p = 1; p < points.size(); ++p) {
      canvas.line(x.at(points[p - 1].first), y.at(points[p - 1].second), x.at(points[p].first), y.at(points[p].second),
                  i);
    }
  }
  for (std::size_t i = 0; i < curves.size(); ++i) {
    for (const auto& [bytes, us] : curves[i].points) canvas.mark(x.at(bytes), y.at(us), i);
  }
  // Where marks meet, the winner's is seen.
  for (std::size_t i = 0; i < curves.size(); ++i) {
    for (const auto& [bytes, us] : curves[i].points) {
      if (winner_at(winners, bytes) == i) canvas.mark(x.at(bytes), y.at(us), i);
    }
  }

  const std::string vertical = style.unicode ? "│" : "|";
  const std::array<std::string, height> labels = labels_of(y);
  std::string text = std::string(margin - 2 - 2, ' ') + (style.unicode ? "µs" : "us") + "\n";
  for (std::size_t r = 0; r < height; ++r) {
    const std::string label = labels[r].empty() ? std::string(margin - 2, ' ') : labels[r];
    text += label + " " + vertical + canvas.row(r) + "\n";
  }
  text += std::string(margin - 1, ' ') + (style.unicode ? "└" : "+");
  for (std::size_t c = 0; c < width; ++c) text += style.unicode ? "─" : "-";
  text += "\n";
  if (!winners.empty()) {
    std::string row = " wins  ";
    for (std::size_t c = 0; c < width; ++c) {
      const double part = static_cast<double>(c) / static_cast<double>(std::max<std::size_t>(1, width - 1));
      const double bytes = std::exp(x.low + (x.high - x.low) * part);
      const std::optional<std::size_t> winner = winner_at(winners, bytes);
      row += winner ? canvas.paint(canvas.mark_of(*winner), *winner) : " ";
    }
    text += row.erase(row.find_last_not_of(' ') + 1) + "\n";
  }
  text += std::string(margin, ' ') + bytes_row(x, width) + "\n";
  return text + legend(curves, canvas, static_cast<std::size_t>(std::max(40, style.columns)));
}

}  // namespace arbiter::cli
