// A kernel's arguments are kept from one call to the next of the same size: whatever else differs between two calls
// must be that of the second.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/communicator_fixture.hpp"

namespace arbiter {
namespace {

using test::quiet_options;
using test::RankContext;
using test::run_ranks;
using test::small_integer;
using test::small_integer_sum;

constexpr int hidden = 64;
constexpr int ranks = 2;

/// Reduces numbers that no other call has, and looks at every element.
void reduce(const RankContext& context, const PreparedFamily& family, float* input, float* output,
            std::int64_t tokens) {
  thread_local std::size_t calls = 0;
  const std::size_t first = ++calls;
  const auto count = static_cast<std::size_t>(tokens) * hidden;
  for (std::size_t i = 0; i < count; ++i) input[i] = small_integer(context.rank, first + i);
  if (output != input) std::fill_n(output, count, -1000.0F);
  CallTensors tensors;
  tensors.input = input;
  tensors.output = output;
  family.run(tensors, tokens, nullptr);
  context.device->synchronize(nullptr);
  for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(output[i], small_integer_sum(context.size, first + i)) << i;
  context.bootstrap->barrier();
}

class RepeatedCalls : public testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Kernels, RepeatedCalls,
                         testing::Values("oneshot_push", "twoshot_push", "oneshot_pull", "twoshot_pull"),
                         [](const auto& kernel) { return std::string(kernel.param); });

/// The first candidate of the algorithm.
std::string candidate(const std::string& algorithm) {
  std::string name;
  run_ranks(ranks, [&](RankContext& context) {
    const auto group = make_group(context.bootstrap, context.device, test::quiet_group_options());
    for (const CandidateSpec& spec :
         enumerate_candidates(group->capabilities(), {"allreduce", Dtype::fp32, hidden, 64, Mode::graph}, {})) {
      if (context.rank == 0 && name.empty() && spec.kernel && spec.algorithm() == algorithm) name = spec.name();
    }
  });
  return name;
}

TEST_P(RepeatedCalls, TakeWhereTheirOwnTensorsLieAndHowLargeTheyAre) {
  const std::string name = candidate(GetParam());
  ASSERT_FALSE(name.empty());
  run_ranks(ranks, [&](RankContext& context) {
    CommunicatorOptions options = quiet_options();
    options.candidate = name;
    Communicator communicator(context.bootstrap, context.device, options);
    const PreparedFamily family = communicator.prepare({"allreduce", Dtype::fp32, hidden, 16, Mode::graph});
    ASSERT_EQ(family.explain(8).candidate.name, name);
    const test::Tensor<float> a(*context.device, 16 * hidden), b(*context.device, 16 * hidden);
    reduce(context, family, a.data(), b.data(), 8);
    reduce(context, family, b.data(), a.data(), 8);
    reduce(context, family, a.data(), a.data(), 8);
    reduce(context, family, a.data(), b.data(), 1);
    reduce(context, family, a.data(), b.data(), 8);
    // Peers read one where it lies, then the other not any more.
    auto* shared = static_cast<float*>(communicator.allocate_symmetric(16 * hidden * sizeof(float)));
    reduce(context, family, shared, b.data(), 8);
    reduce(context, family, a.data(), shared, 8);
    reduce(context, family, shared, shared, 8);
    reduce(context, family, a.data(), b.data(), 8);
    reduce(context, family, shared, b.data(), 8);
    communicator.release_shared(shared);
    reduce(context, family, a.data(), b.data(), 8);
    // The workspace moves.
    const std::size_t before = communicator.workspace_bytes();
    communicator.prepare({"allreduce", Dtype::fp16, hidden, 4096, Mode::graph});
    EXPECT_GT(communicator.workspace_bytes(), before);
    reduce(context, family, a.data(), b.data(), 8);
    reduce(context, family, a.data(), b.data(), 16);
  });
}

// What the first call wants and the second does not is not written by the second.
TEST(RepeatedCallsOfRows, LeaveOutWhatOnlyTheLastOneWanted) {
  run_ranks(ranks, [](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, quiet_options());
    const PreparedFamily family =
        communicator.prepare({"allreduce_residual_rmsnorm", Dtype::fp32, hidden, 4, Mode::graph});
    const test::Tensor<float> input(*context.device, 4 * hidden), residual(*context.device, 4 * hidden),
        gamma(*context.device, hidden), norm(*context.device, 4 * hidden), sum(*context.device, 4 * hidden);
    const auto call = [&](bool wants_sum, float epsilon) {
      input.fill([&](std::size_t i) { return small_integer(context.rank, i); });
      residual.fill([](std::size_t) { return 1.0F; });
      gamma.fill([](std::size_t) { return 1.0F; });
      norm.fill([](std::size_t) { return -1000.0F; });
      sum.fill([](std::size_t) { return -1000.0F; });
      CallTensors tensors;
      tensors.input = input.data();
      tensors.residual_in = residual.data();
      if (wants_sum) tensors.residual_out = sum.data();
      tensors.gamma = gamma.data();
      tensors.norm_out = norm.data();
      tensors.epsilon = epsilon;
      family.run(tensors, 4, nullptr);
      context.device->synchronize(nullptr);
      for (std::size_t row = 0; row < 4; ++row) {
        double squares = 0;
        for (std::size_t i = row * hidden; i < (row + 1) * hidden; ++i) {
          const float value = small_integer_sum(context.size, i) + 1.0F;
          squares += static_cast<double>(value) * value;
          ASSERT_EQ(sum[i], wants_sum ? value : -1000.0F) << i;
        }
        const double scale = 1 / std::sqrt(squares / hidden + static_cast<double>(epsilon));
        for (std::size_t i = row * hidden; i < (row + 1) * hidden; ++i) {
          ASSERT_NEAR(norm[i], (small_integer_sum(context.size, i) + 1) * scale, 1e-5) << i;
        }
      }
      context.bootstrap->barrier();
    };
    call(true, 1e-6F);
    call(false, 1e-6F);
    call(false, 100.0F);
    call(true, 1e-6F);
  });
}

}  // namespace
}  // namespace arbiter
