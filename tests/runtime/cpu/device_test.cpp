// The CPU device as a Device: memory, pointers, streams, graphs, events, and what it refuses.
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <vector>

#include "arbiter/device.hpp"
#include "arbiter/error.hpp"
#include "runtime/host_kernel.hpp"

namespace arbiter {
namespace {

struct Arguments {
  unsigned* out = nullptr;
  unsigned add = 0;
};
constexpr const char* add_kernel =
    "struct Arguments { unsigned* out; unsigned add; };\n"
    "template <int rank> void kernel(const Arguments* a) {\n"
    "  a->out[block() * self->block_threads + thread()] += a->add + rank;\n"
    "}\n";

const CompiledKernel& compiled_add() {
  static const CompiledKernel compiled = test::compile_host_kernel(add_kernel);
  return compiled;
}

template <typename Exception, typename Function>
std::string message_of(Function function) {
  try {
    function();
  } catch (const Exception& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "expected '" << part << "' in: " << text;
}

TEST(CpuDevice, SaysWhatItIs) {
  const auto device = make_cpu_device(3, {.seed = 0, .sm_count = 6, .max_threads_per_block = 128});
  const DeviceProperties& p = device->properties();
  EXPECT_EQ(device->kind(), DeviceKind::cpu);
  EXPECT_EQ(to_string(device->kind()), "cpu");
  EXPECT_EQ(p.unique_id, "cpu:3");
  EXPECT_EQ(p.compute_capability, 0);
  EXPECT_EQ(p.sm_count, 6);
  EXPECT_EQ(p.max_threads_per_block, 128);
  EXPECT_EQ(p.max_cluster, 8);
  EXPECT_EQ(p.compile_target, "cpu");
  EXPECT_GT(p.memory_bytes, 0U);
}

TEST(CpuDevice, RefusesImpossibleOptions) {
  EXPECT_THROW(make_cpu_device(-1), InvalidArgument);
  EXPECT_THROW(make_cpu_device(0, {.seed = 0, .sm_count = 0}), InvalidArgument);
  EXPECT_THROW(make_cpu_device(0, {.seed = 0, .sm_count = 4, .max_threads_per_block = 0}), InvalidArgument);
  EXPECT_THROW(make_cpu_device(0, {.seed = 0, .sm_count = 4, .max_threads_per_block = 1025}), InvalidArgument);
}

TEST(CpuDevice, MemoryIsAlignedPoisonedAndOwned) {
  const auto device = make_cpu_device(0);
  for (const std::size_t bytes :
       {std::size_t{0}, std::size_t{1}, std::size_t{512}, std::size_t{5000}, std::size_t{1} << 22}) {
    DeviceMemory memory(*device, bytes);
    ASSERT_NE(memory.data(), nullptr);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory.data()) % 512, 0U);
    const auto* data = static_cast<const unsigned char*>(memory.data());
    for (std::size_t i = 0; i < bytes; ++i) ASSERT_EQ(data[i], 0xFF);
    if (bytes != 0) {
      EXPECT_EQ(device->classify(data), PointerKind::here);
      EXPECT_EQ(device->classify(data + bytes - 1), PointerKind::here);
    }
  }
  device->release(nullptr);
}

TEST(CpuDevice, TellsWhoseMemoryAPointerIs) {
  const auto mine = make_cpu_device(0);
  const auto other = make_cpu_device(1);
  const DeviceMemory a(*mine, 4096);
  const DeviceMemory b(*other, 4096);
  void* visible = mine->allocate_host_visible(64);
  int local = 0;
  EXPECT_EQ(mine->classify(a.data()), PointerKind::here);
  EXPECT_EQ(mine->classify(b.data()), PointerKind::other_device);
  EXPECT_EQ(other->classify(a.data()), PointerKind::other_device);
  EXPECT_EQ(mine->classify(visible), PointerKind::host);
  EXPECT_EQ(other->classify(visible), PointerKind::host);
  EXPECT_EQ(mine->classify(&local), PointerKind::host);
  EXPECT_EQ(mine->classify(nullptr), PointerKind::unknown);
  EXPECT_EQ(mine->classify(static_cast<const char*>(a.data()) + 4096), PointerKind::host) << "past the end";
  const void* address = nullptr;
  {
    const DeviceMemory gone(*mine, 4096);
    address = gone.data();
  }
  EXPECT_NE(mine->classify(address), PointerKind::here);
  mine->release_host_visible(visible);
}

TEST(CpuDevice, RefusesMoreMemoryThanThereIs) {
  const auto device = make_cpu_device(0);
  expect_contains(message_of<Unavailable>([&] { device->allocate(std::size_t{1} << 46); }), "available");
  EXPECT_THROW(device->allocate(~std::size_t{0}), Unavailable);
  EXPECT_THROW(device->allocate(~std::size_t{0} - 600), Unavailable);
}

TEST(CpuDeviceDeathTest, RunningPastTheEndFaults) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto device = make_cpu_device(0);
  const DeviceMemory memory(*device, 1024);
  EXPECT_DEATH(static_cast<volatile char*>(memory.data())[1024] = 1, "");
}

