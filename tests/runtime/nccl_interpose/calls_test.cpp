// libarbiter-nccl.so opened by path, as vLLM does, in front of the stand-in: ranks are threads, the device is the CPU.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <thread>

#include "nccl_calls.hpp"

namespace arbiter::test {
namespace {

/// Elements of a message that the workspace has no room for.
constexpr std::size_t large_count = std::size_t{40} << 10;

void* open_library(const char* path) {
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw std::runtime_error(dlerror());
  return handle;
}

/// The library under test; the environment is read when it is used first.
const NcclCalls& nccl() {
  static const NcclCalls calls = [] {
    setenv("ARBITER_NCCL_LIBRARY", STAND_IN, 1);
    setenv("ARBITER_NCCL_TEST_DEVICE", "cpu", 1);
    setenv("ARBITER_NCCL_WORKSPACE", "1M", 1);
    return NcclCalls(open_library(ARBITER_NCCL));
  }();
  return calls;
}

/// Allreduces that reached the NCCL behind it, of all ranks, since the last question.
int forwarded() {
  static const auto ask = reinterpret_cast<int (*)()>(dlsym(open_library(STAND_IN), "stand_in_allreduces"));
  static int before = 0;
  const int now = ask();
  return now - std::exchange(before, now);
}

void on_ranks(int size, const std::function<void(int rank, Comm comm)>& body) {
  UniqueId id;
  ASSERT_EQ(nccl().get_unique_id(&id), 0);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      Comm comm = nullptr;
      ASSERT_EQ(nccl().init_rank(&comm, size, id, rank), 0);
      body(rank, comm);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::vector<int> first(int size) {
  std::vector<int> ranks;
  for (int rank = 0; rank < size; ++rank) ranks.push_back(rank);
  return ranks;
}

TEST(NcclInterpose, SumsAreTakenAtEveryDtypeAlignmentAndPlace) {
  forwarded();
  constexpr int odd_counts = 3;  // copies around a kernel cost more than NCCL, so these are forwarded
  on_ranks(2, [](int rank, Comm comm) {
    for (const int type : {type_bf16, type_fp16, type_fp32}) {
      const std::size_t vector = 16 / bytes_of(type);
      for (const std::size_t count : {std::size_t{1}, vector - 1, vector, 5 * vector + 1, 16 * vector, 1000 * vector}) {
        // The ranks' alignments differ, and so does what is in place.
        const std::size_t offset = rank == 0 ? 0 : bytes_of(type);
        Message message(type, count, rank, offset);
        ASSERT_EQ(nccl().all_reduce(message.input(), message.output(), count, type, op_sum, comm, nullptr), 0);
        EXPECT_EQ(message.wrong(message.output(), first(2)), 0U) << "type " << type << ", count " << count;
        Message in_place(type, count, rank);
        ASSERT_EQ(nccl().all_reduce(in_place.input(), in_place.input(), count, type, op_sum, comm, nullptr), 0);
        EXPECT_EQ(in_place.wrong(in_place.input(), first(2)), 0U);
      }
    }
    EXPECT_EQ(nccl().destroy(comm), 0);
  });
  EXPECT_EQ(forwarded(), 2 * 3 * odd_counts * 2) << "ranks, dtypes, counts, places";
}

TEST(NcclInterpose, WhatNoKernelTakesIsNccls) {
  on_ranks(2, [](int rank, Comm comm) {
    Message taken(type_fp32, 64, rank);
    ASSERT_EQ(nccl().all_reduce(taken.input(), taken.output(), 64, type_fp32, op_sum, comm, nullptr), 0);
    EXPECT_EQ(taken.wrong(taken.output(), first(2)), 0U);
    nccl().destroy(comm);
  });
  EXPECT_EQ(forwarded(), 0);
  on_ranks(2, [](int rank, Comm comm) {
    const auto sum = [&](std::size_t count) {
      Message message(type_fp32, count, rank);
      ASSERT_EQ(nccl().all_reduce(message.input(), message.output(), count, type_fp32, op_sum, comm, nullptr), 0);
      EXPECT_EQ(message.wrong(message.output(), first(2)), 0U) << count;
    };
    sum(large_count);  // more than an eighth of the workspace
    Message other(type_fp32, 64, rank);
    ASSERT_EQ(nccl().all_reduce(other.input(), other.output(), 64, type_fp32, op_max, comm, nullptr), 0);
    ASSERT_EQ(nccl().all_reduce(other.input(), other.output(), 32, type_fp64, op_sum, comm, nullptr), 0);
    ASSERT_EQ(nccl().all_reduce(other.input(), other.output(), 0, type_fp32, op_sum, comm, nullptr), 0);
    nccl().destroy(comm);
  });
  EXPECT_EQ(forwarded(), 2 * 4);
}

TEST(NcclInterpose, GroupsRunInOrderOnSeveralCommunicators) {
  std::array<UniqueId, 2> ids;
  for (UniqueId& id : ids) ASSERT_EQ(nccl().get_unique_id(&id), 0);
  forwarded();
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      std::array<Comm, 2> comms{};
      for (std::size_t i = 0; i < 2; ++i) ASSERT_EQ(nccl().init_rank(&comms[i], 2, ids[i], rank), 0);
      Message a(type_bf16, 512, rank);
      Message b(type_fp32, 1024, rank);
      Message odd(type_fp32, 3, rank);
      Message large(type_fp32, large_count, rank);  // NCCL's, in the same group
      // The first time sets both up behind the group, the second time both are there.
      for (int round = 0; round < 2; ++round) {
        ASSERT_EQ(nccl().group_start(), 0);
        ASSERT_EQ(nccl().group_start(), 0);
        ASSERT_EQ(nccl().all_reduce(a.input(), a.output(), 512, type_bf16, op_sum, comms[0], nullptr), 0);
        ASSERT_EQ(nccl().group_end(), 0);
        if (round == 0) {
          EXPECT_EQ(a.output()[0], 0xee) << "it ran before the outer group ended";
        }
        ASSERT_EQ(nccl().all_reduce(odd.input(), odd.output(), 3, type_fp32, op_sum, comms[1], nullptr), 0);
        ASSERT_EQ(nccl().all_reduce(large.input(), large.output(), large_count, type_fp32, op_sum, comms[1], nullptr),
                  0);
        ASSERT_EQ(nccl().all_reduce(b.input(), b.output(), 1024, type_fp32, op_sum, comms[1], nullptr), 0);
        ASSERT_EQ(nccl().group_end(), 0);
        EXPECT_EQ(a.wrong(a.output(), first(2)), 0U);
        EXPECT_EQ(b.wrong(b.output(), first(2)), 0U);
        EXPECT_EQ(odd.wrong(odd.output(), first(2)), 0U);
        EXPECT_EQ(large.wrong(large.output(), first(2)), 0U);
      }
      for (Comm comm : comms) EXPECT_EQ(nccl().destroy(comm), 0);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(forwarded(), 2 * 2 * 2) << "the large one, and the one that is no whole vector";
}

/// As nccl-tests with -g: one thread, a group around every step.
void check_one_thread(const std::vector<Comm>& comms) {
  const int size = static_cast<int>(comms.size());
  for (const std::size_t count : {std::size_t{1}, std::size_t{512}, large_count}) {
    for (const int type : {type_bf16, type_fp32}) {
      if (count * bytes_of(type) > 128 << 10) continue;
      std::vector<Message> messages;
      for (int rank = 0; rank < size; ++rank) messages.emplace_back(type, count, rank);
      ASSERT_EQ(nccl().group_start(), 0);
      for (std::size_t rank = 0; rank < comms.size(); ++rank) {
        Message& message = messages[rank];
        ASSERT_EQ(nccl().all_reduce(message.input(), message.output(), count, type, op_sum, comms[rank], nullptr), 0);
      }
      ASSERT_EQ(nccl().group_end(), 0);
      for (Message& message : messages) EXPECT_EQ(message.wrong(message.output(), first(size)), 0U) << count;
    }
  }
  for (Comm comm : comms) EXPECT_EQ(nccl().destroy(comm), 0);
}

TEST(NcclInterpose, OneThreadMayDriveAllRanks) {
  forwarded();
  std::vector<Comm> comms(4);
  ASSERT_EQ(nccl().init_all(comms.data(), 4, nullptr), 0);
  check_one_thread(comms);
  UniqueId id;
  ASSERT_EQ(nccl().get_unique_id(&id), 0);
  ASSERT_EQ(nccl().group_start(), 0);
  for (int rank = 0; rank < 4; ++rank) {
    ASSERT_EQ(nccl().init_rank(&comms[static_cast<std::size_t>(rank)], 4, id, rank), 0);
  }
  ASSERT_EQ(nccl().group_end(), 0);
  check_one_thread(comms);
  EXPECT_EQ(forwarded(), 2 * 4 * 2) << "those of one element: calls, ranks, dtypes";
}

TEST(NcclInterpose, CommunicatorsMayBeMadeInEveryWay) {
  forwarded();
  UniqueId id;
  ASSERT_EQ(nccl().get_unique_id(&id), 0);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      const auto sum = [&](Comm comm, const std::vector<int>& ranks) {
        Message message(type_bf16, 128, rank);
        ASSERT_EQ(nccl().all_reduce(message.input(), message.output(), 128, type_bf16, op_sum, comm, nullptr), 0);
        EXPECT_EQ(message.wrong(message.output(), ranks), 0U);
      };
      Comm comm = nullptr;
      UniqueId mine = id;
      ASSERT_EQ(nccl().init_rank_scalable(&comm, 3, rank, 1, &mine, nullptr), 0);
      sum(comm, first(3));
      if (rank != 1) {
        int excluded = 1;
        Comm shrunk = nullptr;
        ASSERT_EQ(nccl().shrink(comm, &excluded, 1, &shrunk, nullptr, 0), 0);
        sum(shrunk, {0, 2});
        EXPECT_EQ(nccl().destroy(shrunk), 0);
      }
      sum(comm, first(3));
      EXPECT_EQ(nccl().destroy(comm), 0);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(forwarded(), 0);
}

TEST(NcclInterpose, CommunicatorsThatDoNotBlockAreWaitedFor) {
  forwarded();
  UniqueId id;
  ASSERT_EQ(nccl().get_unique_id(&id), 0);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      Comm comm = nullptr;
      Config config;
      ASSERT_EQ(nccl().init_rank_config(&comm, 2, id, rank, &config), 0);
      const auto sum = [&](std::size_t count, int wanted) {
        Message message(type_fp32, count, rank);
        ASSERT_EQ(nccl().all_reduce(message.input(), message.output(), count, type_fp32, op_sum, comm, nullptr),
                  wanted);
        EXPECT_EQ(message.wrong(message.output(), first(2)), 0U);
      };
      sum(64, 0);                            // sets up, with exchanges that come back before they are through
      sum(large_count, result_in_progress);  // NCCL's, as it answers
      sum(64, 0);                            // Arbiter's waits for that
      int error = -1;
      EXPECT_EQ(nccl().async_error(comm, &error), 0);
      EXPECT_EQ(error, 0);
      EXPECT_EQ(nccl().destroy(comm), 0);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(forwarded(), 2);
}

TEST(NcclInterpose, ACommunicatorMayBeUsedByOneThreadAfterTheOther) {
  forwarded();
  on_ranks(2, [](int rank, Comm comm) {
    for (int round = 0; round < 4; ++round) {
      std::thread other([&] {
        Message message(type_bf16, 64, rank);
        ASSERT_EQ(nccl().all_reduce(message.input(), message.output(), 64, type_bf16, op_sum, comm, nullptr), 0);
        EXPECT_EQ(message.wrong(message.output(), first(2)), 0U);
      });
      other.join();
    }
    EXPECT_EQ(nccl().destroy(comm), 0);
  });
  EXPECT_EQ(forwarded(), 0);
}

TEST(NcclInterpose, SeveralThreadsUseCommunicatorsAtTheSameTime) {
  forwarded();
  std::vector<std::thread> pairs;
  for (int pair = 0; pair < 3; ++pair) {
    pairs.emplace_back([] {
      on_ranks(2, [](int rank, Comm comm) {
        for (int round = 0; round < 20; ++round) {
          Message message(type_fp16, 40, rank);
          ASSERT_EQ(nccl().all_reduce(message.input(), message.output(), 40, type_fp16, op_sum, comm, nullptr), 0);
          EXPECT_EQ(message.wrong(message.output(), first(2)), 0U);
        }
        EXPECT_EQ(nccl().destroy(comm), 0);
      });
    });
  }
  for (std::thread& pair : pairs) pair.join();
  EXPECT_EQ(forwarded(), 0);
}

TEST(NcclInterpose, SplitCommunicatorsAreServedToo) {
  forwarded();
  on_ranks(4, [](int rank, Comm comm) {
    Comm half = nullptr;
    ASSERT_EQ(nccl().split(comm, rank % 2, rank, &half, nullptr), 0);
    Message message(type_bf16, 128, rank);
    ASSERT_EQ(nccl().all_reduce(message.input(), message.output(), 128, type_bf16, op_sum, half, nullptr), 0);
    EXPECT_EQ(message.wrong(message.output(), {rank % 2, rank % 2 + 2}), 0U);
    EXPECT_EQ(nccl().destroy(half), 0);
    EXPECT_EQ(nccl().destroy(comm), 0);
  });
  EXPECT_EQ(forwarded(), 0);
}

TEST(NcclInterpose, AbortFromAnotherThreadEndsTheWaitsOfAllRanks) {
  forwarded();
  std::atomic<bool> aborted = false;
  on_ranks(2, [&](int rank, Comm comm) {
    Message message(type_bf16, 128, rank);
    const auto sum = [&] {
      return nccl().all_reduce(message.input(), message.output(), 128, type_bf16, op_sum, comm, nullptr);
    };
    ASSERT_EQ(sum(), 0);
    if (rank == 1) {
      while (!aborted) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      sum();  // may have what it needs
      EXPECT_EQ(sum(), 6) << "ncclRemoteError: its peer is gone";
      int error = 0;
      EXPECT_EQ(nccl().async_error(comm, &error), 0);
      EXPECT_EQ(error, 6);
      EXPECT_EQ(nccl().abort(comm), 0);
      return;
    }
    std::atomic<bool> returned = false;
    std::thread watchdog([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      EXPECT_FALSE(returned) << "it did not wait for its peer";
      EXPECT_EQ(nccl().abort(comm), 0);
      aborted = true;
    });
    EXPECT_EQ(sum(), 6) << "ncclRemoteError";
    returned = true;
    watchdog.join();
  });
  EXPECT_EQ(forwarded(), 0);
}

TEST(NcclInterpose, AbortEndsASetUpThatWaitsForAPeer) {
  on_ranks(2, [](int rank, Comm comm) {
    if (rank == 1) {  // never makes the first call
      EXPECT_EQ(nccl().abort(comm), 0);
      return;
    }
    std::atomic<bool> returned = false;
    std::thread watchdog([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      EXPECT_FALSE(returned) << "it did not wait for its peer";
      EXPECT_EQ(nccl().abort(comm), 0);
    });
    Message message(type_bf16, 128, rank);
    EXPECT_NE(nccl().all_reduce(message.input(), message.output(), 128, type_bf16, op_sum, comm, nullptr), 0);
    returned = true;
    watchdog.join();
  });
  forwarded();
}

TEST(NcclInterpose, CommunicatorsComeAndGo) {
  forwarded();
  for (int i = 0; i < 3; ++i) {
    on_ranks(2, [](int rank, Comm comm) {
      Message message(type_fp16, 8, rank);
      ASSERT_EQ(nccl().all_reduce(message.input(), message.output(), 8, type_fp16, op_sum, comm, nullptr), 0);
      EXPECT_EQ(message.wrong(message.output(), first(2)), 0U);
      EXPECT_EQ(nccl().destroy(comm), 0);
    });
  }
  EXPECT_EQ(forwarded(), 0);
}

}  // namespace
}  // namespace arbiter::test
