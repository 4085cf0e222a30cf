// The functions of NCCL that are looked into. Other collectives stand in passed.cpp, all the rest are entries of
// names.def.
//
// Communicators are followed from their first allreduce on, not from their creation: programs have many that never see
// one, and it is the same for every way of creating them (InitRank, InitRankConfig, InitRankScalable, InitAll, Split,
// Shrink, blocking or not). That first call is collective, so all ranks set up together.
#include <algorithm>
#include <exception>
#include <functional>
#include <latch>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "comm_registry.hpp"
#include "real_library.hpp"
#include "settings.hpp"

#define ARBITER_NCCL_EXPORT extern "C" __attribute__((visibility("default")))

namespace arbiter::nccl_interpose {
namespace {

struct GroupedCall {
  std::shared_ptr<FollowedComm> comm;
  TakenCall call;
};

/// What this thread is in the middle of: the depth of ncclGroupStart, and allreduces that wait for the last
/// ncclGroupEnd.
struct ThreadGroup {
  int depth = 0;
  std::vector<GroupedCall> calls;
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

int forward(const TakenCall& call, NcclComm comm) {
  return real_library().nccl->all_reduce(call.input, call.output, call.count, nccl_type(call.dtype), nccl_sum, comm,
                                         call.stream);
}

/// One for each of `works`, at the same time: ranks of one process wait for each other.
void at_once(std::vector<std::function<void()>> works) {
  if (works.empty()) return;
  std::vector<std::thread> others;
  for (std::size_t i = 1; i < works.size(); ++i) others.emplace_back(std::move(works[i]));
  works.front()();
  for (std::thread& other : others) other.join();
}

void set_up_fresh(const std::vector<GroupedCall>& calls) {
  std::vector<GroupedCall> firsts;
  for (const GroupedCall& one : calls) {
    const auto same = [&](const GroupedCall& other) { return other.comm == one.comm; };
    if (one.comm->fresh() && std::none_of(firsts.begin(), firsts.end(), same)) firsts.push_back(one);
  }
  // The first exchange is a kernel of NCCL's that waits for its peers. None runs while one of them still allocates.
  std::latch allocated(static_cast<std::ptrdiff_t>(firsts.size()));
  std::vector<std::function<void()>> works;
  for (const GroupedCall& one : firsts) {
    works.emplace_back([&] { one.comm->set_up(one.call.stream, [&] { allocated.arrive_and_wait(); }); });
  }
  at_once(std::move(works));
}

/// Those that a kernel takes; NCCL has got the others already. Returns the first failure.
int run_taken(const std::vector<GroupedCall>& calls) {
  if (!settings().cpu_device && settings().verify_each == 0) {
    int result = nccl_success;
    for (const auto& [comm, call] : calls) {
      const int one = comm->run(call);
      if (result == nccl_success) result = one;
    }
    return result;
  }
  // The CPU device, and whoever compares results, comes back when a call has run; the other ranks have to run for that.
  std::vector<int> results(calls.size(), nccl_success);
  std::vector<const FollowedComm*> comms;
  std::vector<std::function<void()>> works;
  for (const auto& [comm, call] : calls) {
    if (std::find(comms.begin(), comms.end(), comm.get()) != comms.end()) continue;
    comms.push_back(comm.get());
    works.emplace_back([&, mine = comm.get()] {
      for (std::size_t i = 0; i < calls.size(); ++i) {
        if (calls[i].comm.get() == mine) results[i] = calls[i].comm->run(calls[i].call);
      }
    });
  }
  at_once(std::move(works));
  for (const int result : results) {
    if (result != nccl_success) return result;
  }
  return nccl_success;
}

/// Behind NCCL's part of the group. Those that turn out to be NCCL's go there together.
int run_grouped(const std::vector<GroupedCall>& calls) {
  set_up_fresh(calls);
  std::vector<GroupedCall> taken;
  std::vector<GroupedCall> others;
  for (const GroupedCall& one : calls) {
    (one.comm->takes(one.call.count, one.call.dtype) ? taken : others).push_back(one);
  }
  int result = nccl_success;
  if (!others.empty()) {
    const RealLibrary& real = real_library();
    result = real.group_start();
    if (result != nccl_success) return result;
    for (const auto& [comm, call] : others) {
      comm->pass(call.stream);
      const int one = forward(call, comm->comm());
      if (one != nccl_success && one != nccl_in_progress && result == nccl_success) result = one;
    }
    const int ended = real.group_end();
    if (result == nccl_success) result = ended;
    if (result != nccl_success && result != nccl_in_progress) return result;
  }
  const int ours = run_taken(taken);
  return ours != nccl_success ? ours : result;
}

}  // namespace
}  // namespace arbiter::nccl_interpose

using namespace arbiter::nccl_interpose;

ARBITER_NCCL_EXPORT int ncclAllReduce(const void* input, void* output, std::size_t count, int type, int operation,
                                      arbiter::NcclComm comm, cudaStream_t stream) {
  const RealLibrary& real = real_library();
  try {
    std::shared_ptr<FollowedComm> entry;
    const std::optional<arbiter::Dtype> dtype = dtype_of(type);
    // Nothing here depends on what may differ between ranks.
    if (operation == arbiter::nccl_sum && dtype && count > 0 && comm != nullptr && settings().on &&
        count <= settings().message_bytes() / arbiter::element_bytes(*dtype)) {
      const TakenCall call{input, output, count, *dtype, stream};
      entry = follow(comm);
      if (entry->fresh() && group.depth == 0) entry->set_up(stream, [] {});
      const bool open = entry->fresh() && group.depth > 0;  // the end of the group will settle it
      if (open || entry->takes(count, *dtype)) {
        if (group.depth == 0) return entry->run(call);
        group.calls.push_back({std::move(entry), call});
        return arbiter::nccl_success;
      }
    } else {
      entry = followed(comm);
    }
    if (entry) entry->pass(stream);
  } catch (const std::exception&) {  // out of host memory
    return nccl_internal_error;
  }
  return real.nccl->all_reduce(input, output, count, type, operation, comm, stream);
}

ARBITER_NCCL_EXPORT int ncclGroupStart() {
  const int result = real_library().group_start();
  if (result == arbiter::nccl_success) ++group.depth;
  return result;
}

ARBITER_NCCL_EXPORT int ncclGroupEnd() {
  const int result = real_library().group_end();
  if (group.depth > 0) --group.depth;
  if (group.depth > 0) return result;
  const auto calls = std::exchange(group.calls, {});
  if (calls.empty() || (result != arbiter::nccl_success && result != arbiter::nccl_in_progress)) return result;
  try {
    const int ours = run_grouped(calls);
    return ours != arbiter::nccl_success ? ours : result;
  } catch (const std::exception&) {  // out of host memory, or of threads
    return nccl_internal_error;
  }
}

ARBITER_NCCL_EXPORT int ncclCommGetAsyncError(arbiter::NcclComm comm, int* error) {
  const int result = real_library().nccl->comm_get_async_error(comm, error);
  if (result != arbiter::nccl_success || error == nullptr || *error != arbiter::nccl_success) return result;
  if (const std::shared_ptr<FollowedComm> entry = followed(comm)) *error = entry->async_error();
  return result;
}

namespace {

/// Kernels that wait for a peer end, also the peers'.
void end_waits(arbiter::NcclComm comm) {
  std::shared_ptr<FollowedComm> entry = unfollow(comm);
  if (!entry) return;
  entry->abort();
  keep_for_ever(std::move(entry));
}

}  // namespace

ARBITER_NCCL_EXPORT int ncclCommDestroy(arbiter::NcclComm comm) {
  if (const std::shared_ptr<FollowedComm> entry = unfollow(comm)) entry->destroy();
  return real_library().nccl->comm_destroy(comm);
}

ARBITER_NCCL_EXPORT int ncclCommAbort(arbiter::NcclComm comm) {
  end_waits(comm);
  return real_library().nccl->comm_abort(comm);
}

// From NCCL 2.27 on.
ARBITER_NCCL_EXPORT int ncclCommShrink(arbiter::NcclComm comm, int* excluded, int excluded_count,
                                       arbiter::NcclComm* shrunk, void* config, int flags) {
  constexpr int abort_flag = 1;
  if ((flags & abort_flag) != 0) end_waits(comm);
  static const auto real = reinterpret_cast<int (*)(arbiter::NcclComm, int*, int, arbiter::NcclComm*, void*, int)>(
      resolve("ncclCommShrink"));
  return real(comm, excluded, excluded_count, shrunk, config, flags);
}

// From NCCL 2.28.7 on.
ARBITER_NCCL_EXPORT int ncclCommRevoke(arbiter::NcclComm comm, int flags) {
  end_waits(comm);
  static const auto real = reinterpret_cast<int (*)(arbiter::NcclComm, int)>(resolve("ncclCommRevoke"));
  return real(comm, flags);
}
