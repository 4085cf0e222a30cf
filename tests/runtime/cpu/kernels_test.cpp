// What one launch on the CPU device guarantees: every thread runs, barriers and shuffles exchange, misuse is reported.
#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

#include "arbiter/device.hpp"
#include "arbiter/error.hpp"
#include "runtime/host_kernel.hpp"

namespace arbiter {
namespace {

struct Arguments {
  unsigned* out = nullptr;
  unsigned n = 0;
  unsigned long long timeout_ns = 0;
};
constexpr const char* arguments_text =
    "struct Arguments { unsigned* out; unsigned n; unsigned long long timeout_ns; };\n";

class CpuKernels : public ::testing::Test {
 protected:
  void make(const std::string& body, const CpuDeviceOptions& options = {}) {
    device_ = make_cpu_device(0, options);
    kernel_ = device_->load(test::compile_host_kernel(arguments_text + body), 0);
  }
  /// Launches with `words` zeroed output words and returns them.
  std::vector<unsigned> run(Launch launch, std::size_t words, unsigned n = 0, unsigned long long timeout_ns = 0) {
    std::vector<unsigned> out(words, 0);
    const Arguments arguments{out.data(), n, timeout_ns};
    device_->launch(*kernel_, launch, &arguments, sizeof(arguments), nullptr);
    return out;
  }
  /// The message of the DeviceError that a launch ends with.
  std::string error_of(Launch launch, std::size_t words = 1024, unsigned n = 0) {
    try {
      run(launch, words, n);
    } catch (const DeviceError& error) {
      return error.what();
    }
    return "(no error)";
  }
  static void expect_contains(const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << "expected '" << part << "' in: " << text;
  }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Kernel> kernel_;
};

TEST_F(CpuKernels, EveryThreadOfALargeGridRunsOnceAndKnowsItsPlace) {
  make(R"(template <int> void kernel(const Arguments* a) {
    unsigned i = block() * self->block_threads + thread();
    a->out[i] += i * 2 + 1;
    if (self->grid_blocks != a->n || self->cluster_blocks != 1 || self->cluster_rank != 0) a->out[i] = 0;
  })");
  constexpr unsigned blocks = 1000;
  constexpr unsigned threads = 96;
  const auto out = run({blocks, threads}, blocks * threads, blocks);
  for (unsigned i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], i * 2 + 1);
}

TEST_F(CpuKernels, BlockBarrierSeparatesWritesFromReads) {
  make(R"(template <int> void kernel(const Arguments* a) {
    unsigned* shared = static_cast<unsigned*>(self->shared);
    unsigned threads = self->block_threads, value = thread();
    for (unsigned i = 0; i < a->n; ++i) {
      shared[thread()] = value;
      if (thread() % 3 == i % 3) yield();
      barrier();
      value = shared[(thread() + 1) % threads];
      barrier();
    }
    a->out[block() * threads + thread()] = value;
  })");
  constexpr unsigned threads = 100;
  constexpr unsigned rounds = 37;
  const auto out = run({4, threads, 1, threads * 4}, 4 * threads, rounds);
  for (unsigned i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], (i % threads + rounds) % threads);
}

TEST_F(CpuKernels, SharedMemoryIsPoisonedAlignedAndOfItsOwnBlock) {
  make(R"(template <int> void kernel(const Arguments* a) {
    unsigned* shared = static_cast<unsigned*>(self->shared);
    if (reinterpret_cast<unsigned long long>(shared) % 128 != 0) return;
    unsigned before = shared[thread()];
    shared[thread()] = block();
    barrier();
    a->out[block() * 32 + thread()] = before == 0xFFFFFFFFu && shared[31 - thread()] == block();
  })");
  // More blocks than fit, so that later ones reuse memory.
  const auto out = run({40, 32, 1, 128}, 40 * 32);
  EXPECT_EQ(std::accumulate(out.begin(), out.end(), 0U), 40U * 32U);
}

TEST_F(CpuKernels, ShuffleExchangesWithinWarps) {
  make(R"(template <int> void kernel(const Arguments* a) {
    unsigned sum = thread() + 1;
    for (unsigned mask = 16; mask != 0; mask >>= 1) sum += self->shuffle_xor(self, sum, mask);
    a->out[thread()] = sum;
  })");
  const auto out = run({1, 96}, 96);
  for (unsigned t = 0; t < 96; ++t) {
    const unsigned first = t / 32 * 32;
    EXPECT_EQ(out[t], 32 * first + 32 * 33 / 2) << t;
  }
}

TEST_F(CpuKernels, ShuffleInAPartialWarpReturnsTheOwnValueForMissingLanes) {
  make(R"(template <int> void kernel(const Arguments* a) {
    a->out[thread()] = self->shuffle_xor(self, thread() + 100, a->n);
  })");
  const auto out = run({1, 42}, 42, 8);  // the last warp has 10 lanes: 32 to 41
  for (unsigned t = 0; t < 42; ++t) {
    const unsigned partner = t ^ 8U;
    EXPECT_EQ(out[t], (partner < 42 ? partner : t) + 100) << t;
  }
}

