// Programmatic dependent launch on the CPU device: a kernel may begin when its predecessor has triggered, and sees what
// that one stored only behind the wait.
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <vector>

#include "arbiter/device.hpp"
#include "arbiter/runtime/cpu_link.hpp"
#include "runtime/host_kernel.hpp"

namespace arbiter {
namespace {

struct Arguments {
  unsigned* memory = nullptr;
  unsigned* seen = nullptr;
  unsigned stage = 0;
  unsigned triggering_blocks = 0;  // blocks below this trigger; the others only exit
  unsigned wait = 1;
};

constexpr const char* body = R"(
struct Arguments { unsigned* memory; unsigned* seen; unsigned stage, triggering_blocks, wait; };
template <int rank> void kernel(const Arguments* a) {
  if (a->stage == 0) {
    if (block() == 0) put(a->memory, 1, 0);
    if (block() < a->triggering_blocks) self->grid_dependency_trigger(self);
    for (int i = 0; i < (block() < a->triggering_blocks ? 50 : 500); ++i) yield();
    if (block() == 0) put(a->memory + 4, 1, 0);
    return;
  }
  a->seen[0] = read_flag(a->memory);
  a->seen[1] = read_flag(a->memory + 4);
  if (a->wait) self->grid_dependency_wait(self);
  a->seen[2] = read_flag(a->memory);
  a->seen[3] = read_flag(a->memory + 4);
})";

/// What the second kernel saw of the first and the last store of the first one, before and behind its wait.
using Seen = std::vector<unsigned>;

class EarlyLaunch : public ::testing::TestWithParam<bool> {
 protected:
  EarlyLaunch() : compiled_(test::compile_host_kernel(body)) {
    CpuDeviceOptions options;
    if (GetParam()) options.link = link_ = make_cpu_link_model(1);
    device_ = make_cpu_device(0, options);
  }

  std::set<Seen> run(bool programmatic, unsigned triggering_blocks, bool wait = true) {
    const auto kernel = device_->load(compiled_, 0);
    const DeviceMemory memory(*device_, 512);
    std::set<Seen> all;
    for (unsigned seed = 1; seed <= 200; ++seed) {
      Seen seen(4, 9);
      device_->fill_words(memory.data(), 0, 128, nullptr);
      if (link_) link_->restart(seed);
      const StreamHandle stream = device_->create_stream();
      device_->begin_capture(stream);
      Arguments arguments{static_cast<unsigned*>(memory.data()), seen.data(), 0, triggering_blocks, wait ? 1U : 0U};
      device_->launch(*kernel, {2, 1}, &arguments, sizeof(arguments), stream);
      arguments.stage = 1;
      device_->launch(*kernel, {1, 1, 1, 0, programmatic}, &arguments, sizeof(arguments), stream);
      device_->end_capture(stream)->launch(nullptr);
      device_->destroy_stream(stream);
      all.insert(seen);
    }
    return all;
  }

  CompiledKernel compiled_;
  std::shared_ptr<CpuLinkModel> link_;
  std::unique_ptr<Device> device_;
};

TEST_P(EarlyLaunch, ADependentKernelBeginsEarlyAndSeesEverythingBehindItsWait) {
  const std::set<Seen> all = run(true, 2);
  EXPECT_TRUE(all.count({1, 0, 1, 1}) == 1) << "it began while the first kernel ran";
  EXPECT_TRUE(all.count({1, 1, 1, 1}) == 1) << "or behind it";
  EXPECT_EQ(all.count({0, 0, 1, 1}), GetParam() ? 1U : 0U) << "what is stored is not visible before the wait";
  for (const Seen& seen : all) EXPECT_EQ(Seen(seen.begin() + 2, seen.end()), Seen({1, 1}));
}

TEST_P(EarlyLaunch, OnlyIfItIsProgrammatic) { EXPECT_EQ(run(false, 2), std::set<Seen>({{1, 1, 1, 1}})); }

TEST_P(EarlyLaunch, NotBeforeEveryBlockHasTriggeredOrExited) {
  // Block 1 only exits, long after block 0.
  const std::set<Seen> all = run(true, 1);
  EXPECT_TRUE(all.count({1, 1, 1, 1}) == 1);
  if (!GetParam()) {
    EXPECT_EQ(all.size(), 1U);
  }
  for (const Seen& seen : all) EXPECT_EQ(Seen(seen.begin() + 2, seen.end()), Seen({1, 1}));
}

TEST_P(EarlyLaunch, WithoutTheWaitItMissesWhatComesLate) {
  const std::set<Seen> all = run(true, 2, false);
  EXPECT_TRUE(all.count({1, 0, 1, 0}) == 1);
}

INSTANTIATE_TEST_SUITE_P(Models, EarlyLaunch, ::testing::Bool(),
                         [](const auto& parameter) { return parameter.param ? "Link" : "Direct"; });

}  // namespace
}  // namespace arbiter
