// The link model: it reorders and tears what it may, never what it may not, and repeats by seed.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <set>
#include <thread>
#include <vector>

#include "arbiter/error.hpp"
#include "arbiter/runtime/cpu_link.hpp"
#include "arbiter/runtime/symmetric_memory.hpp"
#include "runtime/host_kernel.hpp"

namespace arbiter {
namespace {

using namespace std::chrono_literals;

struct Arguments {
  unsigned* mine = nullptr;  // 64 words
  unsigned* peer = nullptr;
  unsigned* out = nullptr;  // 8 words per rank
  unsigned long long timeout_ns = 0;
};
constexpr const char* prelude = R"(
struct Arguments { unsigned* mine; unsigned* peer; unsigned* out; unsigned long long timeout_ns; };
inline void put4(unsigned* to, unsigned v) {
  unsigned words[4] = {v, v, v, v};
  self->store_symmetric(self, to, words, 4, 0);
}
inline void fence() { self->fence_system(self); }
inline bool wait_for(const Arguments* a, unsigned index, unsigned value) {
  const unsigned long long start = self->now_ns(self);
  while (read_flag(a->mine + index) != value) {
    if (self->now_ns(self) - start > a->timeout_ns) return false;
    yield();
  }
  return true;
}
)";

/// Two ranks on one link model; both run the kernel, once or as a graph of several launches.
class CpuLinkTest : public ::testing::Test {
 protected:
  void make(const std::string& body, std::chrono::milliseconds deadline = 20s) {
    compiled_ = test::compile_host_kernel(prelude + body);
    link_ = make_cpu_link_model(2, {.seed = 1, .deadline = deadline});
  }

  /// Word `word` of rank 1's output for seeds 1 to `seeds`.
  std::vector<unsigned> results(unsigned seeds, Launch shape, unsigned word = 0, unsigned launches = 1,
                                unsigned long long timeout_ns = 1'000'000'000) {
    std::vector<unsigned> collected;
    on_both([&](int rank, Device& device, Bootstrap& bootstrap) {
      const auto kernel = device.load(compiled_, rank);
      const auto memory = allocate_symmetric(device, bootstrap, SymmetricProvider::shared_memory, 256);
      unsigned out[8] = {};
      const Arguments arguments{static_cast<unsigned*>(memory->local()), static_cast<unsigned*>(memory->peer(1 - rank)),
                                out, timeout_ns};
      const StreamHandle stream = device.create_stream();
      device.begin_capture(stream);
      for (unsigned l = 0; l < launches; ++l) device.launch(*kernel, shape, &arguments, sizeof(arguments), stream);
      const auto graph = device.end_capture(stream);
      for (unsigned seed = 1; seed <= seeds; ++seed) {
        bootstrap.barrier();
        device.fill_words(memory->local(), 0, 64, nullptr);
        std::fill(std::begin(out), std::end(out), 0U);
        if (rank == 0) link_->restart(seed);
        bootstrap.barrier();
        graph->launch(nullptr);
        if (rank == 1) collected.push_back(out[word]);
      }
      bootstrap.barrier();
    });
    return collected;
  }

  void on_both(const std::function<void(int, Device&, Bootstrap&)>& body) {
    const auto bootstraps = make_in_process_bootstraps(2, 20s);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < 2; ++rank) {
      threads.emplace_back([&, rank] {
        const auto device =
            make_cpu_device(rank, {.seed = 0, .sm_count = 4, .max_threads_per_block = 64, .link = link_});
        body(rank, *device, *bootstraps[static_cast<std::size_t>(rank)]);
      });
    }
    for (auto& thread : threads) thread.join();
  }

  static std::size_t count(const std::vector<unsigned>& values, unsigned value) {
    return static_cast<std::size_t>(std::count(values.begin(), values.end(), value));
  }

  CompiledKernel compiled_;
  std::shared_ptr<CpuLinkModel> link_;
};

constexpr unsigned seeds = 300;

