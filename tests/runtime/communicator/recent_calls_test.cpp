// A call that was made before is only launched: nothing else may stand for it, and it is a call like any other.
#include "communicator/recent_calls.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "arbiter/error.hpp"
#include "communicator/dispatch.hpp"
#include "runtime/communicator_fixture.hpp"
#include "runtime/forwarding_device.hpp"
#include "runtime/idle_candidate.hpp"

namespace arbiter {
namespace {

using test::quiet_options;
using test::RankContext;
using test::run_ranks;
using test::small_integer;
using test::small_integer_sum;

constexpr int hidden = 64;

/// Launched once, as far as it says; of nothing that runs.
class Launched final : public test::IdleCandidate {
 public:
  KernelLaunch last_launch() const noexcept override {
    return {one_kernel ? &kernel_ : nullptr, {}, std::as_bytes(std::span(&arguments, 1))};
  }
  bool one_kernel = true;
  arbiter_abi::Arguments arguments{};

 private:
  class NoKernel final : public Kernel {
   public:
    const KernelResources& resources() const noexcept override { return resources_; }

   private:
    KernelResources resources_;
  };
  NoKernel kernel_;
};

class RecentCallsTest : public testing::Test {
 protected:
  static FamilyTable family(const char* pattern) {
    return {ProblemFamily{pattern, Dtype::bf16, hidden, 16, Mode::eager}, Catalogue::builtin().pattern(pattern)};
  }
  static void* address(std::uintptr_t at) { return reinterpret_cast<void*>(at); }

