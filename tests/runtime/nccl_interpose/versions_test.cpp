// An NCCL that is older than libarbiter-nccl.so: what it lacks says so, and what it has works.
#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>
#include <vector>

#include "nccl_calls.hpp"

namespace arbiter::test {
namespace {

void* library() {
  setenv("ARBITER_NCCL_LIBRARY", STAND_IN_OLDER, 1);
  setenv("ARBITER_NCCL_TEST_DEVICE", "cpu", 1);
  setenv("STAND_IN_VERSION", "21805", 1);
  void* handle = dlopen(ARBITER_NCCL, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw std::runtime_error(dlerror());
  return handle;
}

TEST(NcclVersions, FunctionsThatAnOlderNcclLacksReturnInvalidUsage) {
  constexpr int invalid_usage = 5;
  EXPECT_EQ(dlsym(dlopen(STAND_IN_OLDER, RTLD_NOW | RTLD_LOCAL), "ncclAlltoAll"), nullptr);
  const auto forwarded = reinterpret_cast<int (*)(void*)>(dlsym(library(), "ncclMemFree"));
  EXPECT_EQ(forwarded(nullptr), invalid_usage);
  const auto passed =
      reinterpret_cast<int (*)(const void*, void*, std::size_t, int, Comm, void*)>(dlsym(library(), "ncclAlltoAll"));
  EXPECT_EQ(passed(nullptr, nullptr, 1, type_fp32, nullptr, nullptr), invalid_usage);
  const auto revoke = reinterpret_cast<int (*)(Comm, int)>(dlsym(library(), "ncclCommRevoke"));
  EXPECT_EQ(revoke(nullptr, 0), invalid_usage);
}

TEST(NcclVersions, AllreducesOfAnOlderNcclAreServed) {
  const auto id_of = reinterpret_cast<int (*)(UniqueId*)>(dlsym(library(), "ncclGetUniqueId"));
  const auto init = reinterpret_cast<int (*)(Comm*, int, UniqueId, int)>(dlsym(library(), "ncclCommInitRank"));
  const auto sum = reinterpret_cast<int (*)(const void*, void*, std::size_t, int, int, Comm, void*)>(
      dlsym(library(), "ncclAllReduce"));
  const auto destroy = reinterpret_cast<int (*)(Comm)>(dlsym(library(), "ncclCommDestroy"));
  UniqueId id;
  ASSERT_EQ(id_of(&id), 0);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      Comm comm = nullptr;
      ASSERT_EQ(init(&comm, 2, id, rank), 0);
      Message message(type_bf16, 96, rank);
      ASSERT_EQ(sum(message.input(), message.output(), 96, type_bf16, op_sum, comm, nullptr), 0);
      EXPECT_EQ(message.wrong(message.output(), {0, 1}), 0U);
      EXPECT_EQ(destroy(comm), 0);
    });
  }
  for (std::thread& thread : threads) thread.join();
  const auto asked =
      reinterpret_cast<int (*)()>(dlsym(dlopen(STAND_IN_OLDER, RTLD_NOW | RTLD_LOCAL), "stand_in_allreduces"));
  EXPECT_EQ(asked(), 0);
}

}  // namespace
}  // namespace arbiter::test
