// Everything that must be refused is refused before a launch, says why, and changes nothing.
#include "communicator/call_validation.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "arbiter/error.hpp"
#include "arbiter/generator/tensor_table.hpp"
#include "communicator/aligned_copies.hpp"
#include "communicator/quick_check.hpp"
#include "runtime/communicator_fixture.hpp"
#include "runtime/forwarding_device.hpp"

namespace arbiter {
namespace {

using test::message_of;
using test::quiet_options;
using test::RankContext;
using test::run_ranks;
using test::Tensor;

constexpr int hidden = 64;
constexpr std::int64_t max_tokens = 8;
constexpr std::size_t elements = hidden * max_tokens;

struct FusedTensors {
  explicit FusedTensors(Device& device)
      : input(device, elements + 8),
        residual(device, elements + 8),
        residual_out(device, elements + 8),
        gamma(device, hidden + 8),
        norm(device, elements + 8) {
    for (const Tensor<float>* tensor : {&input, &residual, &residual_out, &gamma, &norm}) {
      tensor->fill([](std::size_t i) { return static_cast<float>(i % 5); });
    }
  }
  Call call() const {
    Call call;
    call.pattern = "allreduce_residual_rmsnorm";
    call.dtype = Dtype::fp32;
    call.hidden = hidden;
    call.tokens = 4;
    call.input = input.data();
    call.residual_in = residual.data();
    call.residual_out = residual_out.data();
    call.gamma = gamma.data();
    call.norm_out = norm.data();
    return call;
  }
  Tensor<float> input, residual, residual_out, gamma, norm;
};

/// Two ranks with everything prepared; `body` must leave them usable, which is proven by a call of each kind.
void with_prepared_ranks(const std::function<void(Communicator&, const FusedTensors&, test::ForwardingDevice&)>& body) {
  run_ranks(2, [&](RankContext& context) {
    const auto device = std::make_shared<test::ForwardingDevice>(make_cpu_device(context.rank));
    context.device = device;
    Communicator communicator(context.bootstrap, context.device, quiet_options());
    const std::vector<ProblemFamily> families = {
        {"allreduce", Dtype::fp32, hidden, max_tokens, Mode::graph},
        {"allreduce_residual_rmsnorm", Dtype::fp32, hidden, max_tokens, Mode::graph}};
    communicator.prepare(families);
    const FusedTensors tensors(*device);
    const int before = device->launches;
    body(communicator, tensors, *device);
    EXPECT_EQ(device->launches, before) << "a refused call was launched";
    communicator.run(tensors.call(), nullptr);
    communicator.all_reduce(tensors.input.data(), tensors.input.data(), hidden, Dtype::fp32, nullptr);
    for (std::size_t i = 0; i < hidden; ++i) ASSERT_EQ(tensors.input[i], 2 * static_cast<float>(i % 5));
  });
}

TEST(CallValidation, FusedCallsAreRefusedWithTheTensorsName) {
  with_prepared_ranks([](Communicator& communicator, const FusedTensors& tensors, Device&) {
    const auto refusal = [&](const std::function<void(Call&)>& spoil) {
      Call call = tensors.call();
      spoil(call);
      return message_of<InvalidArgument>([&] { communicator.run(call, nullptr); });
    };
    const auto mentions = [](const std::string& message, const char* text) {
      EXPECT_NE(message.find(text), std::string::npos) << message;
    };
    const auto beside = [](float* tensor) { return reinterpret_cast<float*>(reinterpret_cast<char*>(tensor) + 2); };
    mentions(refusal([](Call& call) { call.input = nullptr; }), "'input'; it is null");
    mentions(refusal([](Call& call) { call.residual_in = nullptr; }), "'residual_in'; it is null");
    mentions(refusal([](Call& call) { call.gamma = nullptr; }), "'gamma'; it is null");
    mentions(refusal([](Call& call) { call.norm_out = nullptr; }), "'norm_out'; it is null");
    mentions(refusal([&](Call& call) { call.input = beside(tensors.input.data()); }), "'input' is not aligned to 4");
    mentions(refusal([&](Call& call) { call.norm_out = beside(tensors.norm.data()); }),
             "'norm_out' is not aligned to 4");
    mentions(refusal([&](Call& call) { call.gamma = beside(tensors.gamma.data()); }), "'gamma' is not aligned to 4");
    mentions(refusal([&](Call& call) { call.norm_out = tensors.input.data(); }), "'input' and 'norm_out' overlap");
    mentions(refusal([&](Call& call) { call.norm_out = tensors.residual_out.data() + 4; }),
             "'residual_out' and 'norm_out' overlap");
    mentions(refusal([&](Call& call) { call.residual_out = tensors.residual.data() + 4; }),
             "'residual_in' and 'residual_out' overlap");
    mentions(refusal([&](Call& call) { call.gamma = tensors.norm.data() + 4; }), "'gamma' and 'norm_out' overlap");
    mentions(refusal([](Call& call) { call.epsilon = -1.0F; }), "epsilon");
    mentions(refusal([](Call& call) { call.epsilon = std::numeric_limits<float>::quiet_NaN(); }), "epsilon");
    mentions(refusal([](Call& call) { call.weight_bias = std::numeric_limits<float>::infinity(); }), "weight_bias");
    mentions(refusal([](Call& call) { call.tokens = -1; }), "tokens must be 0 or more");
    mentions(refusal([](Call& call) { call.hidden = 0; }), "hidden positive");
    mentions(refusal([](Call& call) { call.pattern = "allreduce_residual_rmsnrm"; }), "allreduce_residual_rmsnorm");
    std::vector<float> host(elements + 8);
    const std::size_t skip = (16 - reinterpret_cast<std::uintptr_t>(host.data()) % 16) / sizeof(float);
    mentions(refusal([&](Call& call) { call.input = host.data() + skip; }), "'input' points to");
    mentions(refusal([&](Call& call) { call.norm_out = host.data() + skip; }), "'norm_out' points to");
  });
}

TEST(CallValidation, WhatIsNotPreparedSaysWhatIs) {
  with_prepared_ranks([](Communicator& communicator, const FusedTensors& tensors, Device&) {
    const auto refusal = [&](const std::function<void(Call&)>& spoil) {
      Call call = tensors.call();
      spoil(call);
      return message_of<Unsupported>([&] { communicator.run(call, nullptr); });
    };
    for (const std::string& message :
         {refusal([](Call& call) { call.tokens = max_tokens + 1; }), refusal([](Call& call) { call.hidden = 32; }),
          refusal([](Call& call) { call.dtype = Dtype::bf16; }),
          refusal([](Call& call) { call.pattern = "allreduce_residual"; })}) {
      EXPECT_NE(message.find("is not prepared"), std::string::npos) << message;
      EXPECT_NE(message.find("allreduce_residual_rmsnorm fp32 hidden=64 up to 8 tokens"), std::string::npos) << message;
    }
    const std::string count = message_of<Unsupported>([&] {
      communicator.all_reduce(tensors.input.data(), tensors.input.data(), elements + 1, Dtype::fp32, nullptr);
    });
    EXPECT_NE(count.find("at least 513"), std::string::npos) << count;
    EXPECT_FALSE(communicator.can_use({"allreduce", Dtype::fp32, hidden, max_tokens + 1, 2, Mode::graph, false}));
    EXPECT_FALSE(communicator.can_use({"allreduce", Dtype::fp32, hidden, 1, 3, Mode::graph, false}));
    EXPECT_FALSE(communicator.can_use({"no_such_pattern", Dtype::fp32, hidden, 1, 2, Mode::graph, false}));
    EXPECT_TRUE(communicator.can_use({"allreduce", Dtype::fp32, 2 * hidden, max_tokens / 2, 2, Mode::eager, false}));
  });
}

TEST(CallValidation, PlainCallsAreRefused) {
  with_prepared_ranks([](Communicator& communicator, const FusedTensors& tensors, Device& device) {
    float* data = tensors.input.data();
    const auto refusal = [&](const void* input, void* output, std::int64_t count) {
      return message_of<InvalidArgument>([&] { communicator.all_reduce(input, output, count, Dtype::fp32, nullptr); });
    };
    const auto mentions = [](const std::string& message, const char* text) {
      EXPECT_NE(message.find(text), std::string::npos) << message;
    };
    mentions(refusal(nullptr, data, 4), "'input'; it is null");
    mentions(refusal(data, nullptr, 4), "'output'; it is null");
    mentions(refusal(data, data, -4), "-4 elements");
    mentions(refusal(data, data + 1, 4), "'input' and 'output' overlap");
    mentions(refusal(reinterpret_cast<char*>(data) + 2, tensors.norm.data(), 4), "'input' is not aligned to 4");
    mentions(refusal(data, reinterpret_cast<char*>(tensors.norm.data()) + 1, 4), "'output' is not aligned to 4");
    alignas(16) float host[8] = {};
    mentions(refusal(host, data, 4), "'input' points to");
    mentions(refusal(data, host, 4), "'output' points to");
    (void)device;
  });
}

TEST(CallValidation, MemoryOfAnotherRankIsRefused) {
  std::vector<const void*> addresses(2);
  run_ranks(2, [&](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, quiet_options());
    const std::vector<ProblemFamily> families = {{"allreduce", Dtype::fp32, hidden, max_tokens, Mode::graph}};
    communicator.prepare(families);
    const Tensor<float> mine(*context.device, elements);
    addresses[static_cast<std::size_t>(context.rank)] = mine.data();
    context.bootstrap->barrier();
    const void* theirs = addresses[static_cast<std::size_t>(1 - context.rank)];
    const std::string message =
        message_of<InvalidArgument>([&] { communicator.all_reduce(theirs, mine.data(), 16, Dtype::fp32, nullptr); });
    EXPECT_NE(message.find("memory of another device"), std::string::npos) << message;
    context.bootstrap->barrier();
  });
}

/// Counts what it is asked; knows the memory of addresses that are made up, too, if it is told to.
class AskedDevice final : public test::ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  PointerKind classify(const void* pointer) override {
    ++asked;
    return knows_all ? PointerKind::here : ForwardingDevice::classify(pointer);
  }
  bool knows_all = false;
  int asked = 0;
};

