// Quantised and MoE calls that must be refused, through the communicator: each tensor missing, in the wrong place, not
// aligned or too small. Nothing is launched, and the next sound call gives what the one before gave.
#include <gtest/gtest.h>

#include "arbiter/error.hpp"
#include "runtime/forwarding_device.hpp"
#include "runtime/fused_tensors.hpp"

namespace arbiter {
namespace {

using test::awkward;
using test::Bytes;
using test::FusedTensors;
using test::message_of;
using test::quiet_options;
using test::RankContext;
using test::run_ranks;

constexpr int hidden = 512;
constexpr std::int64_t tokens = 5;

ProblemFamily family_of(const char* pattern) { return {pattern, Dtype::bf16, hidden, tokens, Mode::graph}; }

/// The input counts as a tensor of its own.
struct Place {
  std::string name;
  std::function<const void*(const Call&)> get;
  std::function<void(Call&, const void*)> set;
  std::size_t alignment = 2;
  bool required = true;
};

template <typename T>
Place place(const char* name, T* CallTensors::*member, std::size_t alignment, bool required) {
  return {name, [=](const Call& call) { return static_cast<const void*>(call.*member); },
          [=](Call& call, const void* to) { call.*member = static_cast<T*>(const_cast<void*>(to)); }, alignment,
          required};
}

std::vector<Place> places_of(const Pattern& pattern) {
  std::vector<Place> all{place("input", &Call::input, 2, true)};
  const auto add = [&](Tensor tensor, auto member, std::size_t alignment) {
    if (pattern.uses(tensor)) {
      all.push_back(place(std::string(to_string(tensor)).c_str(), member, alignment, pattern.needs(tensor)));
    }
  };
  add(Tensor::output, &Call::output, 2);
  add(Tensor::residual_in, &Call::residual_in, 2);
  add(Tensor::residual_out, &Call::residual_out, 2);
  add(Tensor::gamma, &Call::gamma, 2);
  add(Tensor::norm_out, &Call::norm_out, 2);
  add(Tensor::quant_out, &Call::quant_out, 1);
  add(Tensor::scale_in, &Call::scale_in, 4);
  add(Tensor::scale_out, &Call::scale_out, 4);
  add(Tensor::moe_weights, &Call::moe_weights, 4);
  add(Tensor::moe_row_map, &Call::moe_row_map, 4);
  add(Tensor::moe_shared, &Call::moe_shared, 2);
  return all;
}

/// A communicator with `pattern` prepared and one sound call made; what `body` does is refused, and another sound call
/// then gives the same bits.
using Refuse = std::function<std::string(const Call&)>;  ///< the message
void with_prepared(const char* pattern,
                   const std::function<void(Communicator&, const FusedTensors&, RankContext&, const Refuse&)>& body,
                   const CommunicatorOptions& options = quiet_options()) {
  run_ranks(2, [&](RankContext& context) {
    const auto device = std::make_shared<test::ForwardingDevice>(make_cpu_device(context.rank));
    context.device = device;
    Communicator communicator(context.bootstrap, context.device, options);
    const ProblemFamily family = family_of(pattern);
    communicator.prepare({&family, 1});
    const auto value = awkward(context.rank, hidden, false);
    const FusedTensors tensors(*device, family, value, 0.75F);
    communicator.run(tensors.call, nullptr);
    const std::vector<Bytes> before = tensors.outputs();
    const FusedTensors again(*device, family, value, 0.75F);
    const std::vector<Bytes> poisoned = again.outputs();
    body(communicator, again, context, [&](const Call& call) {
      const int launches = device->launches;
      std::string message = message_of<InvalidArgument>([&] { communicator.run(call, nullptr); });
      EXPECT_EQ(device->launches, launches) << "launched: " << message;
      return message;
    });
    EXPECT_TRUE(again.outputs() == poisoned) << "a refused call wrote something";
    context.bootstrap->barrier();
    communicator.run(again.call, nullptr);
    communicator.check();
    EXPECT_TRUE(again.outputs() == before) << "the call behind the refused ones gives something else";
  });
}

void expect_part(const std::string& message, const std::string& part) {
  EXPECT_NE(message.find(part), std::string::npos) << "'" << message << "' without '" << part << "'";
}

class RefusedCalls : public ::testing::TestWithParam<const char*> {};

TEST_P(RefusedCalls, EveryTensorThatIsMissingMisplacedOrMisalignedIsNamed) {
  std::vector<std::vector<const void*>> addresses(2);
  with_prepared(GetParam(),
                [&](Communicator&, const FusedTensors& tensors, RankContext& context, const Refuse& refuse) {
                  const std::vector<Place> places = places_of(tensors.pattern);
                  std::vector<const void*>& mine = addresses[static_cast<std::size_t>(context.rank)];
                  for (const Place& each : places) mine.push_back(each.get(tensors.call));
                  context.bootstrap->barrier();
                  const std::vector<const void*>& theirs = addresses[static_cast<std::size_t>(1 - context.rank)];
                  std::vector<unsigned char> host(1 << 18);
                  const auto* aligned = host.data() + (16 - reinterpret_cast<std::uintptr_t>(host.data()) % 16);
                  for (std::size_t i = 0; i < places.size(); ++i) {
                    const Place& each = places[i];
                    const auto moved = [&](const void* to) {
                      Call call = tensors.call;
                      each.set(call, to);
                      return refuse(call);
                    };
                    const std::string named = "'" + each.name + "'";
                    ASSERT_NE(mine[i], nullptr) << each.name;
                    if (each.required) expect_part(moved(nullptr), named + "; it is null");
                    expect_part(moved(aligned), named + " points to host memory");
                    expect_part(moved(theirs[i]), named + " points to memory of another device");
                    if (each.alignment == 1) continue;  // bytes begin anywhere
                    expect_part(moved(static_cast<const unsigned char*>(mine[i]) + each.alignment / 2),
                                named + " is not aligned to " + std::to_string(each.alignment));
                  }
                  context.bootstrap->barrier();
                });
}

INSTANTIATE_TEST_SUITE_P(, RefusedCalls,
                         ::testing::Values("allreduce_residual_rmsnorm_fp8_static",
                                           "allreduce_residual_rmsnorm_fp8_token",
                                           "moe_reduce_allreduce_fp8_group128_ue8m0",
                                           "moe_finalize_allreduce_residual_rmsnorm_nvfp4_128x4"),
                         [](const auto& row) { return std::string(row.param); });

TEST(RefusedSizes, ScalesThatDoNotFitAndCountsThatMakeNoSense) {
  with_prepared("moe_finalize_allreduce_residual_rmsnorm_nvfp4_128x4", [](Communicator&, const FusedTensors& tensors,
                                                                          RankContext&, const Refuse& refuse) {
    const auto with = [&](const std::function<void(Call&)>& spoil) {
      Call call = tensors.call;
      spoil(call);
      return refuse(call);
    };
    // 128 rows of 32 scales: the padding belongs to it.
    expect_part(with([](Call& call) { call.scale_out_bytes = tokens * hidden / 16; }),
                "'scale_out' has 160 bytes (scale_out_bytes);");
    expect_part(with([](Call& call) { --call.scale_out_bytes; }), "writes 4096 for 5 tokens of hidden=512");
    expect_part(with([](Call& call) { call.moe_top_k = 0; }), "'moe_top_k' is 0");
    expect_part(with([](Call& call) { call.moe_rows = -1; }), "'moe_rows' is -1");
    expect_part(with([](Call& call) { call.quant_out = call.norm_out; }), "overlap");
    expect_part(with([](Call& call) { call.epsilon = -1; }), "epsilon");
    expect_part(with([](Call& call) { call.pattern = "allreduce_residual_rmsnorm_nvfp4_128x5"; }),
                "did you mean 'allreduce_residual_rmsnorm_nvfp4_128x4'");
  });
}

TEST(RefusedFamilies, WhatNoKernelCanDoIsRefusedOnAllRanksAndTheRestGoesOn) {
  struct Row {
    const char* pattern;
    Dtype dtype;
    int hidden;
    const char* part;
    const char* other_part;
  };
  constexpr Row rows[] = {
      {"allreduce_fp8_group48_fp32", Dtype::bf16, 512, "48", "512"},
      {"allreduce_nvfp4_128x4", Dtype::fp32, 512, "nvfp4", "fp32"},
      {"allreduce_nvfp4_128x4", Dtype::bf16, 24, "16", "24"},
      {"allreduce_residual_rmsnorm_fp8_token", Dtype::bf16, 500, "multiple of 8", "500"},
      {"allreduce_residual_rmsnrm", Dtype::bf16, 512, "did you mean", "'allreduce_residual_rmsnorm'"},
      {"allreduce_fp8_group0_fp32", Dtype::bf16, 512, "allreduce_fp8_group0_fp32", ""}};
  with_prepared("allreduce_residual_rmsnorm_fp8_token", [&](Communicator& communicator, const FusedTensors&,
                                                            RankContext&, const Refuse&) {
    for (const Row& row : rows) {
      const ProblemFamily family{row.pattern, row.dtype, row.hidden, 4, Mode::graph};
      const std::string message = message_of<InvalidArgument>([&] { communicator.prepare({&family, 1}); });
      expect_part(message, row.part);
      expect_part(message, row.other_part);
      EXPECT_FALSE(communicator.can_use({row.pattern, row.dtype, row.hidden, 1, 2, Mode::graph, false}));
    }
  });
}

TEST(RefusedMemory, WhatDoesNotFitIsRefusedOnAllRanksAndWhatIsThereStays) {
  // A backend that stages messages: what one-shot kernels need does not grow with a message.
  CommunicatorOptions options = quiet_options();
  options.variables.backend = Backend::custom;
  with_prepared(
      "allreduce_residual_rmsnorm_fp8_token",
      [](Communicator& communicator, const FusedTensors&, RankContext& context, const Refuse&) {
        // Nearly the largest message that kernels can take.
        const ProblemFamily scratch{"allreduce", Dtype::fp32, 1 << 20, 16'000, Mode::graph};
        const ProblemFamily workspace{"allreduce_residual_rmsnorm", Dtype::bf16, 8192, 4'000'000, Mode::graph};
        if (context.device->properties().memory_bytes > std::size_t{100} << 30) GTEST_SKIP() << "it fits here";
        const std::size_t bytes = communicator.workspace_bytes();
        for (const ProblemFamily& huge : {scratch, workspace}) {
          expect_part(message_of<Unavailable>([&] { communicator.prepare({&huge, 1}); }), "not enough host memory");
          EXPECT_EQ(communicator.workspace_bytes(), bytes);
          EXPECT_FALSE(communicator.can_use({huge.pattern, huge.dtype, huge.hidden, 1, 2, Mode::graph, false}));
        }
        const ProblemFamily small{"allreduce", Dtype::fp32, 64, 4, Mode::graph};
        communicator.prepare({&small, 1});
        const test::Tensor<float> data(*context.device, 64);
        data.fill([&](std::size_t i) { return test::small_integer(context.rank, i); });
        communicator.all_reduce(data.data(), data.data(), 64, Dtype::fp32, nullptr);
        for (std::size_t i = 0; i < 64; ++i) ASSERT_EQ(data[i], test::small_integer_sum(2, i));
      },
      options);
}

}  // namespace
}  // namespace arbiter