TEST(CpuDevice, LoadRefusesWhatItCannotRun) {
  const auto device = make_cpu_device(0);
  CompiledKernel cubin = compiled_add();
  cubin.target = "sm_90a";
  expect_contains(message_of<InvalidArgument>([&] { device->load(cubin, 0); }), "sm_90a");
  CompiledKernel garbage = compiled_add();
  garbage.image = "garbage";
  EXPECT_THROW(device->load(garbage, 0), CompileError);
  CompiledKernel truncated = compiled_add();
  truncated.image.resize(100);
  EXPECT_THROW(device->load(truncated, 0), CompileError);
  expect_contains(message_of<CompileError>([&] { device->load(compiled_add(), 9); }), "arbiter_kernel_rank9");
  EXPECT_THROW(device->load(compiled_add(), -1), InvalidArgument);
}

TEST(CpuDevice, LaunchRefusesWhatAGpuWouldRefuse) {
  const auto device = make_cpu_device(0);
  const auto kernel = device->load(compiled_add(), 0);
  unsigned out = 0;
  const Arguments arguments{&out, 1};
  const auto launch = [&](Launch shape) { device->launch(*kernel, shape, &arguments, sizeof(arguments), nullptr); };
  EXPECT_THROW(launch({0, 1}), InvalidArgument);
  EXPECT_THROW(launch({1, 0}), InvalidArgument);
  EXPECT_THROW(launch({1, 257}), InvalidArgument);
  EXPECT_THROW(launch({1, 1, 0}), InvalidArgument);
  EXPECT_THROW(launch({3, 1, 2}), InvalidArgument);
  EXPECT_THROW(launch({16, 1, 16}), InvalidArgument) << "more blocks in a cluster than a portable kernel may ask for";
  EXPECT_THROW(launch({1, 1, 1, 300 * 1024}), InvalidArgument);
  EXPECT_THROW(device->launch(*kernel, {1, 1}, nullptr, 16, nullptr), InvalidArgument);
  EXPECT_EQ(out, 0U) << "a refused launch changes nothing";
  class Foreign final : public Kernel {
    const KernelResources& resources() const noexcept override { return resources_; }
    KernelResources resources_;
  } foreign;
  EXPECT_THROW(device->launch(foreign, {1, 1}, &arguments, sizeof(arguments), nullptr), InvalidArgument);
}

TEST(CpuDevice, ResidentBlocksFollowSmsAndClusters) {
  const auto device = make_cpu_device(0, {.seed = 0, .sm_count = 7});
  const auto kernel = device->load(compiled_add(), 0);
  EXPECT_EQ(device->resident_blocks(*kernel, {1, 32, 1}), 7);
  EXPECT_EQ(device->resident_blocks(*kernel, {1, 32, 2}), 6);
  EXPECT_EQ(device->resident_blocks(*kernel, {1, 32, 4}), 4);
  EXPECT_EQ(device->resident_blocks(*kernel, {1, 32, 8}), 8) << "one cluster always fits";
  EXPECT_EQ(device->resident_blocks(*kernel, {1, 32, 16}), 0);
  EXPECT_EQ(device->resident_blocks(*kernel, {1, 512, 1}), 0);
  EXPECT_EQ(device->resident_blocks(*kernel, {1, 32, 1, 1 << 20}), 0);
  EXPECT_THROW(device->resident_blocks(*kernel, {1, 32, 0}), InvalidArgument);
}