TEST(CallValidation, AClassificationIsRememberedAndOnlyForWhatWasAccepted) {
  AskedDevice device(make_cpu_device(0));
  PointerCheck check(device);
  const DeviceMemory memory(device, 64);
  float host = 0;
  check.require_device_memory("input", memory.data());
  check.require_device_memory("input", memory.data());
  EXPECT_EQ(device.asked, 1);
  EXPECT_THROW(check.require_device_memory("input", &host), InvalidArgument);
  EXPECT_THROW(check.require_device_memory("input", &host), InvalidArgument);
  EXPECT_EQ(device.asked, 3);
}

// A model's buffers lie at multiples of one large power of two. Where the memory of the check took its place from a few
// bits in the middle of an address, all of them met in one, and every call asked the driver about every tensor.
TEST(CallValidation, TensorsOfAModelAreRememberedWhateverTheirDistance) {
  for (unsigned bits = 4; bits <= 32; ++bits) {
    AskedDevice device(make_cpu_device(0));
    device.knows_all = true;
    PointerCheck check(device);
    const auto call_all = [&](int tensors) {
      device.asked = 0;
      for (int i = 0; i < tensors; ++i) {
        check.require_device_memory("input",
                                    reinterpret_cast<const void*>(0x7f1200000000 + (std::uintptr_t(i) << bits)));
      }
      return device.asked;
    };
    EXPECT_EQ(call_all(5), 5) << bits;
    EXPECT_EQ(call_all(5), 0) << "5 tensors, 2^" << bits << " bytes apart";
    call_all(320);  // 80 layers with 4 of their own
    EXPECT_LT(call_all(320), 32) << "320 tensors, 2^" << bits << " bytes apart";
  }
}