TEST_F(CpuKernels, ShuffleGivesEachLaneTheValueOfItsOwnExchange) {
  make(R"(template <int> void kernel(const Arguments* a) {
    unsigned errors = 0;
    for (unsigned i = 0; i < a->n; ++i) {
      unsigned got = self->shuffle_xor(self, i * 64 + thread(), 1 + i % 31);
      errors += got != i * 64 + (thread() ^ (1 + i % 31));
      if ((thread() + i) % 5 == 0) yield();
    }
    a->out[thread()] = errors;
  })");
  const auto out = run({1, 64}, 64, 200);
  for (unsigned errors : out) EXPECT_EQ(errors, 0U);
}

TEST_F(CpuKernels, ClustersReadEachOthersSharedMemory) {
  make(R"(template <int> void kernel(const Arguments* a) {
    unsigned* mine = static_cast<unsigned*>(self->shared);
    mine[thread()] = block() * 1000 + thread();
    self->cluster_barrier(self);
    unsigned sum = 0;
    for (unsigned b = 0; b < self->cluster_blocks; ++b) sum += static_cast<unsigned*>(self->cluster_shared[b])[thread()];
    self->cluster_barrier(self);
    mine[thread()] = 0;
    a->out[block() * self->block_threads + thread()] = sum + self->cluster_rank;
  })",
       {.seed = 7, .sm_count = 8});
  for (unsigned cluster : {1U, 2U, 4U, 8U}) {
    const auto out = run({24, 40, cluster, 160}, 24 * 40);
    for (unsigned b = 0; b < 24; ++b) {
      const unsigned first = b / cluster * cluster;
      for (unsigned t = 0; t < 40; ++t) {
        const unsigned blocks_sum = cluster * first + cluster * (cluster - 1) / 2;
        ASSERT_EQ(out[b * 40 + t], blocks_sum * 1000 + cluster * t + b % cluster);
      }
    }
  }
}

constexpr const char* order_kernel = R"(template <int> void kernel(const Arguments* a) {
  for (unsigned i = 0; i < a->n; ++i) {
    a->out[1 + a->out[0]++] = block() * 1000 + thread();
    if (i % 3 == 0) yield(); else barrier();
  }
})";

TEST_F(CpuKernels, TheSeedDecidesTheOrder) {
  const auto orders = [&](std::uint64_t seed) {
    CpuDeviceOptions options;
    options.seed = seed;
    make(order_kernel, options);
    auto first = run({4, 33}, 1 + 4 * 33 * 6, 6);
    auto second = run({4, 33}, 1 + 4 * 33 * 6, 6);
    return std::pair(first, second);
  };
  const auto [a1, a2] = orders(1);
  const auto [b1, b2] = orders(1);
  const auto [c1, c2] = orders(2);
  EXPECT_EQ(a1, b1);
  EXPECT_EQ(a2, b2) << "the n-th launch repeats too";
  EXPECT_NE(a1, c1);
  EXPECT_NE(a1, a2) << "launches of one device differ";
  EXPECT_EQ(a1[0], 4U * 33U * 6U);
}

TEST_F(CpuKernels, SeedsReachManyOrders) {
  make(order_kernel);
  std::set<std::vector<unsigned>> orders;
  for (int i = 0; i < 200; ++i) orders.insert(run({1, 4}, 5, 1));
  EXPECT_EQ(orders.size(), 24U) << "four threads start in every order";
}

constexpr const char* whole_grid_kernel = R"(template <int> void kernel(const Arguments* a) {
  __atomic_fetch_add(&a->out[0], 1, __ATOMIC_RELAXED);
  unsigned long long start = self->now_ns(self);
  while (read_flag(&a->out[0]) < self->grid_blocks) {
    if (self->now_ns(self) - start > a->timeout_ns) { a->out[1] = 1; return; }
    yield();
  }
})";

