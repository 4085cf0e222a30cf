// Symmetric memory and NCCL with ranks that are threads of one process: several on one GPU, and one on each.
#include "cuda/symmetric.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

#include "arbiter/error.hpp"
#include "arbiter/runtime/nccl.hpp"
#include "runtime/cuda_kernels.hpp"
#include "runtime/ranks.hpp"

namespace arbiter {
namespace {

using test::FillArguments;

class CudaSymmetricTest : public testing::TestWithParam<SymmetricProvider> {
 protected:
  void SetUp() override { ARBITER_NEEDS_GPUS(1); }
  static std::vector<std::string> nothing(int size) { return std::vector<std::string>(static_cast<std::size_t>(size)); }
};

// A kernel of every rank writes to every rank; the owner finds all of it.
void write_everywhere(Bootstrap& bootstrap, SymmetricProvider provider) {
  const std::unique_ptr<Device> device = make_cuda_device(bootstrap.rank() % cuda_device_count());
  const std::unique_ptr<Kernel> kernel = test::load_source(*device, test::fill_source);
  constexpr unsigned words = 1 << 16;
  const auto size = static_cast<unsigned>(bootstrap.size());
  const std::unique_ptr<SymmetricMemory> memory =
      allocate_symmetric(*device, bootstrap, provider, std::size_t{words} * 4 * size);
  EXPECT_EQ(memory->provider(), provider);
  EXPECT_EQ(memory->peer(bootstrap.rank()), memory->local());
  const StreamHandle stream = device->create_stream();
  std::vector<unsigned> found(std::size_t{words} * size, 1);
  device->copy(found.data(), memory->local(), found.size() * 4, stream);
  device->synchronize(stream);
  EXPECT_EQ(std::count(found.begin(), found.end(), 0U), static_cast<std::ptrdiff_t>(found.size())) << "not zero-filled";
  bootstrap.barrier();

  Launch launch;
  launch.blocks = 8;
  launch.threads = 256;
  launch.shared_bytes = 16;
  const auto rank = static_cast<unsigned>(bootstrap.rank());
  for (int peer = 0; peer < bootstrap.size(); ++peer) {
    const FillArguments arguments{static_cast<unsigned*>(memory->peer(peer)) + rank * words,
                                  (rank + 1) * 1000000 + static_cast<unsigned>(peer) * 100000, words};
    device->launch(*kernel, launch, &arguments, sizeof(arguments), stream);
  }
  device->synchronize(stream);
  bootstrap.barrier();
  device->copy(found.data(), memory->local(), found.size() * 4, stream);
  device->synchronize(stream);
  for (unsigned from = 0; from < size; ++from) {
    for (unsigned i = 0; i < words; ++i) {
      ASSERT_EQ(found[from * words + i], (from + 1) * 1000000 + rank * 100000 + i) << "from rank " << from;
    }
  }
  bootstrap.barrier();
  device->destroy_stream(stream);
}

TEST_P(CudaSymmetricTest, ThreeRanksShareOneGpu) {
  const std::vector<std::string> failures =
      test::run_threads(3, [&](Bootstrap& bootstrap) { write_everywhere(bootstrap, GetParam()); });
  EXPECT_EQ(failures, nothing(3));
}

TEST_P(CudaSymmetricTest, OneRankOnEveryGpu) {
  ARBITER_NEEDS_GPUS(2);
  const int size = std::min(cuda_device_count(), 8);
  const std::vector<std::string> failures =
      test::run_threads(size, [&](Bootstrap& bootstrap) { write_everywhere(bootstrap, GetParam()); });
  EXPECT_EQ(failures, nothing(size));
}

TEST_P(CudaSymmetricTest, MemoryLivesUntilTheLastRankIsDone) {
  const std::vector<std::string> failures = test::run_threads(2, [&](Bootstrap& bootstrap) {
    const std::unique_ptr<Device> device = make_cuda_device(0);
    std::unique_ptr<SymmetricMemory> memory = allocate_symmetric(*device, bootstrap, GetParam(), 4096);
    if (bootstrap.rank() == 0) memory.reset();
    bootstrap.barrier();
    if (bootstrap.rank() == 1) {
      const StreamHandle stream = device->create_stream();
      device->fill_words(memory->peer(0), 7, 1024, stream);
      device->synchronize(stream);
      device->destroy_stream(stream);
    }
    bootstrap.barrier();
  });
  EXPECT_EQ(failures, nothing(2));
}

TEST_P(CudaSymmetricTest, WhatOneRankCannotDoFailsOnAll) {
  const std::vector<std::string> failures = test::run_threads(2, [&](Bootstrap& bootstrap) {
    const std::unique_ptr<Device> device = make_cuda_device(0);
    EXPECT_THROW(allocate_symmetric(*device, bootstrap, GetParam(), std::size_t{1} << 46U), Unavailable);
    const std::size_t uneven = bootstrap.rank() == 0 ? 4096 : 8192;
    EXPECT_THROW(allocate_symmetric(*device, bootstrap, GetParam(), uneven), Disagreement);
    EXPECT_THROW(allocate_symmetric(*device, bootstrap, GetParam(), 0), InvalidArgument);
    EXPECT_EQ(allocate_symmetric(*device, bootstrap, GetParam(), 100)->bytes(), 100U);  // and works afterwards
  });
  EXPECT_EQ(failures, nothing(2));
}

TEST_P(CudaSymmetricTest, NothingLeaks) {
  const auto free_bytes = [] {
    std::size_t free = 0;
    std::size_t total = 0;
    cudaMemGetInfo(&free, &total);
    return free;
  };
  std::size_t before = 0;
  std::size_t after = 0;
  const std::vector<std::string> failures = test::run_threads(2, [&](Bootstrap& bootstrap) {
    const std::unique_ptr<Device> device = make_cuda_device(0);
    for (int round = 0; round < 20; ++round) {
      const auto memory = allocate_symmetric(*device, bootstrap, GetParam(), std::size_t{64} << 20U);
      bootstrap.barrier();
      if (round == 2 && bootstrap.rank() == 0) before = free_bytes();
      if (round == 19 && bootstrap.rank() == 0) after = free_bytes();
      bootstrap.barrier();
    }
  });
  EXPECT_EQ(failures, nothing(2));
  EXPECT_LT(before - std::min(before, after), std::size_t{128} << 20U);
}

INSTANTIATE_TEST_SUITE_P(Providers, CudaSymmetricTest,
                         testing::Values(SymmetricProvider::vmm, SymmetricProvider::cuda_ipc),
                         [](const auto& provider) { return std::string(to_string(provider.param)); });

TEST(CudaSymmetricProbe, FindsBothProvidersUsable) {
  ARBITER_NEEDS_GPUS(1);
  const std::vector<std::string> failures = test::run_threads(2, [](Bootstrap& bootstrap) {
    const std::unique_ptr<Device> device = make_cuda_device(bootstrap.rank() % cuda_device_count());
    const std::vector<ProviderProbe> probes = probe_symmetric_memory(*device, bootstrap);
    ASSERT_EQ(probes.size(), 2U);
    for (const ProviderProbe& probe : probes)
      EXPECT_TRUE(probe.usable) << to_string(probe.provider) << ": " << probe.reason;
  });
  EXPECT_EQ(failures, (std::vector<std::string>{"", ""}));
}

TEST(CudaSymmetricRefusals, TheCpuProviderIsNotForGpus) {
  ARBITER_NEEDS_GPUS(1);
  test::run_threads(1, [](Bootstrap& bootstrap) {
    const std::unique_ptr<Device> device = make_cuda_device(0);
    EXPECT_THROW(allocate_cuda_symmetric(*device, bootstrap, SymmetricProvider::shared_memory, 64, false),
                 InvalidArgument);
  });
}

class NcclTest : public testing::Test {
 protected:
  void SetUp() override {
    ARBITER_NEEDS_GPUS(1);
    if (nccl_version().empty()) GTEST_SKIP() << "NCCL is not installed";
  }
};

TEST_F(NcclTest, TwoRanksOnOneGpuAreRefusedWithTheReason) {
  const std::vector<std::string> failures = test::run_threads(2, [](Bootstrap& bootstrap) {
    const std::unique_ptr<Device> device = make_cuda_device(0);
    make_nccl_communicator(*device, bootstrap);
  });
  for (const std::string& failure : failures) EXPECT_NE(failure.find("share one GPU"), std::string::npos) << failure;
}

enum class Memory { plain, symmetric, registered };

void reduce(Bootstrap& bootstrap, Memory memory) {
  const std::unique_ptr<Device> device = make_cuda_device(bootstrap.rank());
  const std::unique_ptr<NcclCommunicator> nccl = make_nccl_communicator(*device, bootstrap);
  constexpr std::size_t count = 10000;
  std::unique_ptr<NcclCommunicator::RegisteredBuffers> buffers;
  if (memory != Memory::plain) {
    try {
      buffers = memory == Memory::symmetric ? nccl->register_symmetric(count * 4) : nccl->register_buffers(count * 4);
    } catch (const Unsupported& error) {
      std::cout << "memory that NCCL knows: " << error.what() << "\n";
      return;
    }
  }
  const DeviceMemory in(*device, count * 4);
  const DeviceMemory out(*device, count * 4);
  void* input = buffers ? buffers->input() : in.data();
  void* output = buffers ? buffers->output() : out.data();
  const StreamHandle stream = device->create_stream();
  const std::vector<float> mine(count, static_cast<float>(bootstrap.rank() + 1));
  device->copy(input, mine.data(), count * 4, stream);
  nccl->all_reduce(input, output, count, Dtype::fp32, stream);
  std::vector<float> sum(count);
  device->copy(sum.data(), output, count * 4, stream);
  device->synchronize(stream);
  EXPECT_EQ(sum, std::vector<float>(count, static_cast<float>(bootstrap.size() * (bootstrap.size() + 1) / 2)));

  device->begin_capture(stream);
  nccl->all_reduce(input, output, count, Dtype::fp32, stream);
  {
    const std::unique_ptr<Graph> graph = device->end_capture(stream);
    device->fill_words(output, 0, count, stream);
    graph->launch(stream);
    device->copy(sum.data(), output, count * 4, stream);
    device->synchronize(stream);
  }
  EXPECT_EQ(sum[count - 1], static_cast<float>(bootstrap.size() * (bootstrap.size() + 1) / 2));
  device->destroy_stream(stream);
  bootstrap.barrier();
}

TEST_F(NcclTest, ReducesWithOneThreadPerGpu) {
  ARBITER_NEEDS_GPUS(2);
  const std::vector<std::string> failures =
      test::run_threads(2, [](Bootstrap& bootstrap) { reduce(bootstrap, Memory::plain); });
  EXPECT_EQ(failures, (std::vector<std::string>{"", ""}));
}

TEST_F(NcclTest, ReducesOnSymmetricWindows) {
  ARBITER_NEEDS_GPUS(2);
  const std::vector<std::string> failures =
      test::run_threads(2, [](Bootstrap& bootstrap) { reduce(bootstrap, Memory::symmetric); });
  EXPECT_EQ(failures, (std::vector<std::string>{"", ""}));
}

TEST_F(NcclTest, ReducesOnRegisteredBuffers) {
  ARBITER_NEEDS_GPUS(2);
  const std::vector<std::string> failures =
      test::run_threads(2, [](Bootstrap& bootstrap) { reduce(bootstrap, Memory::registered); });
  EXPECT_EQ(failures, (std::vector<std::string>{"", ""}));
}

TEST_F(NcclTest, WithoutOurPluginNothingCanBeForced) {
  ARBITER_NEEDS_GPUS(2);
  const std::vector<std::string> failures = test::run_threads(2, [](Bootstrap& bootstrap) {
    const std::unique_ptr<Device> device = make_cuda_device(bootstrap.rank());
    const std::unique_ptr<NcclCommunicator> nccl = make_nccl_communicator(*device, bootstrap);
    EXPECT_NE(nccl->forcing_problem().find("NCCL_TUNER_PLUGIN"), std::string::npos) << nccl->forcing_problem();
    const DeviceMemory memory(*device, 64);
    const NcclConfiguration wanted{NcclAlgorithm::ring, NcclProtocol::simple, 4};
    EXPECT_THROW(nccl->all_reduce_forced(wanted, memory.data(), memory.data(), 4, Dtype::fp32, nullptr), Unsupported);
    EXPECT_NO_THROW(nccl->check());
    bootstrap.barrier();
  });
  EXPECT_EQ(failures, (std::vector<std::string>{"", ""}));
}

TEST_F(NcclTest, AnAbortedCommunicatorRefusesCalls) {
  ARBITER_NEEDS_GPUS(2);
  const std::vector<std::string> failures = test::run_threads(2, [](Bootstrap& bootstrap) {
    const std::unique_ptr<Device> device = make_cuda_device(bootstrap.rank());
    const std::unique_ptr<NcclCommunicator> nccl = make_nccl_communicator(*device, bootstrap);
    nccl->abort();
    nccl->abort();
    const DeviceMemory memory(*device, 64);
    EXPECT_THROW(nccl->all_reduce(memory.data(), memory.data(), 4, Dtype::fp32, nullptr), Poisoned);
  });
  EXPECT_EQ(failures, (std::vector<std::string>{"", ""}));
}

}  // namespace
}  // namespace arbiter