// What the quick check passes, the whole one accepts, and needs no copy; and it passes what engines do.
TEST(CallValidation, TheQuickCheckPassesOnlyWhatIsInOrder) {
  const Catalogue& catalogue = Catalogue::builtin();
  std::mt19937_64 random(7);
  const auto any = [&](std::uint64_t below) { return random() % below; };
  for (const char* name : {"allreduce", "allreduce_residual", "allreduce_rmsnorm", "allreduce_residual_rmsnorm",
                           "allreduce_residual_rmsnorm_fp8_token", "moe_reduce_allreduce"}) {
    const Pattern pattern = catalogue.pattern(name);
    const bool simple = !pattern.has(PartKind::prologue) && !pattern.has(PartKind::quantisation);
    for (const Dtype dtype : {Dtype::bf16, Dtype::fp32}) {
      const QuickCheck quick(pattern, dtype, hidden);
      int passed = 0;
      for (int i = 0; i < 20000; ++i) {
        const auto rows = static_cast<std::int64_t>(1 + any(4));
        const CallSize size{dtype, pattern.rows ? hidden : 1, pattern.rows ? rows : rows * hidden};
        CallTensors tensors;
        // In a few places that may touch, be equal, overlap, or be odd by a byte.
        for_each_tensor([&](const auto& entry) {
          std::uintptr_t address = 0x10000 + any(12) * 512;
          if (any(4) == 0) address += any(5) * 4;
          if (any(16) == 0) address = 0;
          if (entry.tensor == arbiter::Tensor::output && any(2) == 0) {
            tensors.output = const_cast<void*>(tensors.input);
          } else if (entry.tensor == arbiter::Tensor::residual_out && any(2) == 0) {
            tensors.residual_out = const_cast<void*>(tensors.residual_in);
          } else {
            set_tensor(entry, tensors, reinterpret_cast<void*>(address));
          }
        });
        if (any(16) == 0) tensors.epsilon = any(2) == 0 ? -1.0F : std::numeric_limits<float>::quiet_NaN();
        if (any(16) == 0) tensors.weight_bias = std::numeric_limits<float>::infinity();
        tensors.gamma_fp32 = any(2) == 0;
        tensors.moe_experts = 2;
        QuickCheck::Pointers given;
        if (!quick.passes(tensors, size.tokens, given)) continue;
        ++passed;
        TensorRanges ranges;
        ASSERT_NO_THROW(ranges = validate_tensors(pattern, size, tensors)) << name << " " << i;
        ASSERT_FALSE(AlignedCopies::needed(ranges)) << name << " " << i;
        ASSERT_EQ(given.count, ranges.count) << name << " " << i;
        for (std::size_t t = 0; t < given.count; ++t) {
          ASSERT_EQ(reinterpret_cast<std::uintptr_t>(given.items[t]), ranges.items[t].begin) << name << " " << i;
        }
      }
      EXPECT_EQ(passed > 500, simple) << name << ": " << passed;
    }
  }
}

