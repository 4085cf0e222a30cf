#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <vector>

#include "arbiter/error.hpp"
#include "arbiter/runtime/fingerprint.hpp"
#include "cuda/device.hpp"
#include "cuda/kernel.hpp"
#include "runtime/cuda_kernels.hpp"
#include "runtime/ranks.hpp"

namespace arbiter {
namespace {

using test::FillArguments;

TEST(CudaTestKernels, CompileWithoutAGpu) {
  if (nvrtc_version().empty() || nvrtc_version().front() < '0' || nvrtc_version().front() > '9') {
    GTEST_SKIP() << "NVRTC is not installed";
  }
  for (const char* source : {test::fill_source, test::cluster_source, test::empty_source}) {
    EXPECT_FALSE(make_nvrtc_compiler("sm_90a")->compile({source, "arbiter_kernel", "test"}).image.empty());
  }
}

class CudaDeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    ARBITER_NEEDS_GPUS(1);
    device_ = make_cuda_device(0);
    stream_ = device_->create_stream();
  }
  void TearDown() override {
    if (device_) device_->destroy_stream(stream_);
  }
  std::vector<unsigned> read(const void* from, std::size_t count) {
    std::vector<unsigned> host(count, 0xdeadbeefU);
    device_->copy(host.data(), from, count * 4, stream_);
    device_->synchronize(stream_);
    return host;
  }
  static std::vector<unsigned> counted(unsigned first, std::size_t count) {
    std::vector<unsigned> values(count);
    std::iota(values.begin(), values.end(), first);
    return values;
  }
  std::unique_ptr<Device> device_;
  StreamHandle stream_ = nullptr;
};

TEST_F(CudaDeviceTest, DescribesItself) {
  const DeviceProperties& properties = device_->properties();
  EXPECT_TRUE(properties.unique_id.starts_with("GPU-") || properties.unique_id.starts_with("MIG-"))
      << properties.unique_id;
  EXPECT_EQ(properties.unique_id.size(), 40U);
  EXPECT_GE(properties.compute_capability, 70);
  EXPECT_GT(properties.sm_count, 0);
  EXPECT_GE(properties.shared_bytes_per_block, std::size_t{48} << 10U);
  EXPECT_EQ(properties.max_cluster, properties.compute_capability >= 90 ? 8 : 1);
  CudaDeviceOptions options;
  options.nonportable_clusters = true;
  EXPECT_GE(make_cuda_device(0, options)->properties().max_cluster, properties.max_cluster);
}

TEST_F(CudaDeviceTest, OrdinalsThatDoNotExistAreRefused) {
  EXPECT_THROW(make_cuda_device(-1), InvalidArgument);
  EXPECT_THROW(make_cuda_device(cuda_device_count()), InvalidArgument);
}

TEST_F(CudaDeviceTest, MemoryIsFilledAndCopied) {
  const DeviceMemory memory(*device_, 4096);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory.data()) % 512, 0U);
  device_->fill_words(memory.data(), 0x12345678U, 1024, stream_);
  EXPECT_EQ(read(memory.data(), 1024), std::vector<unsigned>(1024, 0x12345678U));
}

TEST_F(CudaDeviceTest, TooMuchMemoryIsUnavailableAndLeavesTheDeviceUsable) {
  EXPECT_THROW(device_->allocate(std::size_t{1} << 50U), Unavailable);
  const DeviceMemory memory(*device_, 64);
  device_->fill_words(memory.data(), 5, 16, stream_);
  EXPECT_EQ(read(memory.data(), 16), std::vector<unsigned>(16, 5));
}

TEST_F(CudaDeviceTest, LaunchesAKernelWithOneStruct) {
  const std::unique_ptr<Kernel> kernel = test::load_source(*device_, test::fill_source);
  EXPECT_GT(kernel->resources().registers, 0);
  const DeviceMemory memory(*device_, 4000);
  const FillArguments arguments{static_cast<unsigned*>(memory.data()), 70, 1000};
  Launch launch;
  launch.blocks = 3;
  launch.threads = 128;
  launch.shared_bytes = 16;
  device_->launch(*kernel, launch, &arguments, sizeof(arguments), stream_);
  EXPECT_EQ(read(memory.data(), 1000), counted(70, 1000));
}

TEST_F(CudaDeviceTest, WrongArgumentBytesAreRefusedBeforeTheLaunch) {
  const std::unique_ptr<Kernel> kernel = test::load_source(*device_, test::fill_source);
  if (static_cast<const CudaKernel&>(*kernel).parameter_bytes() == 0) GTEST_SKIP() << "this driver does not tell";
  const FillArguments arguments;
  EXPECT_THROW(device_->launch(*kernel, Launch{}, &arguments, sizeof(arguments) - 4, stream_), InvalidArgument);
}

