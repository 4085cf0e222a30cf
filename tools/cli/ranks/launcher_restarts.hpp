// A launcher that starts its ranks again after one of them died has seen that death, as this program's own parent of
// worker processes would.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace arbiter::cli {

/// How often torchrun has started these ranks again (--max-restarts); 0 under others, and without one.
int launcher_restarts();

/// When a process was started, seconds since the epoch; 0 if that cannot be found out.
std::int64_t process_started(pid_t process);

}  // namespace arbiter::cli
