#include "environment/process_identity.hpp"

#include <fmt/format.h>
#include <sys/random.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

#include "arbiter/error.hpp"

namespace arbiter {
namespace {

constexpr const char* boot_id = "/proc/sys/kernel/random/boot_id";

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string link_target(const char* path) {
  std::array<char, 256> buffer{};
  const ssize_t length = readlink(path, buffer.data(), buffer.size());
  return length > 0 ? std::string(buffer.data(), static_cast<std::size_t>(length)) : std::string();
}

}  // namespace

ProcessStart process_start(long process) {
  // Field 4 is the parent, field 22 the start in ticks since boot. The second field may hold blanks and brackets, so
  // count behind it.
  const std::string line = first_line((fmt::format("/proc/{}/stat", process)).c_str());
  const std::size_t end_of_name = line.rfind(')');
  if (end_of_name == std::string::npos) return {};
  ProcessStart start;
  std::istringstream rest(line.substr(end_of_name + 1));
  std::string field, started;
  for (int i = 3; i <= 22 && rest >> field; ++i) {
    if (i == 4) start.parent = std::strtol(field.c_str(), nullptr, 10);
    if (i == 22) started = field;
  }
  const std::string host = first_line(boot_id);
  const std::string pid_namespace = link_target("/proc/self/ns/pid");
  // A process id means something only within its namespace, and only until it is reused.
  if (!host.empty() && !started.empty() && !pid_namespace.empty()) {
    start.identity = fmt::format("{}/{}/{}/{}", host, pid_namespace, process, started);
  }
  return start;
}

ProcessIdentity process_identity() {
  ProcessIdentity identity;
  identity.host = first_line(boot_id);
  identity.network_namespace = link_target("/proc/self/ns/net");
  identity.process = process_start(getpid()).identity;
  return identity;
}

bool same_process(const ProcessIdentity& a, const ProcessIdentity& b) noexcept {
  return !a.process.empty() && a.process == b.process;
}

bool same_host(const ProcessIdentity& a, const ProcessIdentity& b) noexcept {
  return !a.host.empty() && a.host == b.host;
}

std::string random_token(std::size_t bytes) {
  std::vector<unsigned char> random(bytes);
  std::size_t filled = 0;
  while (filled < bytes) {
    const ssize_t got = getrandom(random.data() + filled, bytes - filled, 0);
    if (got <= 0) throw DeviceError("getrandom failed: the kernel gives no random bytes");
    filled += static_cast<std::size_t>(got);
  }
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : random) {
    text += digits[byte >> 4U];
    text += digits[byte & 15U];
  }
  return text;
}

}  // namespace arbiter
