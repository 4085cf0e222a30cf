#include "compile/compile_log.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <vector>

namespace arbiter {
namespace {

constexpr std::size_t max_log_bytes = 8192;
constexpr std::size_t max_lines = 24;

// Line numbers behind "<file>(" or "<file>:".
std::vector<std::size_t> mentioned_lines(std::string_view log, std::string_view file) {
  std::vector<std::size_t> lines;
  for (std::size_t at = log.find(file); at != std::string_view::npos; at = log.find(file, at + 1)) {
    const std::size_t begin = at + file.size();
    if (begin >= log.size() || (log[begin] != '(' && log[begin] != ':')) continue;
    std::size_t line = 0;
    const auto [end, error] = std::from_chars(log.data() + begin + 1, log.data() + log.size(), line);
    if (error == std::errc() && line > 0) lines.push_back(line);
  }
  return lines;
}

std::vector<std::string_view> split_lines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

}  // namespace

std::string explain_log(std::string_view log, std::string_view file, std::string_view source) {
  std::string text(log.substr(0, max_log_bytes));
  if (log.size() > max_log_bytes) text += fmt::format("\n[{} more bytes of log]", log.size() - max_log_bytes);
  while (!text.empty() && (text.back() == '\n' || text.back() == '\0')) text.pop_back();

  const std::vector<std::string_view> lines = split_lines(source);
  std::set<std::size_t> wanted;
  for (const std::size_t line : mentioned_lines(log, file)) {
    if (line > lines.size() || wanted.size() >= max_lines) continue;
    for (std::size_t near = std::max<std::size_t>(line, 2) - 1; near <= std::min(line + 1, lines.size()); ++near)
      wanted.insert(near);
  }
  if (wanted.empty()) return text;
  text += "\nthe lines it complains about:";
  std::size_t previous = 0;
  for (const std::size_t line : wanted) {
    if (previous != 0 && line != previous + 1) text += "\n     ...";
    const std::string number = std::to_string(line);
    text.append("\n").append(6 - std::min<std::size_t>(number.size(), 5), ' ').append(number).append(" | ");
    text.append(lines[line - 1]);
    previous = line;
  }
  return text;
}

}  // namespace arbiter