// Rank 0 sends data (words 16 to 31) and a flag (word 0); rank 1 waits for the flag and looks at the data. Its output
// is 1 if all data was there, 2 if not.
std::string message(const std::string& send) {
  return R"(template <int rank> void kernel(const Arguments* a) {
    if (rank == 0) { )" +
         send + R"( return; }
    if (thread() != 0 || block() != 0) return;
    if (!wait_for(a, 0, 1)) { a->out[0] = 3; return; }
    bool complete = true;
    for (unsigned i = 16; i < 32; ++i) complete = complete && read_flag(a->mine + i) == 7;
    a->out[0] = complete ? 1 : 2;
  })";
}
const std::string send_data = "if (thread() < 4) put4(a->peer + 16 + 4 * thread(), 7); ";
const std::string data_by_one =
    "if (thread() != 0) return; for (int i = 0; i < 4; ++i) put4(a->peer + 16 + 4 * i, 7); ";

TEST_F(CpuLinkTest, AFlagWithoutAFenceOvertakesItsData) {
  make(message(data_by_one + "put(a->peer, 1, 0);"));
  const auto got = results(seeds, {1, 4});
  EXPECT_GT(count(got, 2), seeds / 20);
  EXPECT_EQ(count(got, 3), 0U);
  EXPECT_GT(link_->statistics().overtaken, 0U);
}

TEST_F(CpuLinkTest, AReleaseStoreDoesNot) {
  make(message(data_by_one + "put(a->peer, 1, 1);"));
  EXPECT_EQ(count(results(seeds, {1, 4}), 1), seeds);
}

TEST_F(CpuLinkTest, AStoreBehindAFenceDoesNot) {
  make(message(data_by_one + "fence(); put(a->peer, 1, 0);"));
  EXPECT_EQ(count(results(seeds, {1, 4}), 1), seeds);
}

TEST_F(CpuLinkTest, AReleaseBehindABarrierCoversTheWholeBlock) {
  make(message(send_data + "barrier(); if (thread() == 0) put(a->peer, 1, 1);"));
  EXPECT_EQ(count(results(seeds, {1, 4}), 1), seeds);
  make(message(send_data + "barrier(); if (thread() == 0) { fence(); put(a->peer, 1, 0); }"));
  EXPECT_EQ(count(results(seeds, {1, 4}), 1), seeds);
  make(message("if (block() == 1) { " + send_data +
               "} self->cluster_barrier(self); if (block() == 0 && thread() == 0) put(a->peer, 1, 1);"));
  EXPECT_EQ(count(results(seeds, {2, 4, 2}), 1), seeds);
}

TEST_F(CpuLinkTest, WhatIsMissingAroundABarrierShows) {
  make(message(send_data + "if (thread() == 0) put(a->peer, 1, 1);"));
  EXPECT_GT(count(results(seeds, {1, 4}), 2), 0U) << "release of one thread, no barrier";
  make(message(send_data + "barrier(); if (thread() == 0) put(a->peer, 1, 0);"));
  EXPECT_GT(count(results(seeds, {1, 4}), 2), 0U) << "barrier, no release";
  make(message(send_data + "fence(); barrier(); if (thread() == 0) put(a->peer, 1, 0);"));
  EXPECT_GT(count(results(seeds, {1, 4}), 2), 0U) << "fences by the wrong threads";
  make(message("if (block() == 1) { " + send_data +
               "} barrier(); if (block() == 0 && thread() == 0) put(a->peer, 1, 1);"));
  EXPECT_GT(count(results(seeds, {2, 4, 2}), 2), 0U) << "a block barrier does not cover the cluster";
}

TEST_F(CpuLinkTest, SixteenByteStoresTear) {
  make(R"(template <int rank> void kernel(const Arguments* a) {
    if (rank == 0) { put4(a->peer + 4, 9); return; }
    const unsigned long long start = self->now_ns(self);
    for (;;) {
      unsigned seen = 0;
      for (unsigned i = 4; i < 8; ++i) seen += read_flag(a->mine + i) == 9;
      if (seen == 4) { a->out[1] = 1; return; }
      if (seen != 0) a->out[0] = 1;
      if (self->now_ns(self) - start > a->timeout_ns) return;
      yield();
    }
  })");
  const auto torn = results(seeds, {1, 1}, 0);
  EXPECT_GT(count(torn, 1), seeds / 20);
  EXPECT_LT(count(torn, 1), seeds) << "some arrive whole";
  EXPECT_EQ(count(results(seeds, {1, 1}, 1), 1), seeds) << "and all arrive";
}