TEST_F(CpuKernels, BlocksThatFitAreResidentTogetherAndOthersAreNot) {
  CpuDeviceOptions options;
  options.sm_count = 6;
  make(whole_grid_kernel, options);
  const Launch shape{1, 1};
  ASSERT_EQ(device_->resident_blocks(*kernel_, shape), 6);
  EXPECT_EQ(run({6, 1}, 2, 0, 5'000'000'000)[1], 0U) << "a resident grid can wait for all its blocks";
  EXPECT_EQ(run({7, 1}, 2, 0, 20'000'000)[1], 1U) << "as on a GPU, a larger grid that waits for itself must time out";
}

TEST_F(CpuKernels, DivergenceIsReportedInsteadOfHanging) {
  make(R"(template <int> void kernel(const Arguments* a) {
    if (block() == 1 && thread() < 5) self->shuffle_xor(self, 0, 1);
    if (block() == 1) barrier();
    if (block() != 1 && a->n != 0) for (;;) yield();
  })");
  // The other blocks poll for ever, which must not hide what happens in block 1.
  const std::string text = error_of({3, 32}, 1, 1);
  expect_contains(text, "rank 0");
  expect_contains(text, "Block 1: of 32 threads, 27 arrived at a block barrier");
  expect_contains(text, "5 at a shuffle");
  // The device is usable afterwards.
  make(order_kernel);
  EXPECT_EQ(run({1, 32}, 1 + 32, 1)[0], 32U);
}

TEST_F(CpuKernels, ADeviceRunsOnAfterADivergentKernel) {
  make(R"(template <int> void kernel(const Arguments* a) {
    if (a->n != 0) { if (thread() % 2) self->cluster_barrier(self); else barrier(); }
    a->out[thread()] = 1;
  })");
  for (int i = 0; i < 20; ++i) {
    expect_contains(error_of({4, 64}, 64, 1), "32 arrived at a block barrier, 32 at a cluster barrier");
    const auto out = run({4, 64}, 64, 0);
    EXPECT_EQ(std::accumulate(out.begin(), out.end(), 0U), 64U);
  }
}

TEST_F(CpuKernels, DivergenceAcrossAClusterIsReported) {
  make(R"(template <int> void kernel(const Arguments*) {
    if (self->cluster_rank == 0) self->cluster_barrier(self); else if (thread() == 0) barrier(); else self->cluster_barrier(self);
  })");
  const std::string text = error_of({2, 8, 2});
  expect_contains(text, "a cluster");
  expect_contains(text, "Block 0: of 8 threads, 0 arrived at a block barrier, 8 at a cluster barrier");
  expect_contains(text, "Block 1: of 8 threads, 1 arrived at a block barrier, 7 at a cluster barrier");
}

TEST_F(CpuKernels, ThreadsThatExitedDoNotHoldUpBarriers) {
  // What the PTX manual says of `exit`.
  make(R"(template <int> void kernel(const Arguments* a) {
    if (thread() >= 40) return;
    if (thread() >= 32) { yield(); yield(); return; }
    barrier();
    unsigned v = self->shuffle_xor(self, thread(), 1);
    self->cluster_barrier(self);
    a->out[thread()] = v + 1;
  })");
  const auto out = run({2, 64, 2}, 64);
  for (unsigned t = 0; t < 32; ++t) EXPECT_EQ(out[t], (t ^ 1U) + 1);
}

TEST_F(CpuKernels, AnExitReleasesTheLastWaitOfOthers) {
  make(R"(template <int> void kernel(const Arguments* a) {
    if (thread() == 5) { for (int i = 0; i < 50; ++i) yield(); return; }
    unsigned v = self->shuffle_xor(self, thread() + 10, 1);
    barrier();
    a->out[thread()] = v;
  })");
  const auto out = run({1, 32}, 32);
  EXPECT_EQ(out[4], 14U) << "the partner has exited: the own value";
  EXPECT_EQ(out[6], 17U);
}

TEST_F(CpuKernels, DeepFramesFit) {
  make(R"(__attribute__((noinline)) unsigned burn(unsigned depth, unsigned salt) {
    volatile unsigned frame[256];
    for (unsigned i = 0; i < 256; ++i) frame[i] = salt + i;
    yield();
    unsigned below = depth == 0 ? 0 : burn(depth - 1, salt * 3 + 1);
    unsigned bad = 0;
    for (unsigned i = 0; i < 256; ++i) bad += frame[i] != salt + i;
    return bad + below;
  }
  template <int> void kernel(const Arguments* a) { a->out[block() * 64 + thread()] = burn(30, thread() + block() * 7); })",
       {.seed = 3, .sm_count = 5});
  const auto out = run({10, 64}, 640);
  EXPECT_EQ(std::accumulate(out.begin(), out.end(), 0U), 0U);
}

#if defined(__x86_64__)
TEST_F(CpuKernels, TheHostsFloatingPointModeDoesNotReachKernels) {
  make(R"(template <int> void kernel(const Arguments* a) {
    volatile float tiny;
    unsigned bits = 0x00000100;  // subnormal
    __builtin_memcpy(const_cast<float*>(&tiny), &bits, 4);
    yield();
    const float doubled = tiny + tiny;
    __builtin_memcpy(a->out + thread(), &doubled, 4);
  })");
  const unsigned before = __builtin_ia32_stmxcsr();
  const unsigned flushing = before | 0x8040;  // flush to zero, denormals are zero
  __builtin_ia32_ldmxcsr(flushing);
  const auto out = run({1, 8}, 8);
  const unsigned after = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(before);
  EXPECT_EQ(after, flushing) << "and the host keeps its mode";
  for (unsigned word : out) EXPECT_EQ(word, 0x00000200U);
}
#endif

}  // namespace
}  // namespace arbiter
