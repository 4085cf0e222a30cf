// What goes wrong, said through the C interface: statuses, messages, and communicators after a failure.
#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>

#include "file_limit.hpp"
#include "runtime/c/ranks.hpp"

namespace {

using namespace std::chrono_literals;
using arbiter::test::cpu_options;
using arbiter::test::family_of;
using arbiter::test::on_threads;
using arbiter::test::Ranks;
using arbiter::test::Tensor;

bool says(const arbiter_communicator* communicator, const std::string& part) {
  const std::string message = arbiter_last_error(communicator);
  EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' is not in: " << message;
  return message.find(part) != std::string::npos;
}

TEST(CErrors, VersionsAndNames) {
  EXPECT_STREQ(arbiter_version(), ARBITER_VERSION_STRING);
  EXPECT_EQ(arbiter_abi_version(), static_cast<std::uint32_t>(ARBITER_ABI_VERSION));
  EXPECT_STREQ(arbiter_status_name(ARBITER_POISONED), "poisoned");
  int number = 99;
  EXPECT_STREQ(arbiter_status_name(static_cast<arbiter_status>(number)), "unknown");
}

TEST(CErrors, PoliciesThatCannotBeAreRefusedByName) {
  const auto refused = [](void (*spoil)(arbiter_communicator_options&), const char* part) {
    arbiter_communicator_options options = cpu_options();
    spoil(options);
    const Ranks ranks(2, options);
    EXPECT_EQ(ranks.status(), ARBITER_INVALID_ARGUMENT);
    EXPECT_NE(ranks.error().find(part), std::string::npos) << ranks.error();
  };
  refused([](arbiter_communicator_options& o) { o.max_sms = -1; }, "max_sms is -1");
  refused([](arbiter_communicator_options& o) { o.timeout_ms = -2; }, "timeout_ms is -2");
  refused([](arbiter_communicator_options& o) { o.first_timeout_ms = -2; }, "first_timeout_ms is -2");
  refused([](arbiter_communicator_options& o) { o.reserved = 1; }, "must be 0");
  refused([](arbiter_communicator_options& o) { o.startup_tune_ms = -2; }, "startup_tune_ms is -2");
}

TEST(CErrors, SwitchedOffNothingCanBeUsedAndCallsAreRefused) {
  arbiter_communicator_options options = cpu_options();
  options.backend = "off";
  const Ranks ranks(2, options);
  ASSERT_EQ(ranks.status(), ARBITER_SUCCESS) << ranks.error();
  ranks.run([](int, arbiter_communicator* communicator) {
    const arbiter_family family = family_of("allreduce", ARBITER_FP32, 64, 4);
    ASSERT_EQ(arbiter_prepare(communicator, &family, 1), ARBITER_SUCCESS) << arbiter_last_error(communicator);
    EXPECT_EQ(arbiter_can_use(communicator, &family, 1), 0);
    const Tensor<float> data(communicator, 64);
    EXPECT_EQ(arbiter_all_reduce(communicator, data.data(), data.data(), 64, ARBITER_FP32, nullptr),
              ARBITER_UNSUPPORTED);
    EXPECT_TRUE(says(communicator, "switched off"));
  });
}

TEST(CErrors, WithoutNcclNoneIsPrepared) {
  const Ranks ranks(2);
  ASSERT_EQ(ranks.status(), ARBITER_SUCCESS) << ranks.error();
  ranks.run([](int, arbiter_communicator* communicator) {
    EXPECT_EQ(arbiter_prepare_nccl(communicator, ARBITER_FP32, 1 << 20), ARBITER_UNSUPPORTED);
    EXPECT_TRUE(says(communicator, "the CPU device has no NCCL"));
    EXPECT_EQ(arbiter_prepare_nccl(communicator, ARBITER_FP32, -1), ARBITER_INVALID_ARGUMENT);
    int number = 7;
    EXPECT_EQ(arbiter_prepare_nccl(communicator, static_cast<arbiter_dtype>(number), 1), ARBITER_INVALID_ARGUMENT);
  });
  EXPECT_EQ(arbiter_prepare_nccl(nullptr, ARBITER_FP32, 1), ARBITER_INVALID_ARGUMENT);
}

TEST(CErrors, FewMultiprocessorsChangeNoSum) {
  arbiter_communicator_options options = cpu_options();
  options.max_sms = 1;
  const Ranks ranks(2, options);
  ASSERT_EQ(ranks.status(), ARBITER_SUCCESS) << ranks.error();
  ranks.run([](int rank, arbiter_communicator* communicator) {
    const arbiter_family family = family_of("allreduce", ARBITER_FP32, 64, 4);
    ASSERT_EQ(arbiter_prepare(communicator, &family, 1), ARBITER_SUCCESS) << arbiter_last_error(communicator);
    const Tensor<float> data(communicator, 256);
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(rank);
    ASSERT_EQ(arbiter_all_reduce(communicator, data.data(), data.data(), 256, ARBITER_FP32, nullptr), ARBITER_SUCCESS)
        << arbiter_last_error(communicator);
    for (std::size_t i = 0; i < data.size(); ++i) ASSERT_EQ(data[i], 1.0F);
  });
}

TEST(CErrors, AFailedCreationLeavesAMessageInItsThread) {
  arbiter_communicator_options options = cpu_options();
  options.backend = "cutsom";
  auto* communicator = reinterpret_cast<arbiter_communicator*>(8);
  EXPECT_EQ(arbiter_create_in_process(1, &options, &communicator), ARBITER_INVALID_ARGUMENT);
  EXPECT_EQ(communicator, nullptr);
  EXPECT_TRUE(says(nullptr, "did you mean 'custom'"));
  std::thread([] { EXPECT_STREQ(arbiter_last_error(nullptr), ""); }).join();
}

TEST(CErrors, WhereFilesMayNotGrowTheProgramLivesOn) {
  const int lived = arbiter::test::with_file_limit(4096, [] {
    const Ranks ranks(2);
    void* memory = nullptr;
    const arbiter_status status = arbiter_device_allocate(ranks[0], 1U << 20U, &memory);
    struct sigaction disposition {};
    sigset_t mask;
    const bool untouched = sigaction(SIGXFSZ, nullptr, &disposition) == 0 && disposition.sa_handler == SIG_DFL &&
                           pthread_sigmask(SIG_BLOCK, nullptr, &mask) == 0 && sigismember(&mask, SIGXFSZ) == 0;
    return status == ARBITER_UNAVAILABLE && says(ranks[0], "File too large") && untouched ? 0 : 1;
  });
  EXPECT_EQ(lived, 0);
}

TEST(CErrors, AHeaderOfAnotherVersionIsRefused) {
  arbiter_communicator* communicator = nullptr;
  arbiter_communicator_options options = cpu_options();
  options.abi_version = ARBITER_ABI_VERSION + 1;
  EXPECT_EQ(arbiter_create_in_process(1, &options, &communicator), ARBITER_INVALID_ARGUMENT);
  EXPECT_TRUE(says(nullptr, "ABI version 1"));
  options = cpu_options();
  options.struct_size = 0;
  EXPECT_EQ(arbiter_create_in_process(1, &options, &communicator), ARBITER_INVALID_ARGUMENT);
  EXPECT_TRUE(says(nullptr, "ARBITER_COMMUNICATOR_OPTIONS_INIT"));
}

TEST(CErrors, AStructOfANewerHeaderServesAsLongAsItAsksForNothingNew) {
  struct Newer {
    arbiter_communicator_options known;
    long later;
  } newer{cpu_options(), 0};
  newer.known.struct_size = sizeof(newer);
  arbiter_communicator* communicator = nullptr;
  EXPECT_EQ(arbiter_create_in_process(1, &newer.known, &communicator), ARBITER_SUCCESS) << arbiter_last_error(nullptr);
  arbiter_destroy(communicator);
  newer.later = 1;
  EXPECT_EQ(arbiter_create_in_process(1, &newer.known, &communicator), ARBITER_INVALID_ARGUMENT);
  EXPECT_TRUE(says(nullptr, "struct_size is " + std::to_string(sizeof(newer))));
}

TEST(CErrors, DecisionsThatWereAskedForMustBeReadable) {
  arbiter_communicator* communicators[2] = {};
  arbiter_communicator_options options = cpu_options();
  options.decisions_path = "/nonexistent/decisions.db";
  EXPECT_EQ(arbiter_create_in_process(2, &options, communicators), ARBITER_DATABASE_ERROR);
  EXPECT_TRUE(says(nullptr, "/nonexistent/decisions.db"));
  const char rubbish[] = "this is no database";
  options.decisions_data = rubbish;
  options.decisions_bytes = sizeof(rubbish);
  EXPECT_EQ(arbiter_create_in_process(2, &options, communicators), ARBITER_DATABASE_ERROR);
  EXPECT_TRUE(says(nullptr, "decisions given in memory"));
  options.decisions_bytes = 0;
  EXPECT_EQ(arbiter_create_in_process(2, &options, communicators), ARBITER_INVALID_ARGUMENT);
}

TEST(CErrors, NullsAreRefusedByName) {
  EXPECT_EQ(arbiter_create_in_process(1, nullptr, nullptr), ARBITER_INVALID_ARGUMENT);
  EXPECT_EQ(arbiter_create_from_callbacks(nullptr, nullptr, nullptr), ARBITER_INVALID_ARGUMENT);
  EXPECT_EQ(arbiter_prepare(nullptr, nullptr, 0), ARBITER_INVALID_ARGUMENT);
  EXPECT_TRUE(says(nullptr, "arbiter_prepare: the communicator is NULL"));
  EXPECT_EQ(arbiter_run(nullptr, nullptr, 1, nullptr), ARBITER_INVALID_ARGUMENT);
  EXPECT_EQ(arbiter_check(nullptr), ARBITER_INVALID_ARGUMENT);
  EXPECT_EQ(arbiter_can_use(nullptr, nullptr, 1), 0);
  EXPECT_EQ(arbiter_rank(nullptr), -1);
  EXPECT_EQ(arbiter_workspace_bytes(nullptr), 0U);
  arbiter_abort(nullptr);
  arbiter_destroy(nullptr);
  EXPECT_EQ(arbiter_create_from_nccl(nullptr, nullptr, nullptr), ARBITER_INVALID_ARGUMENT);
  arbiter_communicator* communicator = nullptr;
  EXPECT_EQ(arbiter_create_from_nccl(nullptr, nullptr, &communicator), ARBITER_INVALID_ARGUMENT);
  EXPECT_EQ(arbiter_create_from_unique_id(nullptr, 0, 1, nullptr, &communicator), ARBITER_INVALID_ARGUMENT);
}

TEST(CErrors, ARefusedCallSaysWhatToPrepareAndTheCommunicatorGoesOn) {
  const Ranks ranks(2);
  ASSERT_EQ(ranks.status(), ARBITER_SUCCESS) << ranks.error();
  ranks.run([](int, arbiter_communicator* communicator) {
    const Tensor<float> data(communicator, 256);
    EXPECT_EQ(arbiter_all_reduce(communicator, data.data(), data.data(), 256, ARBITER_FP32, nullptr),
              ARBITER_UNSUPPORTED);
    EXPECT_TRUE(says(communicator, "pattern 'allreduce', dtype fp32"));
    arbiter_family family = family_of("allreduce_residul", ARBITER_FP32, 64, 4);
    EXPECT_EQ(arbiter_prepare(communicator, &family, 1), ARBITER_INVALID_ARGUMENT);
    EXPECT_EQ(arbiter_can_use(communicator, &family, 1), 0);
    family.pattern = "allreduce";
    family.dtype = 9;
    EXPECT_EQ(arbiter_prepare(communicator, &family, 1), ARBITER_INVALID_ARGUMENT);
    EXPECT_TRUE(says(communicator, "dtype 9"));
    family = family_of("allreduce", ARBITER_FP32, 64, 4);
    EXPECT_EQ(arbiter_can_use(communicator, &family, 4), 0);
    arbiter_handle* handle = nullptr;
    ASSERT_EQ(arbiter_prepare_handle(communicator, &family, &handle), ARBITER_SUCCESS);
    EXPECT_EQ(arbiter_can_use(communicator, &family, 4), 1);
    EXPECT_EQ(arbiter_can_use(communicator, &family, 5), 0);
    arbiter_tensors tensors = ARBITER_TENSORS_INIT;
    tensors.input = data.data();
    EXPECT_EQ(arbiter_run(handle, &tensors, 4, nullptr), ARBITER_INVALID_ARGUMENT);
    EXPECT_TRUE(says(communicator, "output"));
    tensors.output = data.data();
    EXPECT_EQ(arbiter_run(handle, &tensors, 5, nullptr), ARBITER_UNSUPPORTED);
    EXPECT_EQ(arbiter_run(handle, &tensors, 4, nullptr), ARBITER_SUCCESS) << arbiter_last_error(communicator);
  });
}

TEST(CErrors, HostMemoryIsNoTensor) {
  const Ranks ranks(1);
  ASSERT_EQ(ranks.status(), ARBITER_SUCCESS) << ranks.error();
  float host[4] = {1, 2, 3, 4}, back[4] = {};
  EXPECT_EQ(arbiter_all_reduce(ranks[0], host, host, 4, ARBITER_FP32, nullptr), ARBITER_INVALID_ARGUMENT);
  EXPECT_TRUE(says(ranks[0], "host memory"));
  const Tensor<float> data(ranks[0], 4);
  EXPECT_EQ(arbiter_device_copy(ranks[0], data.data(), host, sizeof(host), nullptr), ARBITER_SUCCESS);
  EXPECT_EQ(arbiter_all_reduce(ranks[0], data.data(), data.data(), 4, ARBITER_FP32, nullptr), ARBITER_SUCCESS);
  EXPECT_EQ(arbiter_device_copy(ranks[0], back, data.data(), sizeof(host), nullptr), ARBITER_SUCCESS);
  EXPECT_EQ(arbiter_device_synchronize(ranks[0], nullptr), ARBITER_SUCCESS);
  EXPECT_EQ(std::memcmp(host, back, sizeof(host)), 0);
}

TEST(CErrors, RanksThatAskForDifferentFamiliesAreTold) {
  const Ranks ranks(2);
  ASSERT_EQ(ranks.status(), ARBITER_SUCCESS) << ranks.error();
  ranks.run([](int rank, arbiter_communicator* communicator) {
    const arbiter_family family = family_of("allreduce", ARBITER_FP32, 64, rank == 0 ? 4 : 5);
    EXPECT_EQ(arbiter_prepare(communicator, &family, 1), ARBITER_DISAGREEMENT);
    EXPECT_TRUE(says(communicator, "max_tokens=5"));
  });
}

TEST(CErrors, ASilentRankPoisonsTheOthersAndTheyStartAgain) {
  arbiter_communicator_options options = cpu_options();
  options.timeout_ms = 300;
  options.first_timeout_ms = 300;
  for (int round = 0; round < 2; ++round) {
    const Ranks ranks(2, options);
    ASSERT_EQ(ranks.status(), ARBITER_SUCCESS) << ranks.error();
    std::atomic<bool> seen = false;
    ranks.run([&](int rank, arbiter_communicator* communicator) {
      const arbiter_family family = family_of("allreduce", ARBITER_FP32, 64, 4);
      ASSERT_EQ(arbiter_prepare(communicator, &family, 1), ARBITER_SUCCESS);
      const Tensor<float> data(communicator, 256);
      const auto call = [&] {
        return arbiter_all_reduce(communicator, data.data(), data.data(), 256, ARBITER_FP32, nullptr);
      };
      ASSERT_EQ(call(), ARBITER_SUCCESS) << arbiter_last_error(communicator);
      if (rank == 1) {
        while (!seen) std::this_thread::sleep_for(1ms);
        // Rank 0 had sent its part of the call that it gave up on, but not of any later one.
        call();
        EXPECT_EQ(call(), ARBITER_POISONED);
      } else {
        EXPECT_EQ(call(), ARBITER_POISONED);
        EXPECT_TRUE(says(communicator, "rank 1"));
        EXPECT_EQ(call(), ARBITER_POISONED);
        seen = true;
      }
      EXPECT_EQ(arbiter_check(communicator), ARBITER_POISONED);
    });
  }
}

TEST(CErrors, AnAbortFromAnotherThreadEndsAWait) {
  const Ranks ranks(2);
  ASSERT_EQ(ranks.status(), ARBITER_SUCCESS) << ranks.error();
  std::atomic<bool> ended = false;
  ranks.run([&](int rank, arbiter_communicator* communicator) {
    const arbiter_family family = family_of("allreduce", ARBITER_FP32, 64, 4);
    ASSERT_EQ(arbiter_prepare(communicator, &family, 1), ARBITER_SUCCESS);
    if (rank == 1) {
      std::this_thread::sleep_for(50ms);
      arbiter_abort(communicator);
      while (!ended) std::this_thread::sleep_for(1ms);
      return;
    }
    const Tensor<float> data(communicator, 256);
    EXPECT_EQ(arbiter_all_reduce(communicator, data.data(), data.data(), 256, ARBITER_FP32, nullptr), ARBITER_POISONED);
    ended = true;
  });
}

int fails(void*, const void*, size_t, void*) { return 7; }
int fails_to_broadcast(void*, void*, size_t, int) { return 7; }
int fails_to_wait(void*) { return 7; }

TEST(CErrors, ACallbackThatFailsIsNamed) {
  arbiter_callbacks callbacks = ARBITER_CALLBACKS_INIT;
  callbacks.size = 2;
  const arbiter_communicator_options options = cpu_options();
  arbiter_communicator* communicator = nullptr;
  EXPECT_EQ(arbiter_create_from_callbacks(&callbacks, &options, &communicator), ARBITER_INVALID_ARGUMENT);
  EXPECT_TRUE(says(nullptr, "allgather, broadcast, barrier"));
  callbacks.allgather = fails;
  callbacks.broadcast = fails_to_broadcast;
  callbacks.barrier = fails_to_wait;
  EXPECT_EQ(arbiter_create_from_callbacks(&callbacks, &options, &communicator), ARBITER_DEVICE_ERROR);
  EXPECT_TRUE(says(nullptr, "callback failed with code 7"));
  EXPECT_EQ(communicator, nullptr);
}

/// A process group of threads, in the host program's own words.
struct Host {
  explicit Host(int ranks) : size(ranks), slots(static_cast<std::size_t>(ranks)), barrier_(ranks) {}
  int size;
  std::vector<std::vector<char>> slots;
  struct Barrier {
    explicit Barrier(int ranks) : count(ranks) {
      pthread_barrier_init(&barrier, nullptr, static_cast<unsigned>(count));
    }
    ~Barrier() { pthread_barrier_destroy(&barrier); }
    int count;
    pthread_barrier_t barrier;
  } barrier_;
  void wait() { pthread_barrier_wait(&barrier_.barrier); }
};
struct HostRank {
  Host* host;
  int rank;
};

int host_allgather(void* user, const void* send, size_t bytes, void* receive) {
  const auto& me = *static_cast<HostRank*>(user);
  auto& mine = me.host->slots[static_cast<std::size_t>(me.rank)];
  mine.assign(static_cast<const char*>(send), static_cast<const char*>(send) + bytes);
  me.host->wait();
  for (std::size_t rank = 0; rank < me.host->slots.size(); ++rank) {
    std::memcpy(static_cast<char*>(receive) + rank * bytes, me.host->slots[rank].data(), bytes);
  }
  me.host->wait();
  return 0;
}
int host_broadcast(void* user, void* data, size_t bytes, int root) {
  const auto& me = *static_cast<HostRank*>(user);
  std::vector<char> all(bytes * me.host->slots.size());
  const int code = host_allgather(user, data, bytes, all.data());
  std::memcpy(data, all.data() + static_cast<std::size_t>(root) * bytes, bytes);
  return code;
}
int host_barrier(void* user) {
  static_cast<HostRank*>(user)->host->wait();
  return 0;
}

TEST(CErrors, TheHostProgramsOwnGroupServes) {
  Host host(3);
  on_threads(3, [&](int rank) {
    HostRank me{&host, rank};
    arbiter_callbacks callbacks = ARBITER_CALLBACKS_INIT;
    callbacks.rank = rank;
    callbacks.size = 3;
    callbacks.allgather = host_allgather;
    callbacks.broadcast = host_broadcast;
    callbacks.barrier = host_barrier;
    callbacks.user = &me;
    const arbiter_communicator_options options = cpu_options();
    arbiter_communicator* communicator = nullptr;
    ASSERT_EQ(arbiter_create_from_callbacks(&callbacks, &options, &communicator), ARBITER_SUCCESS)
        << arbiter_last_error(nullptr);
    const arbiter_family family = family_of("allreduce", ARBITER_FP32, 64, 4);
    ASSERT_EQ(arbiter_prepare(communicator, &family, 1), ARBITER_SUCCESS) << arbiter_last_error(communicator);
    {
      const Tensor<float> data(communicator, 256);
      for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(rank);
      EXPECT_EQ(arbiter_all_reduce(communicator, data.data(), data.data(), 256, ARBITER_FP32, nullptr),
                ARBITER_SUCCESS);
      for (std::size_t i = 0; i < data.size(); ++i) ASSERT_EQ(data[i], 3.0F);
    }
    arbiter_destroy(communicator);
  });
}

}  // namespace
