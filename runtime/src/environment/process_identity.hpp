// Which process, host and network namespace a rank lives in: what may be shared with it, and how.
#pragma once

#include <string>

namespace arbiter {

struct ProcessIdentity {
  std::string host;               ///< boot id of the kernel; containers of one host share it
  std::string process;            ///< unlike that of any other process that ever ran on the host
  std::string network_namespace;  ///< abstract sockets reach no further than this
  bool operator==(const ProcessIdentity&) const = default;
};

/// Of the calling process. Never throws: what cannot be read is empty, and empty never counts as "the same".
ProcessIdentity process_identity();

/// When a process of this process namespace was started, and by whom.
struct ProcessStart {
  std::string identity;  ///< as ProcessIdentity::process; empty where it cannot be told
  long parent = -1;      ///< -1: there is no such process; 0: it has no parent here
};
/// Never throws.
ProcessStart process_start(long process);

/// May pointers be exchanged with that process?
bool same_process(const ProcessIdentity&, const ProcessIdentity&) noexcept;
bool same_host(const ProcessIdentity&, const ProcessIdentity&) noexcept;

/// `bytes` random bytes from the kernel, in hexadecimal. Throws DeviceError if the kernel gives none.
std::string random_token(std::size_t bytes = 16);

}  // namespace arbiter
