#include "text/text.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <utility>

#include "arbiter/generator/plain_text.hpp"

namespace arbiter::cli {
namespace {

std::string printed(const char* format, double value) {
  char buffer[400];  // the largest double has 309 digits before the point
  const int length = std::snprintf(buffer, sizeof buffer, format, value);
  return {buffer, static_cast<std::size_t>(std::clamp(length, 0, static_cast<int>(sizeof buffer) - 1))};
}

}  // namespace

std::string format_microseconds(double microseconds) {
  if (microseconds < 10) return printed("%.2f", microseconds);
  if (microseconds < 100) return printed("%.1f", microseconds);
  return printed("%.0f", microseconds);
}

std::string format_bytes(std::uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  constexpr const char* units[] = {"KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(units)) {
    value /= 1024;
    ++unit;
  }
  const bool whole = value == static_cast<double>(static_cast<std::uint64_t>(value));
  return printed(whole ? "%.0f" : "%.1f", value) + " " + units[unit];
}

std::string plural(std::size_t count, const std::string& what) {
  return fmt::format("{} {}{}", count, what, (count == 1 ? "" : "s"));
}

std::string format_seconds(double seconds) {
  constexpr double longest = 1e15;  // what follows is arithmetic in whole numbers
  if (seconds < 60) return printed("%.1f s", seconds);
  if (seconds > longest) return printed("%.0f h", seconds / 3600);
  const auto whole = static_cast<std::int64_t>(seconds);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole / 60 % 60);
}

std::string format_date(std::int64_t seconds) {
  const auto time = static_cast<std::time_t>(seconds);
  std::tm parts{};
  if (gmtime_r(&time, &parts) == nullptr) return std::to_string(seconds);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%d %H:%M", &parts)};
}

CandidateText split_candidate(const std::string& name) {
  const std::size_t plus = name.find('+');
  const std::string first = name.substr(0, plus);
  const std::size_t colon = std::min(first.find(':'), first.size());
  CandidateText text{first.substr(0, colon), first.substr(std::min(colon + 1, first.size()))};
  if (plus != std::string::npos) {
    const std::string second = name.substr(plus + 1);
    const std::size_t end = std::min(second.find(':'), second.size());
    text.algorithm += "+" + second.substr(0, end);
    if (!text.parameters.empty()) text.parameters += " + ";
    text.parameters += second.substr(std::min(end + 1, second.size()));
  }
  return text;
}

ProgressLine::ProgressLine() : enabled_(isatty(STDERR_FILENO) == 1) {}

ProgressLine::~ProgressLine() { clear(); }

void ProgressLine::update(const std::string& line) {
  const auto now = std::chrono::steady_clock::now();
  if (!enabled_ || now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  winsize size{};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
  const std::size_t room = known ? size.ws_col - 1U : 79U;
  std::fprintf(stderr, "\r\033[K%s", visible(line).substr(0, room).c_str());
  std::fflush(stderr);
  shown_ = true;
}

void ProgressLine::clear() {
  if (shown_) std::fprintf(stderr, "\r\033[K");
  shown_ = false;
}

}  // namespace arbiter::cli
