// On a machine without GPU, driver or NCCL everything starts, and says what is missing. With GPUs, the same calls must
// simply not throw.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "arbiter/error.hpp"
#include "arbiter/runtime/doctor.hpp"
#include "arbiter/runtime/fingerprint.hpp"
#include "arbiter/runtime/nccl.hpp"
#include "arbiter/runtime/symmetric_memory.hpp"
#include "cuda/driver.hpp"
#include "runtime/ranks.hpp"

namespace arbiter {
namespace {

namespace fs = std::filesystem;

class WithoutCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() > 0) GTEST_SKIP() << "this machine has CUDA devices";
  }
};

TEST_F(WithoutCuda, ADeviceIsUnavailableWithAReason) {
  for (int round = 0; round < 2; ++round) {
    try {
      make_cuda_device(0);
      FAIL() << "expected Unavailable";
    } catch (const Unavailable& error) {
      EXPECT_NE(std::string(error.what()).find("driver"), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(cuda_device_count(), 0);
}

TEST_F(WithoutCuda, TheLauncherBootstrapSaysWhatItNeeds) {
  LauncherVariables variables;
  variables.launcher = "torchrun";
  variables.size = 2;
  variables.rendezvous = "tcp://127.0.0.1:30000";
  try {
    make_launcher_bootstrap(variables);
    FAIL() << "expected Unavailable";
  } catch (const Unavailable& error) {
    EXPECT_NE(std::string(error.what()).find("GPU"), std::string::npos) << error.what();
  }
}

TEST(LauncherBootstrap, OfOneRankNeedsNothing) {
  LauncherVariables variables;
  variables.launcher = "slurm";
  const std::unique_ptr<Bootstrap> bootstrap = make_launcher_bootstrap(variables);
  EXPECT_EQ(bootstrap->size(), 1);
  EXPECT_EQ(bootstrap->name(), "launcher (slurm)");
  int mine = 42;
  int all = 0;
  bootstrap->allgather(&mine, sizeof(mine), &all);
  EXPECT_EQ(all, 42);
  bootstrap->broadcast(&mine, sizeof(mine), 0);
  bootstrap->barrier();
  EXPECT_EQ(mine, 42);
}

TEST(LauncherBootstrap, RefusesWhatNoLauncherSays) {
  EXPECT_THROW(make_launcher_bootstrap({}), InvalidArgument);
  LauncherVariables variables;
  variables.launcher = "torchrun";
  variables.rank = 2;
  variables.size = 2;
  EXPECT_THROW(make_launcher_bootstrap(variables), InvalidArgument);
}

TEST(NcclWithoutGpus, IsUnavailableOnTheCpuDeviceOnEveryRank) {
  const std::vector<std::string> failures = test::run_threads(2, [](Bootstrap& bootstrap) {
    const std::unique_ptr<Device> device = make_cpu_device(bootstrap.rank());
    EXPECT_THROW(make_nccl_communicator(*device, bootstrap), Unavailable);
  });
  EXPECT_EQ(failures, (std::vector<std::string>{"", ""}));
}

TEST(CudaMessages, NameTheCallTheErrorAndWhatHelps) {
  const std::string message = cuda_message("cudaMalloc(7)", cudaErrorMemoryAllocation);
  EXPECT_NE(message.find("cudaMalloc(7)"), std::string::npos) << message;
  EXPECT_NE(message.find("cudaErrorMemoryAllocation"), std::string::npos) << message;
  EXPECT_NE(message.find("nvidia-smi"), std::string::npos) << message;
  EXPECT_NO_THROW(cuda_check(cudaSuccess, "x"));
  EXPECT_THROW(cuda_check(cudaErrorInvalidValue, "x"), DeviceError);
  // A driver that was never resolved still gives a message.
  EXPECT_NE(cuda_message(CudaDriver{}, "cuMemMap", CUDA_ERROR_INVALID_VALUE).find("cuMemMap"), std::string::npos);
}

const Capability& named(const std::vector<Capability>& all, const std::string& name) {
  const auto found = std::find_if(all.begin(), all.end(), [&](const Capability& c) { return c.name == name; });
  EXPECT_NE(found, all.end()) << name;
  return *found;
}

class DoctorTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("arbiter-doctor-" + std::to_string(getpid()));
    fs::create_directories(folder_);
    variables_.cache_dir = folder_ / "cache";
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
  EnvironmentVariables variables_;
};

TEST_F(DoctorTest, ReportsEveryCapability) {
  const std::vector<Capability> all = probe_capabilities(variables_);
  for (const char* name : {"driver", "cuda_devices", "peer_access", "topology", "nvrtc", "nccl", "nccl_tuner_plugin",
                           "symmetric_memory_vmm", "symmetric_memory_cuda_ipc", "multicast", "host_compiler",
                           "cache_directory", "database"}) {
    named(all, name);
  }
  for (const Capability& capability : all) {
    EXPECT_EQ(capability.ok, capability.reason.empty()) << capability.name << ": " << capability.reason;
  }
  EXPECT_TRUE(named(all, "cache_directory").ok) << named(all, "cache_directory").reason;
  EXPECT_FALSE(named(all, "multicast").ok);  // nothing may claim it without having tried
  EXPECT_FALSE(named(all, "database").ok);
  if (cuda_device_count() > 0) return;
  for (const char* name :
       {"driver", "cuda_devices", "peer_access", "topology", "symmetric_memory_vmm", "symmetric_memory_cuda_ipc"}) {
    EXPECT_FALSE(named(all, name).ok) << name;
    EXPECT_FALSE(named(all, name).reason.empty()) << name;
  }
}

TEST_F(DoctorTest, ACacheThatCannotBeWrittenIsSaid) {
  variables_.cache_dir = "/proc/arbiter-cache";
  const Capability cache = named(probe_capabilities(variables_), "cache_directory");
  EXPECT_FALSE(cache.ok);
  EXPECT_NE(cache.reason.find("ARBITER_CACHE_DIR"), std::string::npos) << cache.reason;
  EXPECT_EQ(fs::exists("/proc/arbiter-cache"), false);
}

TEST_F(DoctorTest, ADatabaseThatIsBrokenIsSaid) {
  variables_.db = (folder_ / "missing.db").string();
  EXPECT_FALSE(named(probe_capabilities(variables_), "database").ok);
  EXPECT_FALSE(fs::exists(variables_.db)) << "looking must not create it";
}

TEST(FingerprintOnCpu, IsEqualOnAllRanks) {
  std::vector<Environment> seen(3);
  const std::vector<std::string> failures = test::run_threads(3, [&](Bootstrap& bootstrap) {
    const std::unique_ptr<Device> device = make_cpu_device(bootstrap.rank());
    seen[static_cast<std::size_t>(bootstrap.rank())] = fingerprint(*device, bootstrap, "shared_memory", "hash");
  });
  EXPECT_EQ(failures, (std::vector<std::string>{"", "", ""}));
  EXPECT_EQ(seen[0], seen[1]);
  EXPECT_EQ(seen[0], seen[2]);
  EXPECT_EQ(seen[0].device, "cpu");
  EXPECT_EQ(seen[0].topology, "shared_memory");
  EXPECT_EQ(seen[0].nodes, 1);
  EXPECT_EQ(seen[0].compute_capability, 0);
  EXPECT_EQ(seen[0].symmetric_memory, "shared_memory");
  EXPECT_EQ(seen[0].catalogue_hash, "hash");
  EXPECT_EQ(seen[0].driver_version, "");
  EXPECT_FALSE(seen[0].gpu_name.empty());
  EXPECT_FALSE(seen[0].arbiter_version.empty());
  EXPECT_FALSE(seen[0].multicast);
}

TEST(FingerprintOnCpu, DoesNotDependOnTheNumberOfRanks) {
  std::vector<Environment> seen;
  for (const int size : {2, 4}) {
    Environment first;
    test::run_threads(size, [&](Bootstrap& bootstrap) {
      const std::unique_ptr<Device> device = make_cpu_device(bootstrap.rank());
      const Environment mine = fingerprint(*device, bootstrap, "shared_memory", "hash");
      if (bootstrap.rank() == 0) first = mine;
    });
    seen.push_back(first);
  }
  EXPECT_EQ(seen[0], seen[1]);
}

// Different GPUs in one group are served: what is chosen for it must fit the smallest.
TEST(FingerprintOnCpu, AGroupOfDifferentDevicesIsAsSmallAsItsSmallest) {
  const std::vector<std::string> failures = test::run_threads(2, [](Bootstrap& bootstrap) {
    CpuDeviceOptions options;
    options.sm_count = bootstrap.rank() == 0 ? 8 : 4;
    const std::unique_ptr<Device> device = make_cpu_device(bootstrap.rank(), options);
    EXPECT_EQ(fingerprint(*device, bootstrap, "shared_memory", "hash").sm_count, 4);
  });
  EXPECT_EQ(failures, (std::vector<std::string>{"", ""}));
}

TEST(FingerprintOnCpu, ACatalogueThatDiffersIsNamed) {
  const std::vector<std::string> failures = test::run_threads(3, [](Bootstrap& bootstrap) {
    const std::unique_ptr<Device> device = make_cpu_device(bootstrap.rank());
    try {
      fingerprint(*device, bootstrap, "shared_memory", bootstrap.rank() == 2 ? "another" : "hash");
      ADD_FAILURE() << "rank " << bootstrap.rank() << " went on";
    } catch (const Disagreement& error) {
      const std::string message = error.what();
      for (const char* part : {"catalogue_hash", "rank 2", "another"}) {
        EXPECT_NE(message.find(part), std::string::npos) << message;
      }
    }
  });
  EXPECT_EQ(failures, (std::vector<std::string>{"", "", ""}));
}

TEST(NcclVariables, KeepWhatChangesBehaviourOnly) {
  setenv("NCCL_ALGO", "Ring", 1);
  setenv("NCCL_DEBUG", "INFO", 1);
  const auto found = nccl_variables();
  unsetenv("NCCL_ALGO");
  unsetenv("NCCL_DEBUG");
  EXPECT_EQ(found.at("NCCL_ALGO"), "Ring");
  EXPECT_EQ(found.count("NCCL_DEBUG"), 0U);
}

TEST(Clocks, AreZeroOnTheCpuDevice) {
  const std::unique_ptr<Device> device = make_cpu_device(0);
  EXPECT_EQ(sample_clocks(*device), ClockSample{});
}

}  // namespace
}  // namespace arbiter
