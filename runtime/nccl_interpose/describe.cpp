// What this library would do in this process, for `arbiter doctor`.
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <string>

#include "arbiter/generator/joined.hpp"
#include "real_library.hpp"
#include "settings.hpp"

/// Lines "name<tab>value", ended by a zero: mode, message_bytes, workspace_bytes, and either version, path, found_by
/// and unknown_names of the NCCL behind it, or problem. Returns how many bytes that are, the zero included; writes as
/// many as there is room for.
extern "C" __attribute__((visibility("default"))) std::size_t arbiter_nccl_interpose_describe(char* buffer,
                                                                                              std::size_t bytes) {
  using namespace arbiter::nccl_interpose;
  const Settings& set = settings();
  std::string text = fmt::format("mode\t{}\nmessage_bytes\t{}\nworkspace_bytes\t{}\n",
                                 !set.on               ? "off"
                                 : set.verify_each > 0 ? fmt::format("verify:{}", set.verify_each)
                                                       : "on",
                                 set.message_bytes(), set.workspace_bytes);
  try {
    const RealLibrary& real = try_real_library();
    text += fmt::format("version\t{}\npath\t{}\nfound_by\t{}\nunknown_names\t{}\n", real.nccl->version(),
                        real.nccl->path, real.found_by, arbiter::joined(real.unknown_names, ","));
  } catch (const std::exception& error) {
    std::string reason = error.what();
    std::replace(reason.begin(), reason.end(), '\n', ' ');
    text += fmt::format("problem\t{}\n", reason);
  }
  if (bytes > 0) {
    const std::size_t part = std::min(bytes - 1, text.size());
    std::memcpy(buffer, text.data(), part);
    buffer[part] = '\0';
  }
  return text.size() + 1;
}