TEST_F(CpuLinkTest, StoresOfOneThreadToOnePlaceStayInOrder) {
  make(R"(template <int rank> void kernel(const Arguments* a) {
    if (rank == 0) {
      for (unsigned v = 1; v <= 20; ++v) { if (v % 2) put4(a->peer + 4, v); else put(a->peer + 6, v, 0); }
      put4(a->peer + 4, 21);
      return;
    }
    unsigned last = 0;
    const unsigned long long start = self->now_ns(self);
    while (last != 21) {
      const unsigned now = read_flag(a->mine + 6);
      if (now < last) a->out[0] = 1;
      last = now;
      if (self->now_ns(self) - start > a->timeout_ns) { a->out[0] = 2; return; }
      yield();
    }
  })");
  EXPECT_EQ(count(results(seeds, {1, 1}), 0), seeds);
}

TEST_F(CpuLinkTest, OwnMemoryIsSeenBehindABarrier) {
  make(R"(template <int rank> void kernel(const Arguments* a) {
    put(a->mine + 8 + thread(), thread() + 1, 0);
    barrier();
    if (read_flag(a->mine + 8 + (thread() ^ 1)) != (thread() ^ 1) + 1) a->out[0] = 1;
  })");
  EXPECT_EQ(count(results(50, {1, 8}), 0), 50U);
}

// Rank 1 clears a word and then invites rank 0 to write there: the clear must not come last.
std::string invitation(const std::string& between) {
  return R"(template <int rank> void kernel(const Arguments* a) {
    if (rank == 0) {
      if (wait_for(a, 0, 1)) { put(a->peer + 8, 5, 0); fence(); put(a->peer + 9, 1, 0); }
      return;
    }
    put(a->mine + 8, 0, 0);)" +
         between + R"(
    put(a->peer, 1, 0);
    if (!wait_for(a, 9, 1)) { a->out[0] = 3; return; }
    for (int i = 0; i < 3000; ++i) yield();
    a->out[0] = read_flag(a->mine + 8) == 5 ? 1 : 2;
  })";
}

TEST_F(CpuLinkTest, AClearWithoutAFenceDestroysWhatThePeerSent) {
  make(invitation(""));
  EXPECT_GT(count(results(seeds, {1, 1}), 2), 0U);
  make(invitation("fence();"));
  EXPECT_EQ(count(results(seeds, {1, 1}), 1), seeds);
  make(invitation("put(a->mine + 20, 1, 1);"));
  EXPECT_GT(count(results(seeds, {1, 1}), 2), 0U) << "a release store orders nothing that comes behind it";
}

// Rank 0 stores to its own memory, where rank 1 reads it.
std::string own_memory(const std::string& between) {
  return R"(template <int rank> void kernel(const Arguments* a) {
    if (rank == 0) {
      put(a->mine + 16 + thread(), 7, 0);
      barrier();
      if (read_flag(a->mine + 16 + (thread() ^ 1), 1) != 7) a->out[1] = 1;
      if (thread() != 0) return;)" +
         between + R"( put(a->peer, 1, 0);
      return;
    }
    if (thread() != 0) return;
    if (!wait_for(a, 0, 1)) { a->out[0] = 3; return; }
    bool complete = true;
    for (unsigned i = 16; i < 20; ++i) complete = complete && read_flag(a->peer + i) == 7;
    a->out[0] = complete ? 1 : 2;
  })";
}

TEST_F(CpuLinkTest, ABarrierOfTheBlockOrdersNothingForAPeer) {
  make(own_memory(""));
  EXPECT_GT(count(results(seeds, {1, 4}), 2), seeds / 20);
  make(own_memory("fence();"));
  EXPECT_EQ(count(results(seeds, {1, 4}), 1), seeds);
}

