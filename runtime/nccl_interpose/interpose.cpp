// The functions of NCCL that are looked into. All others are entries of names.def.
//
// Communicators are followed from their first allreduce on, not from their creation: programs have many that never see
// one, and it is the same for every way of creating them (InitRank, InitRankConfig, InitRankScalable, InitAll, Split,
// Shrink, blocking or not). That first call is collective, so all ranks set up together.
#include <exception>
#include <optional>
#include <utility>
#include <vector>

#include "comm_registry.hpp"
#include "real_library.hpp"
#include "settings.hpp"

#define ARBITER_NCCL_EXPORT extern "C" __attribute__((visibility("default")))

namespace arbiter::nccl_interpose {
namespace {

/// What this thread is in the middle of: the depth of ncclGroupStart, and allreduces that wait for the last
/// ncclGroupEnd.
struct ThreadGroup {
  int depth = 0;
  std::vector<std::pair<std::shared_ptr<FollowedComm>, TakenCall>> calls;
};
thread_local ThreadGroup group;

std::optional<Dtype> dtype_of(int type) {
  switch (type) {
    case nccl_bfloat16:
      return Dtype::bf16;
    case nccl_float16:
      return Dtype::fp16;
    case nccl_float32:
      return Dtype::fp32;
    default:
      return std::nullopt;
  }
}

/// Who serves this call, or null for NCCL. Depends on nothing that may differ between ranks.
std::shared_ptr<FollowedComm> server(const TakenCall& call, NcclComm comm) {
  if (comm == nullptr || call.count > settings().message_bytes() / element_bytes(call.dtype)) return nullptr;
  std::shared_ptr<FollowedComm> entry = follow(comm);
  // In a group, the ranks of one process are called one after the other: nobody could wait for the others there.
  if (entry->fresh() && group.depth == 0) entry->set_up(call.stream);
  if (!entry->ready()) return nullptr;
  return entry;
}

/// Those that turn out to be NCCL's go there together.
int run_grouped(const std::vector<std::pair<std::shared_ptr<FollowedComm>, TakenCall>>& calls) {
  const RealLibrary& real = real_library();
  if (calls.empty()) return nccl_success;
  int result = real.group_start();
  if (result != nccl_success) return result;
  for (const auto& [comm, call] : calls) {
    const int one = comm->run(call);
    if (one != nccl_success && one != nccl_in_progress && result == nccl_success) result = one;
  }
  const int ended = real.group_end();
  return result != nccl_success ? result : ended;
}

}  // namespace
}  // namespace arbiter::nccl_interpose

using namespace arbiter::nccl_interpose;

ARBITER_NCCL_EXPORT int ncclAllReduce(const void* input, void* output, std::size_t count, int type, int operation,
                                      arbiter::NcclComm comm, cudaStream_t stream) {
  const RealLibrary& real = real_library();
  try {
    if (operation == arbiter::nccl_sum && count > 0 && settings().on) {
      if (const std::optional<arbiter::Dtype> dtype = dtype_of(type)) {
        const TakenCall call{input, output, count, *dtype, stream};
        if (std::shared_ptr<FollowedComm> entry = server(call, comm)) {
          if (group.depth == 0) return entry->run(call);
          group.calls.emplace_back(std::move(entry), call);
          return arbiter::nccl_success;
        }
      }
    }
  } catch (const std::exception&) {  // out of host memory
    return nccl_internal_error;
  }
  return real.all_reduce(input, output, count, type, operation, comm, stream);
}

ARBITER_NCCL_EXPORT int ncclGroupStart() {
  const int result = real_library().group_start();
  if (result == arbiter::nccl_success) ++group.depth;
  return result;
}

ARBITER_NCCL_EXPORT int ncclGroupEnd() {
  const int result = real_library().group_end();
  if (group.depth > 0 && --group.depth > 0) return result;
  auto calls = std::exchange(group.calls, {});
  if (calls.empty() || (result != arbiter::nccl_success && result != arbiter::nccl_in_progress)) return result;
  const int ours = run_grouped(calls);
  return ours != arbiter::nccl_success ? ours : result;
}

ARBITER_NCCL_EXPORT int ncclCommGetAsyncError(arbiter::NcclComm comm, int* error) {
  const int result = real_library().comm_get_async_error(comm, error);
  if (result != arbiter::nccl_success || error == nullptr || *error != arbiter::nccl_success) return result;
  if (const std::shared_ptr<FollowedComm> entry = followed(comm)) *error = entry->async_error();
  return result;
}

ARBITER_NCCL_EXPORT int ncclCommDestroy(arbiter::NcclComm comm) {
  if (const std::shared_ptr<FollowedComm> entry = unfollow(comm)) entry->destroy();
  return real_library().comm_destroy(comm);
}

ARBITER_NCCL_EXPORT int ncclCommAbort(arbiter::NcclComm comm) {
  if (std::shared_ptr<FollowedComm> entry = unfollow(comm)) {
    entry->abort();
    keep_for_ever(std::move(entry));
  }
  return real_library().comm_abort(comm);
}
