#include "bootstrap/launching_process.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string_view>

#include "environment/process_identity.hpp"

namespace arbiter {
namespace {

constexpr int most_ancestors = 64;

// As /proc/<pid>/comm shows them, which is 15 characters at most. A launcher that runs inside a rank of another one has
// that rank's variables too; by its name it is known all the same.
constexpr std::array<std::string_view, 8> daemons{"hydra_pmi_proxy", "hydra_bstrap_pr", "pmi_proxy",  "mpispawn",
                                                  "orted",           "prted",           "slurmstepd", "flux-shell"};

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string folder_of(long process) { return fmt::format("/proc/{}", process); }

bool is_daemon(long process) {
  std::string name = content(folder_of(process) + "/comm");
  if (!name.empty() && name.back() == '\n') name.pop_back();
  return std::find(daemons.begin(), daemons.end(), name) != daemons.end();
}

/// Entries "NAME=value", each ended by a zero byte.
bool has_variable(const std::string& environment, const char* name, const char* value) {
  const std::string entry = std::string(name) + "=" + value + '\0';
  return environment.starts_with(entry) || environment.find('\0' + entry) != std::string::npos;
}

/// Is this process part of the same rank: a wrapper around it? One whose environment cannot be read is not.
bool same_rank(long process, std::span<const char* const> variables) {
  const std::string environment = content(folder_of(process) + "/environ");
  return std::all_of(variables.begin(), variables.end(), [&](const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr || has_variable(environment, name, value);
  });
}

}  // namespace

std::string launching_process(std::span<const char* const> rank_variables) {
  long process = static_cast<long>(getppid());
  for (int i = 0; i < most_ancestors && process > 0; ++i) {
    const ProcessStart start = process_start(process);
    if (start.parent < 0) return {};  // it has ended, or cannot be seen
    // Process 1 of a container may be the rank's own wrapper: then there is nothing beyond that could be seen.
    if (is_daemon(process) || !same_rank(process, rank_variables)) return start.identity;
    process = start.parent;
  }
  return {};
}

}  // namespace arbiter
