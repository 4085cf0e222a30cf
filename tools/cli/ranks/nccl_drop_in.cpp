#include "ranks/nccl_drop_in.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <system_error>

#include "arbiter/device.hpp"
#include "ranks/nccl_tuner_plugin.hpp"

namespace arbiter::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* file = "libarbiter-nccl.so";
constexpr const char* describe_symbol = "arbiter_nccl_interpose_describe";

/// "name<tab>value" lines.
std::map<std::string, std::string> parse(std::string_view text) {
  std::map<std::string, std::string> values;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    const std::size_t tab = line.find('\t');
    if (tab != std::string_view::npos) values.emplace(line.substr(0, tab), line.substr(tab + 1));
  }
  return values;
}

bool has(const std::vector<Capability>& capabilities, std::string_view name) {
  return std::any_of(capabilities.begin(), capabilities.end(),
                     [&](const Capability& capability) { return capability.name == name && capability.ok; });
}

/// Why every allreduce would be NCCL's; empty if not.
std::string obstacle(const std::map<std::string, std::string>& said, const std::vector<Capability>& others) {
  if (said.contains("problem")) return said.at("problem");
  if (said.at("mode") == "off") return "ARBITER_NCCL is off, or not understood: every call would go to NCCL";
  const int devices = cuda_device_count();
  if (devices < 2) {
    return fmt::format("it serves two GPUs and more, and there {} {} here: every call would go to NCCL",
                       devices == 1 ? "is" : "are", devices);
  }
  if (!has(others, "symmetric_memory_vmm") && !has(others, "symmetric_memory_cuda_ipc")) {
    return "the GPUs cannot address each other's memory (symmetric_memory_vmm, symmetric_memory_cuda_ipc): every call "
           "would go to NCCL";
  }
  return "";
}

void look(Capability& found, const std::vector<Capability>& others) {
  std::error_code error;
  const fs::path library = find_own_library(fs::read_symlink("/proc/self/exe", error), file);
  if (library.empty()) {
    found.reason =
        fmt::format("{} is neither beside the program nor in lib/ beside its folder; install it there", file);
    return;
  }
  found.value = library.string();
  void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* const why = dlerror();
    found.reason = fmt::format("cannot be opened: {}", why == nullptr ? "unknown" : why);
    return;
  }
  const auto describe = reinterpret_cast<std::size_t (*)(char*, std::size_t)>(dlsym(handle, describe_symbol));
  if (describe == nullptr) {
    found.reason = "is of another version of Arbiter; install the one that came with this program";
    return;
  }
  std::string text(describe(nullptr, 0), '\0');
  describe(text.data(), text.size());
  text.resize(text.size() - 1);
  const std::map<std::string, std::string> said = parse(text);
  if (said.contains("version")) {
    found.value +=
        fmt::format(" in front of NCCL {} ({}, {})", said.at("version"), said.at("path"), said.at("found_by"));
    if (!said.at("unknown_names").empty()) {
      found.value += ", whose functions " + said.at("unknown_names") + " it does not know";
    }
  }
  found.reason = obstacle(said, others);
  if (!found.reason.empty()) return;
  found.value += fmt::format(
      "; sums of bf16, fp16 and fp32 among 2 to {} GPUs, up to {} bytes, go to Arbiter where it chooses a kernel{}, "
      "within {} bytes of device memory for a communicator. A program may bring another NCCL; `arbiter run -- COMMAND` "
      "starts one",
      cuda_device_count(), said.at("message_bytes"),
      said.at("mode") == "on" ? "" : " (" + said.at("mode") + ": compared with NCCL's)", said.at("workspace_bytes"));
}

}  // namespace

Capability probe_nccl_drop_in(const std::vector<Capability>& others) {
  Capability found{"nccl_drop_in", false, "", ""};
  try {
    look(found, others);
    found.ok = found.reason.empty();
  } catch (const std::exception& error) {
    found.reason = error.what();
  }
  return found;
}

}  // namespace arbiter::cli
