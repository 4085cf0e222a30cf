// The NCCL functions that Arbiter uses, declared here so that NCCL is needed neither to build nor to start.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/vocabulary.hpp"

namespace arbiter {

inline constexpr std::size_t nccl_id_bytes = 128;

/// A symbol that libarbiter-nccl.so has, and no NCCL.
inline constexpr const char* nccl_interpose_mark = "arbiter_nccl_interpose_mark";

// Names and numbers of nccl.h (checked against it by a test where it is installed).
struct NcclId {
  std::array<char, nccl_id_bytes> bytes{};
};
using NcclComm = struct ncclComm*;
using NcclWindow = void*;
enum NcclResult : int { nccl_success = 0, nccl_invalid_argument = 4, nccl_invalid_usage = 5, nccl_in_progress = 7 };
enum NcclType : int { nccl_uint8 = 1, nccl_float16 = 6, nccl_float32 = 7, nccl_bfloat16 = 9 };
/// Of ncclDataType_t.
int nccl_type(Dtype) noexcept;
inline constexpr int nccl_sum = 0;
inline constexpr int nccl_window_symmetric = 1;

/// The part of ncclConfig_t that NCCL 2.14 had. NCCL reads as many bytes as `size` says and fills in the rest.
struct NcclConfig {
  std::size_t size = sizeof(NcclConfig);
  unsigned magic = 0xcafebeef;
  unsigned version = 21400;
  int blocking = 1;
};

struct NcclLibrary {
  std::string path;
  int version_code = 0;  ///< 22803 for 2.28.3

  int (*get_version)(int*) = nullptr;
  const char* (*get_error_string)(int) = nullptr;
  const char* (*get_last_error)(NcclComm) = nullptr;  ///< may be null
  int (*get_unique_id)(NcclId*) = nullptr;
  int (*comm_init_rank_config)(NcclComm*, int, NcclId, int, NcclConfig*) = nullptr;
  int (*comm_get_async_error)(NcclComm, int*) = nullptr;
  int (*comm_finalize)(NcclComm) = nullptr;
  int (*comm_destroy)(NcclComm) = nullptr;
  int (*comm_abort)(NcclComm) = nullptr;
  int (*comm_count)(NcclComm, int*) = nullptr;
  int (*comm_user_rank)(NcclComm, int*) = nullptr;
  int (*comm_cu_device)(NcclComm, int*) = nullptr;
  int (*all_reduce)(const void*, void*, std::size_t, int, int, NcclComm, cudaStream_t) = nullptr;
  int (*all_gather)(const void*, void*, std::size_t, int, NcclComm, cudaStream_t) = nullptr;
  int (*broadcast)(const void*, void*, std::size_t, int, int, NcclComm, cudaStream_t) = nullptr;
  // NCCL 2.19 and 2.27; null before.
  int (*mem_alloc)(void**, std::size_t) = nullptr;
  int (*mem_free)(void*) = nullptr;
  int (*comm_register)(NcclComm, void*, std::size_t, void**) = nullptr;
  int (*comm_deregister)(NcclComm, void*) = nullptr;
  int (*window_register)(NcclComm, void*, std::size_t, NcclWindow*, int) = nullptr;
  int (*window_deregister)(NcclComm, NcclWindow) = nullptr;

  /// "2.28.3"
  std::string version() const;
  /// "<call> failed: unhandled cuda error (details)"
  std::string message(std::string_view call, int result, NcclComm comm = nullptr) const;
};

/// Where NCCL is looked for, in this order, after what the process has loaded already.
std::vector<std::string> nccl_candidates();

/// Of a library that is open. `path` is for messages. Throws Unavailable when it lacks a function that is needed.
std::shared_ptr<const NcclLibrary> load_nccl(void* handle, const std::string& path);

/// Never unloaded again: NCCL does not survive that. Throws Unavailable, saying where it looked.
std::shared_ptr<const NcclLibrary> open_nccl(const std::vector<std::string>& candidates = nccl_candidates());

}  // namespace arbiter