TEST_F(CudaDeviceTest, SharedMemoryBeyond48KilobytesIsGiven) {
  const std::unique_ptr<Kernel> kernel = test::load_source(*device_, test::fill_source);
  const DeviceMemory memory(*device_, 400);
  const FillArguments arguments{static_cast<unsigned*>(memory.data()), 1, 100};
  Launch launch;
  launch.threads = 32;
  launch.shared_bytes = static_cast<unsigned>(device_->properties().shared_bytes_per_block);
  device_->launch(*kernel, launch, &arguments, sizeof(arguments), stream_);
  EXPECT_EQ(read(memory.data(), 100), counted(1, 100));
  EXPECT_EQ(device_->resident_blocks(*kernel, launch), device_->properties().sm_count);
  launch.shared_bytes += 1024;
  EXPECT_EQ(device_->resident_blocks(*kernel, launch), 0);
  EXPECT_THROW(device_->launch(*kernel, launch, &arguments, sizeof(arguments), stream_), DeviceError);
  device_->synchronize(stream_);  // a refused launch breaks nothing
}

TEST_F(CudaDeviceTest, ClustersAreLaunchedAndCounted) {
  if (device_->properties().max_cluster < 8) GTEST_SKIP() << "this GPU has no clusters";
  const std::unique_ptr<Kernel> kernel = test::load_source(*device_, test::cluster_source);
  const DeviceMemory memory(*device_, 64);
  const FillArguments arguments{static_cast<unsigned*>(memory.data()), 0, 0};
  Launch launch;
  launch.blocks = 8;
  launch.threads = 64;
  launch.cluster = 4;
  device_->launch(*kernel, launch, &arguments, sizeof(arguments), stream_);
  EXPECT_EQ(read(memory.data(), 8), (std::vector<unsigned>{400, 401, 402, 403, 400, 401, 402, 403}));
  const int resident = device_->resident_blocks(*kernel, launch);
  EXPECT_GT(resident, 0);
  EXPECT_EQ(resident % 4, 0);
  launch.cluster = 16;
  EXPECT_EQ(device_->resident_blocks(*kernel, launch), 0);  // not portable, not asked for
}

TEST_F(CudaDeviceTest, SixteenBlockClustersWhenAskedFor) {
  CudaDeviceOptions options;
  options.nonportable_clusters = true;
  const std::unique_ptr<Device> device = make_cuda_device(0, options);
  if (device->properties().max_cluster < 16) GTEST_SKIP() << "this GPU has no clusters of 16";
  const std::unique_ptr<Kernel> kernel = test::load_source(*device, test::fill_source);
  const DeviceMemory memory(*device, 4096);
  const FillArguments arguments{static_cast<unsigned*>(memory.data()), 9, 1024};
  Launch launch;
  launch.blocks = 16;
  launch.threads = 64;
  launch.cluster = 16;
  launch.shared_bytes = 16;
  EXPECT_GE(device->resident_blocks(*kernel, launch), 16);
  device->launch(*kernel, launch, &arguments, sizeof(arguments), stream_);
  EXPECT_EQ(read(memory.data(), 1024), counted(9, 1024));
}

TEST_F(CudaDeviceTest, GraphsReplayWithProgrammaticLaunches) {
  const std::unique_ptr<Kernel> kernel = test::load_source(*device_, test::fill_source);
  const DeviceMemory memory(*device_, 400);
  FillArguments arguments{static_cast<unsigned*>(memory.data()), 3, 100};
  Launch launch;
  launch.threads = 128;
  launch.shared_bytes = 16;
  launch.programmatic = device_->properties().compute_capability >= 90;
  EXPECT_FALSE(device_->capturing(stream_));
  device_->begin_capture(stream_);
  EXPECT_TRUE(device_->capturing(stream_));
  device_->launch(*kernel, launch, &arguments, sizeof(arguments), stream_);
  arguments.value = 50;  // arguments were copied
  device_->launch(*kernel, launch, &arguments, sizeof(arguments), stream_);
  arguments.value = 9999;
  const std::unique_ptr<Graph> graph = device_->end_capture(stream_);
  EXPECT_FALSE(device_->capturing(stream_));
  for (int round = 0; round < 3; ++round) {
    device_->fill_words(memory.data(), 0, 100, stream_);
    graph->launch(stream_);
    EXPECT_EQ(read(memory.data(), 100), counted(50, 100));
  }
}

TEST_F(CudaDeviceTest, TheDefaultStreamIsNotCaptured) {
  EXPECT_THROW(device_->begin_capture(nullptr), InvalidArgument);
}

TEST_F(CudaDeviceTest, EventsMeasureMicroseconds) {
  const std::unique_ptr<Event> begin = device_->create_event();
  const std::unique_ptr<Event> end = device_->create_event();
  const DeviceMemory memory(*device_, std::size_t{64} << 20U);
  begin->record(stream_);
  for (int i = 0; i < 20; ++i) device_->fill_words(memory.data(), 1, std::size_t{16} << 20U, stream_);
  end->record(stream_);
  const double microseconds = end->microseconds_since(*begin);
  EXPECT_GT(microseconds, 20);  // 1.3 GB cannot be written faster
  EXPECT_LT(microseconds, 1e6);
}

