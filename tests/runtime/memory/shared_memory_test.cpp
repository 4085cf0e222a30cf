// Symmetric memory of the CPU device: shared by all ranks, all or nothing.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "arbiter/error.hpp"
#include "arbiter/runtime/symmetric_memory.hpp"

namespace arbiter {
namespace {

using namespace std::chrono_literals;

void on_ranks(int size, const std::function<void(Device&, Bootstrap&)>& body) {
  const auto bootstraps = make_in_process_bootstraps(size, 20s);
  std::vector<std::thread> threads;
  for (const auto& bootstrap : bootstraps) {
    threads.emplace_back([&] {
      const auto device = make_cpu_device(bootstrap->rank());
      body(*device, *bootstrap);
    });
  }
  for (auto& thread : threads) thread.join();
}

std::size_t open_files() {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

std::size_t symmetric_mappings() {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  std::size_t count = 0;
  while (std::getline(maps, line)) count += line.find("memfd:arbiter-device-") != std::string::npos ? 1 : 0;
  return count;
}

TEST(SharedMemory, ProbeProvesEveryPair) {
  for (const int size : {1, 2, 7, 16}) {
    on_ranks(size, [](Device& device, Bootstrap& bootstrap) {
      const auto probes = probe_symmetric_memory(device, bootstrap);
      ASSERT_EQ(probes.size(), 1U);
      EXPECT_EQ(probes[0].provider, SymmetricProvider::shared_memory);
      EXPECT_TRUE(probes[0].usable) << probes[0].reason;
      EXPECT_EQ(probes[0].reason, "");
    });
  }
}

TEST(SharedMemory, IsZeroFilledAndSeenByAll) {
  on_ranks(3, [](Device& device, Bootstrap& bootstrap) {
    constexpr std::size_t bytes = 10'001;
    const auto memory = allocate_symmetric(device, bootstrap, SymmetricProvider::shared_memory, bytes);
    EXPECT_EQ(memory->bytes(), bytes);
    EXPECT_EQ(memory->provider(), SymmetricProvider::shared_memory);
    EXPECT_EQ(memory->local(), memory->peer(bootstrap.rank()));
    const auto* local = static_cast<const unsigned char*>(memory->local());
    for (std::size_t i = 0; i < bytes; ++i) ASSERT_EQ(local[i], 0);
    bootstrap.barrier();
    for (int r = 0; r < 3; ++r) {
      static_cast<unsigned char*>(memory->peer(r))[bytes - 1 - static_cast<std::size_t>(bootstrap.rank())] =
          static_cast<unsigned char>(10 + bootstrap.rank());
    }
    bootstrap.barrier();
    for (std::size_t r = 0; r < 3; ++r) EXPECT_EQ(local[bytes - 1 - r], 10 + r);
    EXPECT_EQ(device.classify(memory->local()), PointerKind::here);
    EXPECT_EQ(device.classify(memory->peer((bootstrap.rank() + 1) % 3)), PointerKind::other_device);
    bootstrap.barrier();
  });
}

TEST(SharedMemory, NothingIsLeaked) {
  const std::size_t files = open_files();
  const std::size_t mappings = symmetric_mappings();
  on_ranks(4, [](Device& device, Bootstrap& bootstrap) {
    for (int i = 0; i < 20; ++i) allocate_symmetric(device, bootstrap, SymmetricProvider::shared_memory, 1 << 16);
    for (int i = 0; i < 5; ++i) {
      EXPECT_THROW(allocate_symmetric(device, bootstrap, SymmetricProvider::shared_memory, std::size_t{1} << 50),
                   Unavailable);
    }
  });
  EXPECT_EQ(open_files(), files);
  EXPECT_EQ(symmetric_mappings(), mappings);
}

/// Changes what this rank announces, as a broken peer would.
class Tampering final : public Bootstrap {
 public:
  using Bootstrap::allgather;
  using Bootstrap::broadcast;
  using Change = std::function<void(char* announcement, std::size_t bytes)>;
  Tampering(Bootstrap& inner, Change change) : inner_(inner), change_(std::move(change)) {}
  int rank() const noexcept override { return inner_.rank(); }
  int size() const noexcept override { return inner_.size(); }
  void allgather(const void* send, std::size_t bytes, void* receive) override {
    std::vector<char> copy(bytes);
    std::memcpy(copy.data(), send, bytes);
    if (calls_++ == 0) change_(copy.data(), bytes);
    inner_.allgather(copy.data(), bytes, receive);
  }
  void broadcast(void* data, std::size_t bytes, int root) override { inner_.broadcast(data, bytes, root); }
  void barrier() override { inner_.barrier(); }
  std::string name() const override { return inner_.name(); }

 private:
  Bootstrap& inner_;
  Change change_;
  int calls_ = 0;
};

TEST(SharedMemory, AnUnreachablePeerFailsTheVoteOnEveryRankWithAReason) {
  on_ranks(3, [](Device& device, Bootstrap& bootstrap) {
    // Rank 1 announces a file that nobody can open: what a peer in another process-id namespace looks like.
    Tampering tampering(bootstrap, [&](char* announcement, std::size_t bytes) {
      const std::int32_t closed = 1'000'000;
      if (bootstrap.rank() == 1) std::memcpy(announcement + bytes - 8, &closed, sizeof(closed));
    });
    const auto probes = probe_symmetric_memory(device, tampering);
    EXPECT_FALSE(probes[0].usable);
    EXPECT_NE(probes[0].reason.find("cannot open the memory of rank 1"), std::string::npos) << probes[0].reason;
    EXPECT_NE(probes[0].reason.find("rank 2: "), std::string::npos) << probes[0].reason;
    EXPECT_TRUE(bootstrap.all(true)) << "the ranks are still in step";
  });
}

TEST(SharedMemory, AnotherFileIsNotMistakenForThePeers) {
  on_ranks(2, [](Device& device, Bootstrap& bootstrap) {
    Tampering tampering(bootstrap, [&](char* announcement, std::size_t bytes) {
      const std::int32_t standard_input = 0;
      if (bootstrap.rank() == 0) std::memcpy(announcement + bytes - 8, &standard_input, sizeof(standard_input));
    });
    EXPECT_THROW(allocate_symmetric(device, tampering, SymmetricProvider::shared_memory, 4096), Unavailable);
  });
}

TEST(SharedMemory, DifferentSizesAreADisagreement) {
  on_ranks(3, [](Device& device, Bootstrap& bootstrap) {
    const std::size_t bytes = bootstrap.rank() == 2 ? 8192 : 4096;
    EXPECT_THROW(allocate_symmetric(device, bootstrap, SymmetricProvider::shared_memory, bytes), Disagreement);
    EXPECT_TRUE(bootstrap.all(true)) << "the ranks are still in step";
  });
}

TEST(SharedMemory, ProvidersOfGpusAreRefusedOnTheCpuDevice) {
  on_ranks(1, [](Device& device, Bootstrap& bootstrap) {
    EXPECT_THROW(allocate_symmetric(device, bootstrap, SymmetricProvider::vmm, 4096), InvalidArgument);
    EXPECT_THROW(allocate_symmetric(device, bootstrap, SymmetricProvider::cuda_ipc, 4096), InvalidArgument);
  });
  EXPECT_EQ(to_string(SymmetricProvider::vmm), "vmm");
  EXPECT_EQ(to_string(SymmetricProvider::cuda_ipc), "cuda_ipc");
  EXPECT_EQ(to_string(SymmetricProvider::shared_memory), "shared_memory");
}

}  // namespace
}  // namespace arbiter
