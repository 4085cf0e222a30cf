// NCCL's tuner-plugin interface, versions 4 to 7, in our own declarations. NCCL 2.24 to 2.27 look for version 4,
// 2.28 and 2.29 for 5, 2.30 for 6, later ones for 7, each falling back to older ones. What a plugin gets and may
// change, by version:
//   4: init(ranks, nodes, logger); getCollInfo; destroy
//   5: init also gets the communicator's id, the NVLink domains and the constants of NCCL's cost model
//   6: an optional getChunkSize (null: NCCL's own sizes)
//   7: the constants have one more GPU generation
// This plugin touches neither domains nor constants, so versions 6 and 7 are one declaration here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace arbiter::nccl_plugin {

inline constexpr int success = 0;  // any other result of init or getCollInfo fails the caller's NCCL function
inline constexpr int all_reduce = 4;
/// A pair of algorithm and protocol that NCCL does not offer for this call.
inline constexpr float ignored = -1.0F;

enum LogLevel : int { log_warn = 2, log_info = 3 };
inline constexpr unsigned long log_init = 0x1;
inline constexpr unsigned long log_tuning = 0x40;
using Logger = void (*)(int level, unsigned long flags, const char* file, int line, const char* format, ...);

// `cost_table` is declared float** by NCCL and is one array of `algorithms` rows of `protocols` floats: estimated
// microseconds, of which NCCL takes the smallest that is not negative. `registered` is about this rank's buffers.
// `channels` comes in as 0 and may be set to the most channels to use.
using GetCollInfo = int (*)(void* context, int function, std::size_t bytes, int pipelined, float** cost_table,
                            int algorithms, int protocols, int registered, int* channels);
using Finalize = int (*)(void* context);

struct TunerV4 {
  const char* name;
  int (*init)(std::size_t ranks, std::size_t nodes, Logger, void** context);
  GetCollInfo get_coll_info;
  Finalize destroy;
};

struct TunerV5 {
  const char* name;
  int (*init)(void** context, std::uint64_t id, std::size_t ranks, std::size_t nodes, Logger, void* domains,
              void* constants);
  GetCollInfo get_coll_info;
  Finalize finalize;
};

struct TunerV6 {
  const char* name;
  int (*init)(void** context, std::uint64_t id, std::size_t ranks, std::size_t nodes, Logger, void* domains,
              void* constants);
  GetCollInfo get_coll_info;
  Finalize finalize;
  int (*get_chunk_size)(void* context, int function, std::size_t bytes, int algorithm, int protocol, int channels,
                        std::size_t* chunk_bytes);
};

}  // namespace arbiter::nccl_plugin
