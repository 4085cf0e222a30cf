// Ranks that are processes. They are forked before anything touches CUDA, so only the children look for GPUs; a child
// that finds too few ends with the code `skipped`.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include "arbiter/error.hpp"
#include "arbiter/runtime/nccl.hpp"
#include "cuda/symmetric.hpp"
#include "runtime/cuda_kernels.hpp"
#include "runtime/ranks.hpp"

namespace arbiter {
namespace {

constexpr int skipped = 77;

#define EXPECT_ALL_OK(codes)                                               \
  if (std::find((codes).begin(), (codes).end(), skipped) != (codes).end()) \
    GTEST_SKIP() << "the ranks found too few CUDA devices, or no NCCL";    \
  EXPECT_EQ(codes, std::vector<int>((codes).size(), 0))

int exchange_patterns(Bootstrap& bootstrap, SymmetricProvider provider, int gpus_needed,
                      std::optional<int> ordinal = std::nullopt) {
  const int count = cuda_device_count();
  if (count < gpus_needed) return skipped;
  const std::unique_ptr<Device> device = make_cuda_device(ordinal.value_or(bootstrap.rank() % count));
  const auto memory = allocate_symmetric(*device, bootstrap, provider, std::size_t{4} << 20U);
  const StreamHandle stream = device->create_stream();
  for (int peer = 0; peer < bootstrap.size(); ++peer) {
    device->fill_words(static_cast<unsigned*>(memory->peer(peer)) + bootstrap.rank() * 1024,
                       static_cast<unsigned>(100 * bootstrap.rank() + peer + 1), 1024, stream);
  }
  device->synchronize(stream);
  bootstrap.barrier();
  std::vector<unsigned> found(1024U * static_cast<unsigned>(bootstrap.size()));
  device->copy(found.data(), memory->local(), found.size() * 4, stream);
  device->synchronize(stream);
  bootstrap.barrier();
  for (int from = 0; from < bootstrap.size(); ++from) {
    for (int i = 0; i < 1024; ++i) {
      if (found[static_cast<std::size_t>(from * 1024 + i)] != static_cast<unsigned>(100 * from + bootstrap.rank() + 1))
        return 1;
    }
  }
  for (const ProviderProbe& probe : probe_symmetric_memory(*device, bootstrap)) {
    if (!probe.usable) {
      std::cerr << to_string(probe.provider) << ": " << probe.reason << "\n";
      if (probe.provider == provider) return 2;
    }
  }
  device->destroy_stream(stream);
  return 0;
}

TEST(CudaProcesses, VmmOnOneGpu) {
  const auto codes =
      test::run_processes(3, [](Bootstrap& b) { return exchange_patterns(b, SymmetricProvider::vmm, 1); });
  EXPECT_ALL_OK(codes);
}

TEST(CudaProcesses, CudaIpcOnOneGpu) {
  const auto codes =
      test::run_processes(3, [](Bootstrap& b) { return exchange_patterns(b, SymmetricProvider::cuda_ipc, 1); });
  EXPECT_ALL_OK(codes);
}

TEST(CudaProcesses, VmmAcrossTwoGpus) {
  const auto codes =
      test::run_processes(2, [](Bootstrap& b) { return exchange_patterns(b, SymmetricProvider::vmm, 2); });
  EXPECT_ALL_OK(codes);
}

TEST(CudaProcesses, CudaIpcAcrossTwoGpus) {
  const auto codes =
      test::run_processes(2, [](Bootstrap& b) { return exchange_patterns(b, SymmetricProvider::cuda_ipc, 2); });
  EXPECT_ALL_OK(codes);
}

/// Rank 1 sees the first two GPUs in the other order: both ranks use their GPU 0, which is not the same one.
int exchange_with_permuted_gpus(Bootstrap& bootstrap, SymmetricProvider provider) {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  const std::string list = visible == nullptr ? "0,1" : visible;
  const std::size_t comma = list.find(',');
  if (comma == std::string::npos) return skipped;
  const std::string first = list.substr(0, comma);
  const std::string second = list.substr(comma + 1, list.find(',', comma + 1) - comma - 1);
  ::setenv("CUDA_VISIBLE_DEVICES", (bootstrap.rank() == 0 ? first + "," + second : second + "," + first).c_str(), 1);
  if (cuda_device_count() < 2) return skipped;
  std::vector<std::string> gpus = bootstrap.allgather(make_cuda_device(0)->properties().unique_id);
  if (gpus[0] == gpus[1]) return 3;
  return exchange_patterns(bootstrap, provider, 2, 0);
}

TEST(CudaProcesses, VisibleDevicesInAnotherOrder) {
  for (const SymmetricProvider provider : {SymmetricProvider::vmm, SymmetricProvider::cuda_ipc}) {
    const auto codes = test::run_processes(2, [&](Bootstrap& b) { return exchange_with_permuted_gpus(b, provider); });
    EXPECT_ALL_OK(codes);
  }
}

TEST(CudaProcesses, ARankThatDiesBeforeTheVoteIsAnErrorForTheOthers) {
  const auto codes = test::run_processes(2, [](Bootstrap& bootstrap) {
    if (cuda_device_count() < 1) return skipped;
    const std::unique_ptr<Device> device = make_cuda_device(0);
    bootstrap.barrier();
    if (bootstrap.rank() == 1) raise(SIGKILL);
    try {
      allocate_symmetric(*device, bootstrap, SymmetricProvider::vmm, 4096);
    } catch (const std::exception&) {
      const DeviceMemory still_usable(*device, 4096);
      return 0;
    }
    return 1;
  });
  if (codes[0] == skipped) GTEST_SKIP() << "needs a CUDA device";
  EXPECT_EQ(codes, (std::vector<int>{0, 128 + SIGKILL}));
}

LauncherVariables worker(int rank, int size, const std::string& name) {
  LauncherVariables variables;
  variables.launcher = "arbiter";
  variables.rank = variables.local_rank = rank;
  variables.size = variables.local_size = size;
  variables.rendezvous = "file://" + (std::filesystem::temp_directory_path() / name).string();
  variables.job = std::to_string(getppid()) + name;
  return variables;
}

TEST(LauncherProcesses, NcclCarriesTheBootstrap) {
  const auto codes = test::run_processes(2, [](Bootstrap& outer) {
    if (cuda_device_count() < 2 || nccl_version().empty()) return skipped;
    const std::unique_ptr<Device> device = make_cuda_device(outer.rank());
    const auto bootstrap =
        make_launcher_bootstrap(worker(outer.rank(), 2, "arbiter-test-launcher"), std::chrono::seconds(60));
    for (const std::size_t bytes : {std::size_t{1}, std::size_t{5}, std::size_t{4096}, std::size_t{3} << 20U}) {
      const std::string mine(bytes, static_cast<char>('a' + bootstrap->rank()));
      std::string all(2 * bytes, '\0');
      bootstrap->allgather(mine.data(), bytes, all.data());
      if (all != std::string(bytes, 'a') + std::string(bytes, 'b')) return 1;
      std::string text = bootstrap->rank() == 1 ? std::string(bytes, 'q') : std::string(bytes, '-');
      static_cast<Bootstrap&>(*bootstrap).broadcast(text.data(), bytes, 1);
      if (text != std::string(bytes, 'q')) return 2;
    }
    bootstrap->barrier();
    if (!bootstrap->all(true) || bootstrap->all(bootstrap->rank() == 0)) return 3;
    const auto memory = allocate_symmetric(*device, *bootstrap, SymmetricProvider::vmm, 4096);
    bootstrap->barrier();
    return bootstrap->name() == "launcher (arbiter)" ? 0 : 4;
  });
  EXPECT_ALL_OK(codes);
}

TEST(LauncherProcesses, AKilledRankPoisonsTheOthersInTime) {
  const auto codes = test::run_processes(2, [](Bootstrap& outer) {
    if (cuda_device_count() < 2 || nccl_version().empty()) return skipped;
    const std::unique_ptr<Device> device = make_cuda_device(outer.rank());
    const auto bootstrap =
        make_launcher_bootstrap(worker(outer.rank(), 2, "arbiter-test-killed"), std::chrono::seconds(10));
    bootstrap->barrier();
    if (outer.rank() == 1) raise(SIGKILL);
    try {
      bootstrap->barrier();
    } catch (const Poisoned&) {
      try {
        bootstrap->barrier();
      } catch (const Poisoned&) {
        const DeviceMemory still_usable(*device, 4096);
        return 0;
      }
      return 2;
    }
    return 1;
  });
  if (codes[0] == skipped) GTEST_SKIP() << "needs 2 CUDA devices and NCCL";
  EXPECT_EQ(codes, (std::vector<int>{0, 128 + SIGKILL}));
}

TEST(LauncherProcesses, TwoRanksOnOneGpuAreToldWhatNcclNeeds) {
  const auto codes = test::run_processes(2, [](Bootstrap& outer) {
    if (cuda_device_count() < 1 || nccl_version().empty()) return skipped;
    const std::unique_ptr<Device> device = make_cuda_device(0);
    try {
      make_launcher_bootstrap(worker(outer.rank(), 2, "arbiter-test-shared"), std::chrono::seconds(30));
    } catch (const Error& error) {
      std::cerr << error.what() << "\n";
      return 0;
    }
    return 1;
  });
  EXPECT_ALL_OK(codes);
}

}  // namespace
}  // namespace arbiter
