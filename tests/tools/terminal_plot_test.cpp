// Curves in a terminal.
#include "text/terminal_plot.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

namespace arbiter::cli {
namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// Columns that a terminal needs: code points, without escape sequences.
std::size_t width(const std::string& line) {
  std::size_t columns = 0;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\033') {
      i = line.find('m', i);
      continue;
    }
    if ((static_cast<unsigned char>(line[i]) & 0xc0) != 0x80) ++columns;
  }
  return columns;
}

const TerminalStyle ascii{.columns = 60, .unicode = false, .colour = false};
constexpr double infinity = std::numeric_limits<double>::infinity();

std::vector<PlotCurve> two_curves() {
  PlotCurve flat{"flat", {}}, steep{"steep", {}};
  for (double bytes = 1024; bytes <= 1 << 20; bytes *= 2) {
    flat.points.emplace_back(bytes, 20);
    steep.points.emplace_back(bytes, bytes / 1024);
  }
  return {flat, steep};
}

TEST(TerminalPlot, NothingToDrawIsNothing) {
  EXPECT_EQ(plot({}, {}, ascii), "");
  EXPECT_EQ(plot({{"empty", {}}}, {}, ascii), "");
}

TEST(TerminalPlot, AStraightLineIsStraight) {
  const std::vector<std::string> lines = lines_of(plot(two_curves(), {}, ascii));
  // Ten doublings of size and of time, from the lower left corner to the upper right one.
  EXPECT_EQ(lines[1].back(), 'x');
  EXPECT_EQ(width(lines[1]), 59U);
  EXPECT_EQ(lines[16][7], 'x');
  std::vector<std::size_t> columns;
  for (std::size_t row = 16; row >= 1; --row) {
    const std::size_t at = lines[row].find('x', 7);
    if (at != std::string::npos) columns.push_back(at);
  }
  EXPECT_GE(columns.size(), 10U);
  EXPECT_TRUE(std::is_sorted(columns.begin(), columns.end()));
  // 20 us is above the middle of 1 to 1024 by none: log2(20) = 4.3 of 10, row 16 - 6.5.
  const auto flat = std::find_if(lines.begin(), lines.end(),
                                 [](const std::string& line) { return line.find('o') != std::string::npos; });
  EXPECT_EQ(flat - lines.begin(), 10);
  EXPECT_EQ(std::count(flat->begin(), flat->end(), 'o') + std::count(flat->begin(), flat->end(), 'x'), 11);
}

TEST(TerminalPlot, AxesAreLabelled) {
  const std::string text = plot(two_curves(), {}, ascii);
  for (const char* expected : {"us\n", "   10 |", "  100 |", "1 KiB", "1 MiB", "o flat", "x steep"}) {
    EXPECT_NE(text.find(expected), std::string::npos) << expected << "\n" << text;
  }
}

TEST(TerminalPlot, TheRowOfWinnersChangesWhereTheDecisionDoes) {
  const std::string text = plot(two_curves(), {{32 * 1024, 1}, {infinity, 0}}, ascii);
  const std::size_t at = text.find(" wins  ");
  ASSERT_NE(at, std::string::npos) << text;
  const std::string row = text.substr(at + 7, text.find('\n', at) - at - 7);
  EXPECT_EQ(row.size(), 52U);
  EXPECT_EQ(row.find('o'), 26U) << row;  // half of the doublings
  EXPECT_EQ(row.find_last_of('x'), 25U) << row;
  const std::string open = plot(two_curves(), {{32 * 1024, 1}}, ascii);
  EXPECT_NE(open.find("xxxx\n"), std::string::npos) << "nothing is decided above: the row ends there";
}

TEST(TerminalPlot, WhereMarksMeetTheWinnersIsSeen) {
  const std::vector<PlotCurve> same{{"a", {{1024, 5}, {4096, 9}}}, {"b", {{1024, 5}, {4096, 9}}}};
  EXPECT_EQ(lines_of(plot(same, {{infinity, 0}}, ascii))[1].back(), 'o');
  EXPECT_EQ(lines_of(plot(same, {{infinity, 1}}, ascii))[1].back(), 'x');
}

TEST(TerminalPlot, NoLineIsWiderThanTheTerminal) {
  std::vector<PlotCurve> curves = two_curves();
  for (int i = 0; i < 9; ++i) curves.push_back({"backend/algorithm_" + std::to_string(i), curves[1].points});
  for (const int columns : {40, 57, 80, 133, 400}) {
    for (const bool unicode : {false, true}) {
      for (const bool colour : {false, true}) {
        const std::string text = plot(curves, {{infinity, 3}}, {columns, unicode, colour});
        for (const std::string& line : lines_of(text)) {
          EXPECT_LE(width(line), static_cast<std::size_t>(columns)) << line;
          EXPECT_TRUE(line.empty() || line.back() != ' ') << "'" << line << "'";
        }
        EXPECT_EQ(text.find('\033') != std::string::npos, colour);
        EXPECT_EQ(text.find("●") != std::string::npos, unicode);
      }
    }
  }
  EXPECT_EQ(plot(curves, {}, {1, false, false}), plot(curves, {}, {40, false, false})) << "narrower makes no sense";
}

TEST(TerminalPlot, OnePointIsAPlotToo) {
  const std::string text = plot({{"one", {{4096, 3.5}}}}, {}, ascii);
  EXPECT_EQ(std::count(text.begin(), text.end(), 'o'), 3) << text;  // the point, the legend, "one"
}

}  // namespace
}  // namespace arbiter::cli