  FamilyTable fused_ = family("allreduce_residual_rmsnorm");
  FamilyTable plain_ = family("allreduce");
  Launched candidate_;
  CallCounter counter_{{}};
  RecentCalls recent_;
};

TEST_F(RecentCallsTest, NothingStandsForACallThatDiffersInAnything) {
  const std::vector<std::function<void(CallTensors&)>> differences = {
      [](CallTensors& t) { t.input = address(0x9000); },
      [](CallTensors& t) { t.output = address(0x9000); },
      [](CallTensors& t) { t.residual_in = address(0x9000); },
      [](CallTensors& t) { t.residual_out = address(0x9000); },
      [](CallTensors& t) { t.gamma = address(0x9000); },
      [](CallTensors& t) { t.norm_out = nullptr; },
      [](CallTensors& t) { t.epsilon = 1e-5F; },
      [](CallTensors& t) { t.weight_bias = 1; },
      [](CallTensors& t) { t.gamma_fp32 = true; },
      [](CallTensors& t) { t.quant_out = address(0x9000); },
      [](CallTensors& t) { t.scale_in = static_cast<const float*>(address(0x9000)); },
      [](CallTensors& t) { t.scale_out = address(0x9000); },
      [](CallTensors& t) { t.scale_out_bytes = 1; },
      [](CallTensors& t) { t.moe_weights = address(0x9000); },
      [](CallTensors& t) { t.moe_weights_fp32 = false; },
      [](CallTensors& t) { t.moe_row_map = static_cast<const int*>(address(0x9000)); },
      [](CallTensors& t) { t.moe_shared = address(0x9000); },
      [](CallTensors& t) { t.moe_experts = 1; },
      [](CallTensors& t) { t.moe_top_k = 1; },
      [](CallTensors& t) { t.moe_rows = 1; },
  };
  CallTensors tensors;
  tensors.input = address(0x1000);
  tensors.residual_in = address(0x2000);
  tensors.gamma = address(0x3000);
  tensors.norm_out = address(0x4000);
  EXPECT_EQ(recent_.find(fused_, tensors, 4), nullptr);
  candidate_.arguments.rows = 17;
  recent_.remember(fused_, tensors, 4, candidate_, counter_);
  candidate_.arguments.rows = 0;
  ASSERT_NE(recent_.find(fused_, tensors, 4), nullptr);
  EXPECT_EQ(recent_.find(fused_, tensors, 4)->arguments.rows, 17U) << "a launch is kept as it was";
  EXPECT_EQ(recent_.find(fused_, tensors, 5), nullptr);
  EXPECT_EQ(recent_.find(plain_, tensors, 4), nullptr);
  for (std::size_t i = 0; i < differences.size(); ++i) {
    CallTensors other = tensors;
    differences[i](other);
    EXPECT_EQ(recent_.find(fused_, other, 4), nullptr) << i;
  }
  recent_.forget();
  EXPECT_EQ(recent_.find(fused_, tensors, 4), nullptr);
}

TEST_F(RecentCallsTest, WhatWasMoreThanOneLaunchIsNotKept) {
  candidate_.one_kernel = false;
  recent_.remember(plain_, {}, 4, candidate_, counter_);
  EXPECT_EQ(recent_.find(plain_, {}, 4), nullptr);
}

// 80 layers with two norms, which have weights of their own, whatever the distance between these.
TEST_F(RecentCallsTest, TheCallsOfAModelFindTheirPlaces) {
  constexpr int norms = 160;
  const auto call = [](int norm, unsigned bits) {
    CallTensors tensors;
    tensors.input = address(0x7f0000001000);
    tensors.residual_in = address(0x7f0000002000);
    tensors.residual_out = address(0x7f0000002000);
    tensors.gamma = address(0x7f1200000000 + (static_cast<std::uintptr_t>(norm) << bits));
    tensors.norm_out = address(0x7f0000003000);
    return tensors;
  };
  for (unsigned bits = 5; bits <= 32; ++bits) {
    recent_.forget();
    for (int norm = 0; norm < norms; ++norm) {
      recent_.remember(fused_, call(norm, bits), 1, candidate_, counter_);
    }
    int found = 0;
    for (int norm = 0; norm < norms; ++norm) found += recent_.find(fused_, call(norm, bits), 1) != nullptr ? 1 : 0;
    EXPECT_GT(found, norms * 8 / 10) << "2^" << bits << " bytes apart";
  }
}

/// Counts the questions of what a pointer is, and captures when it is told to.
class WatchedDevice final : public test::ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  PointerKind classify(const void* pointer) override {
    ++asked;
    return ForwardingDevice::classify(pointer);
  }
  bool capturing(StreamHandle) override { return captures; }
  int asked = 0;
  bool captures = false;
};

TEST(CallsMadeAgain, AreCallsLikeTheFirst) {
  run_ranks(2, [](RankContext& context) {
    const auto device = std::make_shared<WatchedDevice>(make_cpu_device(context.rank));
    Communicator communicator(context.bootstrap, device, quiet_options());
    const PreparedFamily family = communicator.prepare({"allreduce", Dtype::fp32, hidden, 4, Mode::eager});
    const test::Tensor<float> input(*device, 4 * hidden), output(*device, 4 * hidden);
    CallTensors tensors;
    tensors.input = input.data();
    tensors.output = output.data();
    const auto reduce = [&](std::size_t first) {
      input.fill([&](std::size_t i) { return small_integer(context.rank, first + i); });
      output.fill([](std::size_t) { return -1000.0F; });
      family.run(tensors, 4, nullptr);
      device->synchronize(nullptr);
      for (std::size_t i = 0; i < output.size(); ++i) ASSERT_EQ(output[i], small_integer_sum(2, first + i)) << i;
      context.bootstrap->barrier();
    };
    // A captured call looks at no pointer, so it answers for none.
    device->captures = true;
    reduce(1);
    EXPECT_EQ(device->asked, 0);
    device->captures = false;
    reduce(2);
    EXPECT_EQ(device->asked, 2);
    for (std::size_t i = 3; i < 8; ++i) reduce(i);
    EXPECT_EQ(device->asked, 2);
    EXPECT_EQ(device->launches, 7);
    std::uint64_t counted = 0;
    for (const CallCount& count : communicator.call_counts()) counted += count.calls;
    EXPECT_EQ(counted, 7U);
    communicator.abort();
    EXPECT_THROW(family.run(tensors, 4, nullptr), Poisoned);
    EXPECT_EQ(device->launches, 7);
  });
}

}  // namespace
}  // namespace arbiter
