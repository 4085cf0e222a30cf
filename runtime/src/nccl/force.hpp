// What the runtime and libarbiter-nccl-tuner.so say to each other inside one process: NCCL opens the library as its
// tuner plugin, the runtime finds the same library by name and asks for a configuration around each of its own calls.
#pragma once

namespace arbiter {

/// One request. NCCL asks its tuner plugin in the thread that calls ncclAllReduce (its communicators are blocking
/// here), so a request belongs to a thread and needs no communicator, no lock and no order between threads.
struct NcclForce {
  // Wanted; numbers of NCCL's cost table.
  int algorithm = -1;  ///< -1, with protocol -1: as NCCL chooses
  int protocol = -1;
  int channels = 0;  ///< 0: as NCCL chooses
  // What became of it: how often NCCL asked, and how often it offered what is wanted.
  int consulted = 0;
  int applied = 0;
};

inline constexpr const char* nccl_tuner_file = "libarbiter-nccl-tuner.so";

// Exported by the library. A change of meaning gets a new name.
/// Until the next call with null, NCCL calls of this thread follow `*force` and no snapshot.
using NcclForceFunction = void (*)(NcclForce* force);
inline constexpr const char* nccl_force_symbol = "arbiter_nccl_tuner_force_v1";
/// How many communicators NCCL has announced to the library so far.
using NcclAnnouncedFunction = unsigned long long (*)();
inline constexpr const char* nccl_announced_symbol = "arbiter_nccl_tuner_announced_v1";

}  // namespace arbiter