TEST(CpuDevice, TwoLoadsOfOneImageAreIndependent) {
  const auto device = make_cpu_device(0);
  auto first = device->load(compiled_add(), 1);
  const auto second = device->load(compiled_add(), 2);
  unsigned out = 0;
  const Arguments arguments{&out, 10};
  device->launch(*first, {1, 1}, &arguments, sizeof(arguments), nullptr);
  first.reset();
  device->launch(*second, {1, 1}, &arguments, sizeof(arguments), nullptr);
  EXPECT_EQ(out, 11U + 12U);
}

TEST(CpuDevice, GraphsReplayWhatWasRecorded) {
  const auto device = make_cpu_device(0);
  const StreamHandle stream = device->create_stream();
  auto kernel = device->load(compiled_add(), 0);
  std::vector<unsigned> out(8, 5);
  std::vector<unsigned> copy(8, 0);
  Arguments arguments{out.data(), 3};
  EXPECT_FALSE(device->capturing(stream));
  device->begin_capture(stream);
  EXPECT_TRUE(device->capturing(stream));
  device->fill_words(out.data(), 7, 4, stream);
  device->launch(*kernel, {2, 4}, &arguments, sizeof(arguments), stream);
  device->copy(copy.data(), out.data(), 32, stream);
  EXPECT_EQ(out[0], 5U) << "nothing runs while it is recorded";
  const auto graph = device->end_capture(stream);
  EXPECT_FALSE(device->capturing(stream));
  arguments.add = 1000;  // arguments were copied
  kernel.reset();        // the graph keeps the image
  graph->launch(stream);
  EXPECT_EQ(out, (std::vector<unsigned>{10, 10, 10, 10, 8, 8, 8, 8}));
  EXPECT_EQ(copy, out);
  graph->launch(nullptr);
  EXPECT_EQ(out, (std::vector<unsigned>{10, 10, 10, 10, 11, 11, 11, 11}));
  device->destroy_stream(stream);
}

TEST(CpuDevice, OtherStreamsRunDuringACapture) {
  const auto device = make_cpu_device(0);
  const StreamHandle captured = device->create_stream();
  const StreamHandle other = device->create_stream();
  unsigned word = 0;
  device->begin_capture(captured);
  device->fill_words(&word, 1, 1, other);
  EXPECT_EQ(word, 1U);
  device->fill_words(&word, 2, 1, nullptr);
  EXPECT_EQ(word, 2U);
  device->fill_words(&word, 3, 1, captured);
  EXPECT_EQ(word, 2U);
  EXPECT_THROW(device->begin_capture(captured), InvalidArgument);
  EXPECT_THROW(device->synchronize(captured), InvalidArgument);
  device->end_capture(captured)->launch(other);
  EXPECT_EQ(word, 3U);
  EXPECT_THROW(device->end_capture(captured), InvalidArgument);
  EXPECT_THROW(device->begin_capture(nullptr), InvalidArgument);
}

TEST(CpuDevice, EventsMeasureTime) {
  const auto device = make_cpu_device(0);
  const auto begin = device->create_event();
  const auto end = device->create_event();
  // However slow the machine, the time between them is between these.
  using Clock = std::chrono::steady_clock;
  const Clock::time_point before = Clock::now();
  begin->record(nullptr);
  const Clock::time_point behind_begin = Clock::now();
  EXPECT_THROW(end->microseconds_since(*begin), InvalidArgument) << "not recorded yet";
  const Clock::time_point before_end = Clock::now();
  end->record(nullptr);
  const Clock::time_point behind = Clock::now();
  using Microseconds = std::chrono::duration<double, std::micro>;
  EXPECT_GE(end->microseconds_since(*begin), Microseconds(before_end - behind_begin).count());
  EXPECT_LE(end->microseconds_since(*begin), Microseconds(behind - before).count());
}

TEST(CpuDevice, CopiesAndFillsRefuseNull) {
  const auto device = make_cpu_device(0);
  unsigned words[4] = {1, 2, 3, 4};
  device->copy(words + 1, words, 12, nullptr);  // may overlap
  EXPECT_EQ(words[3], 3U);
  device->copy(nullptr, nullptr, 0, nullptr);
  EXPECT_THROW(device->copy(nullptr, words, 4, nullptr), InvalidArgument);
  EXPECT_THROW(device->copy(words, nullptr, 4, nullptr), InvalidArgument);
  EXPECT_THROW(device->fill_words(nullptr, 0, 1, nullptr), InvalidArgument);
  EXPECT_THROW(device->fill_words(reinterpret_cast<char*>(words) + 1, 0, 1, nullptr), InvalidArgument);
}

}  // namespace
}  // namespace arbiter