// Weights of a norm in the model's own type end where they end: what follows them at once does not overlap.
TEST(CallValidation, TheQuickCheckKnowsHowLargeTheWeightsAre) {
  const QuickCheck quick(Catalogue::builtin().pattern("allreduce_rmsnorm"), Dtype::bf16, hidden);
  CallTensors tensors;
  tensors.input = reinterpret_cast<const void*>(0x1000);
  tensors.gamma = reinterpret_cast<const void*>(0x2000);
  tensors.norm_out = reinterpret_cast<void*>(0x2000 + hidden * 2);
  QuickCheck::Pointers given;
  EXPECT_TRUE(quick.passes(tensors, 1, given));
  tensors.gamma_fp32 = true;
  EXPECT_FALSE(quick.passes(tensors, 1, given));
}

TEST(CallValidation, FamiliesThatCanNeverWorkAreRefused) {
  const Catalogue& catalogue = Catalogue::builtin();
  const auto refusal = [&](const ProblemFamily& family) {
    return message_of<InvalidArgument>([&] { validate_family(catalogue, family); });
  };
  EXPECT_NE(refusal({"allreduc", Dtype::bf16, 64, 1, Mode::graph}).find("allreduce"), std::string::npos);
  EXPECT_NE(refusal({"allreduce", Dtype::bf16, 0, 1, Mode::graph}).find("hidden"), std::string::npos);
  EXPECT_NE(refusal({"allreduce", Dtype::bf16, -8, 1, Mode::graph}).find("hidden"), std::string::npos);
  EXPECT_NE(refusal({"allreduce", Dtype::bf16, 64, 0, Mode::graph}).find("max_tokens"), std::string::npos);
  EXPECT_NE(refusal({"allreduce", Dtype::bf16, 64, -1, Mode::graph}).find("max_tokens"), std::string::npos);
  EXPECT_NE(refusal({"allreduce", Dtype::fp32, 8192, std::int64_t{1} << 60, Mode::graph}).find("2^63"),
            std::string::npos);
  EXPECT_NE(refusal({"allreduce_residual_rmsnorm", Dtype::bf16, 4, 1, Mode::graph}).find("multiple of 8"),
            std::string::npos);
  EXPECT_NE(refusal({"allreduce_residual_rmsnorm", Dtype::fp32, 1026, 1, Mode::graph}).find("multiple of 4"),
            std::string::npos);
  EXPECT_NO_THROW(validate_family(catalogue, {"allreduce", Dtype::bf16, 7, 3, Mode::graph}));
  EXPECT_NO_THROW(validate_family(catalogue, {"allreduce_residual_rmsnorm", Dtype::bf16, 2888, 1, Mode::eager}));
}

}  // namespace
}  // namespace arbiter