TEST_F(CpuLinkTest, ALoadWithoutAcquireOrdersNothing) {
  const auto receive = [](const std::string& load, const std::string& between) {
    return R"(template <int rank> void kernel(const Arguments* a) {
      if (rank == 0) { )" +
           data_by_one + R"(put(a->peer, 1, 1); return; }
      if (thread() != 0) return;
      while (read_flag(a->mine, )" +
           load + ") != 1) yield(); " + between + R"(
      bool complete = true;
      for (unsigned i = 16; i < 32; ++i) complete = complete && read_flag(a->mine + i, 0) == 7;
      a->out[0] = complete ? 1 : 2;
    })";
  };
  make(receive("1", ""));
  EXPECT_GT(count(results(seeds, {1, 4}), 2), seeds / 20);
  make(receive("1", "fence();"));
  EXPECT_EQ(count(results(seeds, {1, 4}), 1), seeds);
  make(receive("2", ""));
  EXPECT_EQ(count(results(seeds, {1, 4}), 1), seeds);
}

TEST_F(CpuLinkTest, KnowledgeIsPassedOn) {
  // Thread 0 of rank 0 stores data and releases a flag to thread 1, which stores another flag to the peer.
  const auto pass = [](const std::string& load, const std::string& release) {
    return R"(template <int rank> void kernel(const Arguments* a) {
      if (rank == 0 && thread() == 0) { for (int i = 0; i < 4; ++i) put4(a->peer + 16 + 4 * i, 7); put(a->mine + 40, 1, 1); }
      if (rank == 0 && thread() == 1) { while (read_flag(a->mine + 40, )" +
           load + ") != 1) yield(); put(a->peer, 1, " + release + R"(); }
      if (rank == 0 || thread() != 0) return;
      if (!wait_for(a, 0, 1)) { a->out[0] = 3; return; }
      bool complete = true;
      for (unsigned i = 16; i < 32; ++i) complete = complete && read_flag(a->mine + i) == 7;
      a->out[0] = complete ? 1 : 2;
    })";
  };
  make(pass("2", "1"));
  EXPECT_EQ(count(results(seeds, {1, 2}), 1), seeds);
  make(pass("2", "0"));
  EXPECT_GT(count(results(seeds, {1, 2}), 2), 0U) << "passed on without release";
  make(pass("1", "1"));
  EXPECT_GT(count(results(seeds, {1, 2}), 2), 0U) << "received without acquire";
}

TEST_F(CpuLinkTest, TheSameSeedGivesTheSameRun) {
  make(R"(template <int rank> void kernel(const Arguments* a) {
    unsigned hash = rank;
    for (unsigned i = 0; i < 10; ++i) {
      put4(a->peer + 4 * (thread() % 8), i * 8 + thread());
      yield();
      for (unsigned w = 0; w < 32; ++w) hash = hash * 31 + read_flag(a->mine + w);
    }
    __atomic_fetch_add(a->out, hash * (thread() + 1), __ATOMIC_RELAXED);
  })");
  const auto first = results(40, {2, 8});
  const auto second = results(40, {2, 8});
  EXPECT_EQ(first, second);
  EXPECT_GT(std::set<unsigned>(first.begin(), first.end()).size(), 20U) << "and other seeds give other runs";
}

TEST_F(CpuLinkTest, WithinAGraphARankRunsAhead) {
  // Rank 0 counts its launches in word 2 of rank 1; rank 1's first launch sees how far rank 0 got.
  make(R"(template <int rank> void kernel(const Arguments* a) {
    if (rank == 0) {
      put(a->peer + 2, ++a->out[0], 0);
      for (int i = 0; i < 30; ++i) yield();
      return;
    }
    if (a->out[1]++ != 0) return;
    for (int i = 0; i < 40; ++i) yield();
    a->out[0] = read_flag(a->mine + 2) + 1;
  })");
  const auto got = results(seeds, {1, 1}, 0, 4);
  EXPECT_GT(count(got, 3), 0U) << "rank 0 was in its second launch";
}

