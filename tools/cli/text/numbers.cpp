#include "text/numbers.hpp"

#include <fmt/format.h>

#include <charconv>

#include "options/options.hpp"

namespace arbiter::cli {
namespace {

[[noreturn]] void refuse(std::string_view option, std::string_view text, const std::string& expected) {
  throw UsageError("--" + std::string(option) + " '" + std::string(text) + "': expected " + expected);
}

}  // namespace

std::int64_t parse_integer(std::string_view text, std::string_view option, std::int64_t min, std::int64_t max) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < min || value > max) {
    refuse(option, text, fmt::format("a whole number from {} to {}", min, max));
  }
  return value;
}

std::chrono::milliseconds parse_duration(std::string_view text, std::string_view option) {
  constexpr std::int64_t week_ms = 7LL * 24 * 3600 * 1000;
  struct Unit {
    std::string_view suffix;
    std::int64_t milliseconds;
  };
  constexpr Unit units[] = {{"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}, {"", 1000}};
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view suffix = text.substr(static_cast<std::size_t>(end - text.data()));
  for (const Unit& unit : units) {
    if (error == std::errc() && suffix == unit.suffix && value > 0 && value <= week_ms / unit.milliseconds) {
      return std::chrono::milliseconds(value * unit.milliseconds);
    }
  }
  refuse(option, text, "a time such as 500ms, 90s, 5m or 2h, at most a week");
}

std::vector<int> parse_integer_ranges(std::string_view text, std::string_view option, int min, int max) {
  std::vector<int> numbers;
  for (const std::string& part : split_list(text, option)) {
    const std::size_t dash = part.find('-', 1);
    const auto first = static_cast<int>(parse_integer(std::string_view(part).substr(0, dash), option, min, max));
    const auto last = dash == std::string::npos
                          ? first
                          : static_cast<int>(parse_integer(std::string_view(part).substr(dash + 1), option, min, max));
    if (last < first) refuse(option, part, "a range from low to high, such as 0-3");
    for (int number = first; number <= last; ++number) numbers.push_back(number);
  }
  return numbers;
}

std::vector<std::string> split_list(std::string_view text, std::string_view option) {
  std::vector<std::string> parts;
  for (std::size_t start = 0; start <= text.size();) {
    const std::size_t comma = std::min(text.find(',', start), text.size());
    if (comma == start) refuse(option, text, "values separated by single commas, such as a,b");
    parts.emplace_back(text.substr(start, comma - start));
    start = comma + 1;
  }
  return parts;
}

}  // namespace arbiter::cli
