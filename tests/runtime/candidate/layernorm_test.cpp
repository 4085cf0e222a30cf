// LayerNorm on the CPU device: against the formula in double, and the same bits from every algorithm.
#include <gtest/gtest.h>

#include <set>

#include "runtime/fused_tensors.hpp"

namespace arbiter {
namespace {

using test::Bytes;
using test::FusedTensors;
using test::RankContext;

constexpr int hidden = 2048;
constexpr std::int64_t tokens = 4;

/// Rows far from zero, of different spread: a variance around zero instead of the mean would be far off.
float value(int which, std::size_t i) {
  const std::uint32_t mixed = static_cast<std::uint32_t>(i) * 2654435761U + static_cast<std::uint32_t>(which) * 977U;
  const float unit = static_cast<float>(mixed >> 16) / 65536.0F;
  if (which == 2) return 0.5F + unit;
  return 40.0F + (unit - 0.5F) * static_cast<float>(1 + i / hidden);
}

TEST(LayerNorm, IsTheFormulaAndTheSameFromEveryAlgorithm) {
  test::run_ranks(2, [&](RankContext& context) {
    const auto group = make_group(context.bootstrap, context.device, test::quiet_group_options());
    const ProblemFamily family{"allreduce_residual_layernorm", Dtype::bf16, hidden, tokens, Mode::graph};
    ProblemFamily plain = family;
    plain.pattern = "allreduce";
    std::vector<CandidateSpec> best_plain = enumerate_candidates(group->capabilities(), plain, {});
    best_plain.resize(1);
    std::set<std::string> seen;
    std::vector<Bytes> expected;
    for (const CandidateSpec& spec : enumerate_candidates(group->capabilities(), family, best_plain)) {
      if (!seen.insert(std::string(to_string(spec.backend())) + spec.algorithm() + (spec.fused() ? "" : "+")).second)
        continue;
      const LoadRequest request{spec, family};
      const std::vector<LoadResult> loaded = load_on_all_ranks(*group, {&request, 1});
      ASSERT_TRUE(loaded[0].candidate) << loaded[0].reason;
      const WorkspaceNeeds needs = loaded[0].candidate->needs(tokens);
      group->reserve(needs.push_bytes, needs.staging_bytes);
      FusedTensors tensors(*context.device, family, value, 1.0F);
      tensors.call.epsilon = 1e-5F;
      tensors.call.weight_bias = 1.0F;
      loaded[0].candidate->enqueue(tensors.call, nullptr);
      context.device->synchronize(nullptr);
      group->check();
      if (expected.empty()) expected = tensors.outputs();
      EXPECT_TRUE(tensors.outputs() == expected) << spec.name();

      const std::vector<float> x = tensors.values(tensors.call.residual_out);
      const std::vector<float> got = tensors.values(tensors.call.norm_out);
      for (std::size_t row = 0; row < tokens; ++row) {
        double mean = 0;
        double variance = 0;
        for (std::size_t i = 0; i < hidden; ++i) mean += static_cast<double>(x[row * hidden + i]) / hidden;
        for (std::size_t i = 0; i < hidden; ++i)
          variance += std::pow(static_cast<double>(x[row * hidden + i]) - mean, 2) / hidden;
        for (std::size_t i = 0; i < hidden; ++i) {
          const auto gamma =
              static_cast<double>(test::element(static_cast<const unsigned char*>(tensors.call.gamma), i, Dtype::bf16));
          const double exact =
              (static_cast<double>(x[row * hidden + i]) - mean) / std::sqrt(variance + 1e-5) * (gamma + 1);
          // Half a unit in the last place of bf16, and a little for fp32.
          ASSERT_NEAR(static_cast<double>(got[row * hidden + i]), exact, std::abs(exact) * 0x1.02p-8 + 1e-5)
              << row << " " << i;
        }
      }
    }
    EXPECT_GE(seen.size(), 5u);
  });
}

}  // namespace
}  // namespace arbiter