TEST_F(CpuLinkTest, StoresOfAKernelComeBeforeThoseOfTheNextOne) {
  make(R"(template <int rank> void kernel(const Arguments* a) {
    if (rank == 0) {
      if (a->out[0]++ == 0) { for (int i = 0; i < 4; ++i) put4(a->peer + 16 + 4 * i, 7); } else put(a->peer, 1, 0);
      return;
    }
    if (a->out[1]++ != 0) return;
    if (!wait_for(a, 0, 1)) { a->out[0] = 3; return; }
    bool complete = true;
    for (unsigned i = 16; i < 32; ++i) complete = complete && read_flag(a->mine + i) == 7;
    a->out[0] = complete ? 1 : 2;
  })");
  EXPECT_EQ(count(results(seeds, {1, 1}, 0, 2), 1), seeds);
}

TEST_F(CpuLinkTest, DeadlinesAreInVirtualTime) {
  make(R"(template <int rank> void kernel(const Arguments* a) { a->out[0] = wait_for(a, 0, 1) ? 1 : 2; })");
  EXPECT_EQ(count(results(3, {1, 4}, 0, 1, 3'600'000'000'000ULL), 2), 3U) << "nobody sends: a virtual hour passes";
}

TEST_F(CpuLinkTest, ADivergentKernelFailsOnEveryRank) {
  make(R"(template <int rank> void kernel(const Arguments* a) {
    if (rank == 1) { if (thread() != 0) barrier(); else self->shuffle_xor(self, 0, 1); }
    wait_for(a, 0, 1);
  })");
  std::string errors[2];
  on_both([&](int rank, Device& device, Bootstrap&) {
    const auto kernel = device.load(compiled_, rank);
    std::vector<unsigned> words(64, 0);
    const Arguments arguments{words.data(), words.data(), words.data(), 1'000'000'000};
    try {
      device.launch(*kernel, {1, 8}, &arguments, sizeof(arguments), nullptr);
    } catch (const DeviceError& error) {
      errors[rank] = error.what();
    }
  });
  EXPECT_NE(errors[0].find("kernel of rank 1"), std::string::npos) << errors[0];
  EXPECT_EQ(errors[0], errors[1]);
}

TEST_F(CpuLinkTest, ARankThatDoesNotLaunchIsNamed) {
  const auto launch_on_rank_0 = [&](const std::function<void(std::unique_ptr<Device>&)>& rank_1) {
    make("template <int rank> void kernel(const Arguments*) {}", 100ms);
    auto first = make_cpu_device(0, {.seed = 0, .link = link_});
    auto second = make_cpu_device(1, {.seed = 0, .link = link_});
    std::thread other([&] { rank_1(second); });
    const auto kernel = first->load(compiled_, 0);
    std::string text;
    try {
      first->launch(*kernel, {1, 1}, nullptr, 0, nullptr);
    } catch (const DeviceError& error) {
      text = error.what();
    }
    other.join();
    return text;
  };
  EXPECT_NE(launch_on_rank_0([](auto&) {}).find("rank 1 did not within 100 ms"), std::string::npos);
  EXPECT_NE(launch_on_rank_0([](auto& device) { device.reset(); }).find("device of rank 1 was destroyed"),
            std::string::npos);
}

TEST_F(CpuLinkTest, RefusesWhatCannotWork) {
  EXPECT_THROW(make_cpu_link_model(0), InvalidArgument);
  EXPECT_THROW(make_cpu_link_model(17), InvalidArgument);
  link_ = make_cpu_link_model(2);
  EXPECT_THROW(make_cpu_device(2, {.seed = 0, .link = link_}), InvalidArgument);
  const auto first = make_cpu_device(0, {.seed = 0, .link = link_});
  EXPECT_THROW(make_cpu_device(0, {.seed = 0, .link = link_}), InvalidArgument);
}

}  // namespace
}  // namespace arbiter
