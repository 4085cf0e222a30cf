// The NCCL behind this library: found once, by path, and never this library itself.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "nccl/library.hpp"

namespace arbiter::nccl_interpose {

inline constexpr int nccl_internal_error = 3;
inline constexpr int nccl_remote_error = 6;
inline constexpr int nccl_int8 = 0;

/// The functions that this library calls itself. All of them are older than NCCL 2.18.
struct RealLibrary {
  std::shared_ptr<const NcclLibrary> nccl;
  std::string found_by;                    ///< "ARBITER_NCCL_LIBRARY", "loaded by the program", ...
  std::vector<std::string> unknown_names;  ///< of functions that this library has not: NCCL is newer

  int (*group_start)() = nullptr;
  int (*group_end)() = nullptr;
  int (*send)(const void*, std::size_t, int, int, NcclComm, cudaStream_t) = nullptr;
  int (*receive)(void*, std::size_t, int, int, NcclComm, cudaStream_t) = nullptr;
};

/// Opens it at the first call. A program that calls NCCL cannot go on without one: if there is none, this says where it
/// was looked for and ends the process, as the loader does for a library that is missing.
const RealLibrary& real_library();
/// The same, for those who can go on without: throws Unavailable.
const RealLibrary& try_real_library();

/// The real function of this name. If the loaded NCCL has none (it is too old, or too new), a function that says so and
/// returns ncclInvalidUsage.
void* resolve(const char* name) noexcept;

/// Files that may be the real library, in the order in which they are tried, each with how it was found. Public for the
/// tests.
struct LibraryCandidate {
  std::string path;
  std::string found_by;
};
std::vector<LibraryCandidate> library_candidates();

}  // namespace arbiter::nccl_interpose