TEST_F(CudaDeviceTest, HostVisibleMemoryIsWrittenByKernels) {
  const std::unique_ptr<Kernel> kernel = test::load_source(*device_, test::fill_source);
  auto* host = static_cast<unsigned*>(device_->allocate_host_visible(64));
  const FillArguments arguments{host, 11, 16};
  Launch launch;
  launch.threads = 32;
  launch.shared_bytes = 16;
  device_->launch(*kernel, launch, &arguments, sizeof(arguments), stream_);
  device_->synchronize(stream_);
  EXPECT_EQ(std::vector<unsigned>(host, host + 16), counted(11, 16));
  device_->release_host_visible(host);
}

TEST_F(CudaDeviceTest, PointersAreClassified) {
  const DeviceMemory memory(*device_, 64);
  void* host = device_->allocate_host_visible(64);
  int local = 0;
  EXPECT_EQ(device_->classify(memory.data()), PointerKind::here);
  EXPECT_EQ(device_->classify(host), PointerKind::host);
  EXPECT_EQ(device_->classify(&local), PointerKind::host);
  EXPECT_EQ(device_->classify(nullptr), PointerKind::unknown);
  device_->release_host_visible(host);
  if (cuda_device_count() > 1) {
    const std::unique_ptr<Device> other = make_cuda_device(1);
    const DeviceMemory theirs(*other, 64);
    EXPECT_EQ(device_->classify(theirs.data()), PointerKind::other_device);
  }
}

TEST_F(CudaDeviceTest, BrokenImagesAreRefused) {
  CompiledKernel broken{"this is no cubin", "arbiter_kernel", "sm_90a", {}};
  EXPECT_THROW(device_->load(broken, 0), DeviceError);
  broken.image.clear();
  EXPECT_THROW(device_->load(broken, 0), InvalidArgument);
  CompiledKernel good =
      make_nvrtc_compiler(device_->properties().compile_target)->compile({test::fill_source, "arbiter_kernel", "t"});
  good.entry = "no_such_kernel";
  EXPECT_THROW(device_->load(good, 0), DeviceError);
  good.target = "cpu";
  EXPECT_THROW(device_->load(good, 0), InvalidArgument);
}

TEST_F(CudaDeviceTest, TheHostPathOfALaunchIsLean) {
  const std::unique_ptr<Kernel> kernel = test::load_source(*device_, test::empty_source);
  const auto& cuda = static_cast<const CudaKernel&>(*kernel);
  const CudaDriver& driver = as_cuda(*device_).driver();
  FillArguments arguments;
  Launch launch;
  launch.threads = 32;
  constexpr int calls = 400;
  const auto time = [&](const auto& issue) {
    device_->synchronize(stream_);
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) issue();
    const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - begin;
    return spent.count() / calls;
  };
  // In turns, so that whatever else the host does meets both.
  double bare = 1e9;
  double ours = 1e9;
  for (int round = 0; round < 60; ++round) {
    bare = std::min(bare, time([&] {
                      CUlaunchConfig config{};
                      config.gridDimX = config.gridDimY = config.gridDimZ = 1;
                      config.blockDimX = 32;
                      config.blockDimY = config.blockDimZ = 1;
                      config.hStream = static_cast<CUstream>(stream_);
                      void* parameters[1] = {&arguments};
                      driver.launch_kernel_ex(&config, cuda.function(), parameters, nullptr);
                    }));
    ours = std::min(ours, time([&] { device_->launch(*kernel, launch, &arguments, sizeof(arguments), stream_); }));
  }
  device_->synchronize(stream_);
  RecordProperty("bare_ns", static_cast<int>(bare));
  RecordProperty("launch_ns", static_cast<int>(ours));
  EXPECT_LT(ours - bare, 150.0) << "cuLaunchKernelEx takes " << bare << " ns, launch() " << ours << " ns";
}

TEST_F(CudaDeviceTest, AFingerprintHasValues) {
  const std::vector<std::string> failures = test::run_threads(1, [&](Bootstrap& bootstrap) {
    const Environment environment = fingerprint(*device_, bootstrap, "vmm", "hash");
    EXPECT_EQ(environment.device, "cuda");
    EXPECT_EQ(environment.gpu_name, device_->properties().name);
    EXPECT_FALSE(environment.driver_version.empty());
    EXPECT_FALSE(environment.cuda_runtime.empty());
    EXPECT_GT(environment.memory_clock_mhz, 0);
    EXPECT_GE(environment.ranks_per_node, cuda_device_count());
  });
  EXPECT_EQ(failures, std::vector<std::string>{""});
}

}  // namespace
}  // namespace arbiter
