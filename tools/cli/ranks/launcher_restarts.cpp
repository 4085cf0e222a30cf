#include "ranks/launcher_restarts.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "text/numbers.hpp"

namespace arbiter::cli {
namespace {

constexpr int started_field = 22;  // of /proc/PID/stat, counted from 1

std::int64_t boot_time() {
  std::ifstream file("/proc/stat");
  std::string word;
  std::int64_t seconds = 0;
  while (file >> word) {
    if (word == "btime" && file >> seconds) return seconds;
  }
  return 0;
}

}  // namespace

int launcher_restarts() {
  const char* const count = std::getenv("TORCHELASTIC_RESTART_COUNT");
  if (count == nullptr || *count == '\0') return 0;
  return static_cast<int>(parse_integer(count, "TORCHELASTIC_RESTART_COUNT", 0, 1 << 16));
}

std::int64_t process_started(pid_t process) {
  std::ifstream file(fmt::format("/proc/{}/stat", process));
  std::string line;
  std::getline(file, line);
  // The second field is the name, in parentheses, and may contain anything.
  const std::size_t name_end = line.rfind(')');
  const long ticks_per_second = sysconf(_SC_CLK_TCK);
  const std::int64_t boot = boot_time();
  if (name_end == std::string::npos || ticks_per_second <= 0 || boot == 0) return 0;
  std::istringstream fields(line.substr(name_end + 1));
  std::string skipped;
  for (int field = 3; field < started_field; ++field) fields >> skipped;
  std::int64_t ticks = 0;
  return fields >> ticks ? boot + ticks / ticks_per_second : 0;
}

}  // namespace arbiter::cli
