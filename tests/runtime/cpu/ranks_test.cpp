// Kernels of several ranks that wait for each other: ranks as threads, ranks as processes, a rank that dies.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <array>
#include <chrono>
#include <thread>
#include <vector>

#include "arbiter/device.hpp"
#include "arbiter/error.hpp"
#include "arbiter/runtime/symmetric_memory.hpp"
#include "runtime/host_kernel.hpp"
#include "runtime/process_group.hpp"

namespace arbiter {
namespace {

using namespace std::chrono_literals;

// Every thread pushes 16 bytes to every peer and sums what the peers pushed; a block barrier and one flag per block
// and rank end each round.
struct Arguments {
  unsigned* workspace[8] = {};  // [round parity][rank][thread][4], then [rank][block] flags
  unsigned* out = nullptr;      // one word per thread: sum over ranks and rounds; then one word: timed out
  unsigned ranks = 0;
  unsigned rounds = 0;
  unsigned long long timeout_ns = 0;
};
constexpr const char* exchange_kernel = R"(
struct Arguments {
  unsigned* workspace[8]; unsigned* out; unsigned ranks, rounds; unsigned long long timeout_ns;
};
template <int rank> void kernel(const Arguments* a) {
  const unsigned threads = self->grid_blocks * self->block_threads;
  const unsigned me = block() * self->block_threads + thread();
  const unsigned flags = 2 * a->ranks * threads * 4;
  const unsigned long long start = self->now_ns(self);
  unsigned sum = 0;
  for (unsigned round = 1; round <= a->rounds; ++round) {
    const unsigned half = round % 2 * a->ranks * threads * 4;
    for (unsigned p = 0; p < a->ranks; ++p) {
      const unsigned v = round * 100000 + rank * 10000 + me + 1;
      const unsigned words[4] = {v, v + 1, v + 2, v + 3};
      self->store_symmetric(self, a->workspace[p] + half + (rank * threads + me) * 4, words, 4, 0);
    }
    for (unsigned p = 0; p < a->ranks; ++p) {
      unsigned* slot = a->workspace[rank] + half + (p * threads + me) * 4;
      for (unsigned i = 0; i < 4; ++i) {
        unsigned v;
        while ((v = __atomic_load_n(slot + i, __ATOMIC_RELAXED)) == 0) {
          if (self->now_ns(self) - start > a->timeout_ns) { a->out[threads] = 1; return; }
          yield();
        }
        sum += v;
        __atomic_store_n(slot + i, 0, __ATOMIC_RELAXED);
      }
    }
    barrier();
    if (thread() < a->ranks) {
      self->fence_system(self);
      put(a->workspace[thread()] + flags + rank * self->grid_blocks + block(), round);
      while (read_flag(a->workspace[rank] + flags + thread() * self->grid_blocks + block()) < round) {
        if (self->now_ns(self) - start > a->timeout_ns) { a->out[threads] = 1; return; }
        yield();
      }
    }
    barrier();
  }
  a->out[me] = sum;
})";

const CompiledKernel& compiled_exchange() {
  static const CompiledKernel compiled = test::compile_host_kernel(exchange_kernel);
  return compiled;
}

std::size_t workspace_words(unsigned ranks, const Launch& shape) {
  return std::size_t{2} * ranks * shape.blocks * shape.threads * 4 + std::size_t{ranks} * shape.blocks;
}

unsigned expected_sum(unsigned ranks, unsigned rounds, unsigned thread) {
  unsigned sum = 0;
  for (unsigned round = 1; round <= rounds; ++round) {
    for (unsigned r = 0; r < ranks; ++r) sum += 4 * (round * 100000 + r * 10000 + thread + 1) + 6;
  }
  return sum;
}

/// Number of threads of this rank with a wrong result; one more if a wait timed out.
int exchange(Bootstrap& bootstrap, Launch shape, unsigned rounds, std::chrono::nanoseconds timeout,
             std::uint64_t seed) {
  const auto ranks = static_cast<unsigned>(bootstrap.size());
  const auto device = make_cpu_device(bootstrap.rank(), {.seed = seed});
  const auto kernel = device->load(compiled_exchange(), bootstrap.rank());
  const auto memory = allocate_symmetric(*device, bootstrap, SymmetricProvider::shared_memory,
                                         workspace_words(ranks, shape) * sizeof(unsigned));
  const unsigned threads = shape.blocks * shape.threads;
  std::vector<unsigned> out(threads + 1, 0);
  Arguments arguments;
  for (unsigned p = 0; p < ranks; ++p) {
    arguments.workspace[p] = static_cast<unsigned*>(memory->peer(static_cast<int>(p)));
  }
  arguments.out = out.data();
  arguments.ranks = ranks;
  arguments.rounds = rounds;
  arguments.timeout_ns = static_cast<unsigned long long>(timeout.count());
  device->launch(*kernel, shape, &arguments, sizeof(arguments), nullptr);
  int wrong = out[threads] != 0 ? 1 : 0;
  for (unsigned t = 0; t < threads; ++t) wrong += out[t] != expected_sum(ranks, rounds, t) ? 1 : 0;
  return wrong;
}

class RanksAsThreads : public ::testing::TestWithParam<int> {};

TEST_P(RanksAsThreads, ExchangeThroughSharedMemory) {
  const int ranks = GetParam();
  const auto bootstraps = make_in_process_bootstraps(ranks, 20s);
  std::vector<int> wrong(static_cast<std::size_t>(ranks), -1);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      Bootstrap& bootstrap = *bootstraps[static_cast<std::size_t>(r)];
      int bad = 0;
      for (std::uint64_t seed = 0; seed < 3; ++seed) bad += exchange(bootstrap, {4, 64}, 5, 10s, seed);
      bad += exchange(bootstrap, {1, 32}, 20, 10s, 9);
      bad += exchange(bootstrap, {2, 33}, 3, 10s, 10);
      wrong[static_cast<std::size_t>(r)] = bad;
    });
  }
  for (auto& thread : threads) thread.join();
  for (int r = 0; r < ranks; ++r) EXPECT_EQ(wrong[static_cast<std::size_t>(r)], 0) << "rank " << r;
}

