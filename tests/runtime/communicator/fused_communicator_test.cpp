// Quantised and MoE patterns as an engine calls them: through a Communicator that was prepared, whatever serves the
// call. The sum and the residual are what the host computes, the norm is near float64, and every quantised value and
// scale is what the host makes of that norm: bit for bit, and the same for every way and on every rank.
#include <gtest/gtest.h>

#include <set>

#include "candidate/loaded_kernel.hpp"
#include "runtime/fused_tensors.hpp"

namespace arbiter {
namespace {

using test::awkward;
using test::Bytes;
using test::expect_bytes;
using test::FusedTensors;
using test::quiet_options;
using test::RankContext;
using test::run_ranks;

constexpr int ranks = 2;
constexpr int hidden = 512;
constexpr std::int64_t tokens = 5;
constexpr float scale_in = 0.75F;

ProblemFamily prepared(const std::string& pattern) { return {pattern, Dtype::bf16, hidden, 16, Mode::graph}; }

Problem problem(const std::string& pattern) {
  return {pattern, Dtype::bf16, hidden, tokens, ranks, Mode::graph, false};
}

/// One way to have a pattern served.
struct Way {
  std::string name;
  Backend backend = Backend::automatic;
  Rule rule{};            ///< that must have fired
  std::string candidate;  ///< decided for every size; empty: no decision
};

struct Ways {
  std::vector<DecisionSet> decisions;  ///< of the candidates, in turn: one set each
  std::vector<Way> all;
};

/// auto; each algorithm's first kernel; a plain kernel with stand-alone kernels around it; NCCL, which the CPU device
/// has not, so that something else must serve.
Ways ways_of(const std::string& pattern) {
  Ways ways;
  ways.all = {{"auto", Backend::automatic, Rule::heuristic, ""}, {"nccl", Backend::nccl, Rule::fallback, ""}};
  run_ranks(ranks, [&](RankContext& context) {
    const auto group = make_group(context.bootstrap, context.device, test::quiet_group_options());
    if (group->rank() != 0) return;
    const ProblemFamily family = prepared(pattern);
    const std::vector<CandidateSpec> plain = enumerate_candidates(
        group->capabilities(), {"allreduce", family.dtype, hidden, family.max_tokens, Mode::graph}, {});
    std::set<std::string> wanted{"oneshot_push", "twoshot_barrier", "unfused"};
    for (const CandidateSpec& spec : enumerate_candidates(group->capabilities(), family, {plain.data(), 1})) {
      const std::string what = spec.fused() ? spec.algorithm() : "unfused";
      if (wanted.erase(what) == 0) continue;
      Decision decision;
      decision.pattern = pattern;
      decision.dtype = family.dtype;
      decision.hidden = hidden;
      decision.world = ranks;
      decision.mode = family.mode;
      decision.tokens_min = 1;
      decision.tokens_max = family.max_tokens;
      decision.candidate = {spec.backend(), spec.algorithm(), spec.name(), Numerics::rank_order_fp32,
                            candidate_source_hash(group->capabilities(), spec)};
      decision.median_us = 1;
      ways.decisions.push_back({group->environment(), {decision}});
      ways.all.push_back({what, Backend::automatic, Rule::decision, spec.name()});
    }
  });
  return ways;
}

/// From the inputs of all ranks: the sum in rank order, the residual's sum; then the norm that was found, and what its
/// quantisation must be.
void expect_oracle(Bootstrap& bootstrap, const FusedTensors& tensors, const std::string& what) {
  const Call& call = tensors.call;
  const std::vector<float> mine = tensors.contribution();
  std::vector<float> all(mine.size() * ranks);
  bootstrap.allgather(mine.data(), mine.size() * sizeof(float), all.data());
  std::vector<float> y(mine.size());
  const std::vector<float> residual = tensors.values(call.residual_in);
  for (std::size_t i = 0; i < y.size(); ++i) {
    float sum = 0;
    for (std::size_t rank = 0; rank < ranks; ++rank) sum += all[rank * y.size() + i];
    y[i] = tensors.rounded(tensors.rounded(sum) + residual[i]);
  }
  ASSERT_EQ(tensors.values(call.residual_out), y) << what;
  const std::vector<float> norm = tensors.values(call.norm_out);
  for (std::size_t row = 0; row < tokens; ++row) {
    double squares = 0;
    for (std::size_t i = 0; i < hidden; ++i) squares += std::pow(static_cast<double>(y[row * hidden + i]), 2);
    const double inverse = 1 / std::sqrt(squares / hidden + static_cast<double>(call.epsilon));
    for (std::size_t i = 0; i < hidden; ++i) {
      const auto gamma =
          static_cast<double>(test::element(static_cast<const unsigned char*>(call.gamma), i, call.dtype));
      const double expected = static_cast<double>(y[row * hidden + i]) * inverse * gamma;
      ASSERT_NEAR(norm[row * hidden + i], expected, std::abs(expected) / 128 + 1e-30) << what << " " << row << " " << i;
    }
  }
  const test::Quantised quantised = test::quantised(tensors.pattern, norm, hidden, tokens, scale_in);
  expect_bytes(call.quant_out, quantised.quant, what + ": quant_out");
  if (call.scale_out != nullptr) expect_bytes(call.scale_out, quantised.scales, what + ": scale_out");
}

class FusedCommunicator : public ::testing::TestWithParam<const char*> {};

TEST_P(FusedCommunicator, EveryWayGivesTheOraclesBits) {
  const std::string pattern = GetParam();
  const Ways ways = ways_of(pattern);
  ASSERT_EQ(ways.all.size(), 5U) << "two algorithms and an unfused one";
  std::vector<std::vector<Bytes>> results(ranks);
  std::size_t decided = 0;
  for (const Way& way : ways.all) {
    std::vector<DecisionSet> decisions;
    if (!way.candidate.empty()) decisions.push_back(ways.decisions[decided++]);
    run_ranks(ranks, [&](RankContext& context) {
      CommunicatorOptions options = quiet_options();
      options.variables.backend = way.backend;
      options.decisions = share_decisions(decisions);
      Communicator communicator(context.bootstrap, context.device, options);
      const ProblemFamily family = prepared(pattern);
      communicator.prepare({&family, 1});
      const auto explanation = communicator.explain(problem(pattern));
      EXPECT_EQ(explanation.rule, way.rule) << way.name << ": " << explanation.reason;
      if (!way.candidate.empty()) {
        EXPECT_EQ(explanation.candidate.name, way.candidate);
      }
      ProblemFamily shape = family;
      shape.max_tokens = tokens;
      const auto value = awkward(context.rank, hidden, false);
      const FusedTensors tensors(*context.device, shape, value, scale_in);
      communicator.run(tensors.call, nullptr);
      communicator.check();
      expect_oracle(*context.bootstrap, tensors, way.name);
      std::vector<Bytes>& first = results[static_cast<std::size_t>(context.rank)];
      if (first.empty()) first = tensors.outputs();
      EXPECT_TRUE(tensors.outputs() == first) << way.name << " differs from " << ways.all.front().name;

      // Captured once, without what nobody wants, and replayed: the quantised outputs are the same.
      FusedTensors fewer(*context.device, shape, value, scale_in);
      fewer.call.residual_out = nullptr;
      fewer.call.norm_out = nullptr;
      const StreamHandle stream = context.device->create_stream();
      context.device->begin_capture(stream);
      communicator.run(fewer.call, stream);
      const std::unique_ptr<Graph> graph = context.device->end_capture(stream);
      for (int replay = 0; replay < 3; ++replay) graph->launch(stream);
      context.device->synchronize(stream);
      communicator.check();
      std::vector<Bytes> wanted = first;
      wanted.erase(wanted.begin(), wanted.begin() + 2);  // residual_out and norm_out come first
      EXPECT_TRUE(fewer.outputs() == wanted) << way.name << ", replayed";
      context.device->destroy_stream(stream);
    });
  }
  EXPECT_TRUE(results[0] == results[1]) << "ranks differ";
}

INSTANTIATE_TEST_SUITE_P(, FusedCommunicator,
                         ::testing::Values("allreduce_residual_rmsnorm_fp8_static",
                                           "allreduce_residual_rmsnorm_fp8_token",
                                           "allreduce_residual_rmsnorm_fp8_group128_ue8m0",
                                           "allreduce_residual_rmsnorm_nvfp4_128x4",
                                           "moe_finalize_allreduce_residual_rmsnorm_fp8_token"),
                         [](const auto& row) { return std::string(row.param); });

}  // namespace
}  // namespace arbiter