INSTANTIATE_TEST_SUITE_P(World, RanksAsThreads, ::testing::Values(2, 3, 4, 5, 8));

/// Runs `body` in a child process; its exit status is what body returns, 99 for an exception.
template <typename Body>
pid_t start_process(Body body) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  int status = 99;
  try {
    status = body();
  } catch (...) {
  }
  ::_exit(status);
}

int exit_status(pid_t child) {
  int status = 0;
  if (::waitpid(child, &status, 0) != child) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

TEST(RanksAsProcesses, ExchangeThroughSharedMemory) {
  compiled_exchange();
  test::ProcessGroup group(3);
  std::vector<pid_t> children;
  for (int r = 1; r < 3; ++r) {
    children.push_back(start_process([&, r] {
      const auto bootstrap = group.bootstrap(r, 20s);
      return exchange(*bootstrap, {4, 64}, 10, 10s, 5);
    }));
  }
  const auto bootstrap = group.bootstrap(0, 20s);
  EXPECT_EQ(exchange(*bootstrap, {4, 64}, 10, 10s, 5), 0);
  for (const pid_t child : children) EXPECT_EQ(exit_status(child), 0);
}

TEST(RanksAsProcesses, AKilledPeerEndsKernelsAndCollectivesByTheirDeadlines) {
  compiled_exchange();
  test::ProcessGroup group(2);
  const pid_t child = start_process([&] {
    const auto bootstrap = group.bootstrap(1, 20s);
    const auto device = make_cpu_device(1);
    const Launch shape{4, 64};
    const auto memory = allocate_symmetric(*device, *bootstrap, SymmetricProvider::shared_memory,
                                           workspace_words(2, shape) * sizeof(unsigned));
    ::raise(SIGKILL);
    return 0;
  });
  const auto bootstrap = group.bootstrap(0, 20s);
  // The deadline is real, and nothing here is judged by how long it took.
  EXPECT_GT(exchange(*bootstrap, {4, 64}, 10, 300ms, 5), 0) << "the wait for the dead rank timed out";
  EXPECT_THROW(bootstrap->barrier(), Poisoned);
  const auto device = make_cpu_device(0);
  EXPECT_THROW(allocate_symmetric(*device, *bootstrap, SymmetricProvider::shared_memory, 4096), Poisoned);
  EXPECT_EQ(exit_status(child), 1000 + SIGKILL);
}

}  // namespace
}  // namespace arbiter
