// Every prologue and quantisation on the CPU device: stand-alone kernels against a reference of one element at a time,
// and every algorithm against the unfused sequence, bit for bit.
#include <gtest/gtest.h>

#include <set>

#include "arbiter/error.hpp"
#include "runtime/fused_tensors.hpp"

namespace arbiter {
namespace {

using test::awkward;
using test::Bytes;
using test::expect_bytes;
using test::FusedTensors;
using test::quiet_group_options;
using test::RankContext;
using test::run_ranks;

std::optional<std::vector<Bytes>> run_candidate(Group& group, RankContext& context, const CandidateSpec& spec,
                                                const ProblemFamily& family, const FusedTensors& tensors) {
  const LoadRequest request{spec, family};
  std::vector<LoadResult> loaded = load_on_all_ranks(group, {&request, 1});
  if (!loaded[0].candidate) {
    ADD_FAILURE() << spec.name() << ": " << loaded[0].reason;
    return std::nullopt;
  }
  const WorkspaceNeeds needs = loaded[0].candidate->needs(family.max_tokens);
  group.reserve(needs.push_bytes, needs.staging_bytes);
  loaded[0].candidate->enqueue(tensors.call, nullptr);
  context.device->synchronize(nullptr);
  group.check();
  return tensors.outputs();
}

/// fp32 scales with one bit pattern for NaN.
void unify_nans(void* data, std::size_t bytes) {
  auto* words = static_cast<std::uint32_t*>(data);
  for (std::size_t i = 0; i < bytes / 4; ++i)
    if (std::isnan(std::bit_cast<float>(words[i]))) words[i] = 0x7FC00000;
}

struct Alone {
  const char* pattern;
  Dtype dtype;
  int hidden;
  std::int64_t tokens;
  float scale_in = 1.0F;
};
std::ostream& operator<<(std::ostream& stream, const Alone& alone) {
  return stream << alone.pattern << " " << to_string(alone.dtype) << " hidden=" << alone.hidden;
}

class StandAlone : public ::testing::TestWithParam<Alone> {};

TEST_P(StandAlone, IsTheReferenceToTheBit) {
  const Alone& alone = GetParam();
  run_ranks(1, [&](RankContext& context) {
    const auto group = make_group(context.bootstrap, context.device, quiet_group_options());
    const ProblemFamily family{alone.pattern, alone.dtype, alone.hidden, alone.tokens, Mode::graph};
    const std::vector<CandidateSpec> candidates = enumerate_candidates(group->capabilities(), family, {});
    ASSERT_FALSE(candidates.empty());
    const auto value = awkward(0, alone.hidden, true);
    FusedTensors tensors(*context.device, family, value, alone.scale_in);
    const Call& call = tensors.call;
    ASSERT_TRUE(run_candidate(*group, context, candidates.front(), family, tensors));

    // What the quantisation starts from was written too, and is checked where it can be: the norm elsewhere.
    std::vector<float> y = tensors.contribution();
    if (call.residual_in != nullptr) {
      const std::vector<float> residual = tensors.values(call.residual_in);
      for (std::size_t i = 0; i < y.size(); ++i) y[i] = tensors.rounded(y[i] + residual[i]);
    }
    const void* written = call.residual_out != nullptr ? call.residual_out : call.output;
    if (written != nullptr) {
      const std::vector<float> got = tensors.values(written);
      for (std::size_t i = 0; i < y.size(); ++i) {
        if (std::isnan(y[i]) && std::isnan(got[i])) continue;
        ASSERT_EQ(std::bit_cast<std::uint32_t>(got[i]), std::bit_cast<std::uint32_t>(y[i])) << i;
      }
    }
    if (tensors.pattern.has(PartKind::norm)) y = tensors.values(call.norm_out);
    if (!tensors.pattern.has(PartKind::quantisation)) return;
    const test::Quantised expected = test::quantised(tensors.pattern, y, alone.hidden, alone.tokens, alone.scale_in);
    const ScaleLayout layout = tensors.pattern.part(PartKind::quantisation)->scale_layout;
    if (layout == ScaleLayout::token || layout == ScaleLayout::group_rows) {
      unify_nans(call.scale_out, call.scale_out_bytes);
    }
    expect_bytes(call.quant_out, expected.quant, "quant_out");
    if (call.scale_out != nullptr) expect_bytes(call.scale_out, expected.scales, "scale_out");

    // Nobody has to want what came before.
    FusedTensors fewer(*context.device, family, value, alone.scale_in);
    fewer.call.output = nullptr;
    fewer.call.residual_out = nullptr;
    fewer.call.norm_out = nullptr;
    ASSERT_TRUE(run_candidate(*group, context, candidates.front(), family, fewer));
    expect_bytes(fewer.call.quant_out, expected.quant, "quant_out alone");
  });
}

INSTANTIATE_TEST_SUITE_P(
    , StandAlone,
    ::testing::Values(Alone{"allreduce_fp8_static", Dtype::bf16, 136, 5, 0.37F},
                      Alone{"allreduce_residual_rmsnorm_fp8_token", Dtype::bf16, 1032, 5},
                      Alone{"allreduce_fp8_token", Dtype::fp32, 20, 6},
                      Alone{"allreduce_fp8_group128_ue8m0", Dtype::bf16, 640, 5},  // 5 groups: pads in both directions
                      Alone{"allreduce_fp8_group128_ue8m0", Dtype::bf16, 896, 3},  // 7: half of the last pair
                      Alone{"allreduce_rmsnorm_fp8_group128_ue8m0", Dtype::bf16, 384, 6},  // 3
                      Alone{"allreduce_fp8_group64_ue8m0", Dtype::bf16, 640, 5},
                      Alone{"allreduce_fp8_group8_ue8m0", Dtype::bf16, 72, 5},     // 9: a vector a group
                      Alone{"allreduce_fp8_group256_ue8m0", Dtype::bf16, 768, 2},  // 3: a warp a group
                      Alone{"allreduce_fp8_group256_fp32", Dtype::bf16, 512, 4},   // a whole warp
                      Alone{"allreduce_fp8_group512_fp32", Dtype::bf16, 1536, 4},  // two warps
                      Alone{"allreduce_fp8_group2_ue8m0", Dtype::fp32, 20, 5},     // within a vector
                      Alone{"allreduce_fp8_group1_fp32", Dtype::bf16, 16, 4},
                      Alone{"allreduce_fp8_group3_fp32", Dtype::bf16, 96, 5},  // across vectors
                      Alone{"allreduce_fp8_group6_ue8m0", Dtype::fp32, 36, 5},
                      Alone{"allreduce_fp8_group12_fp32", Dtype::bf16, 144, 5},
                      Alone{"allreduce_rmsnorm_fp8_group48_ue8m0", Dtype::bf16, 4800, 5},
                      Alone{"allreduce_fp8_group520_fp32", Dtype::bf16, 520, 4},   // the row
                      Alone{"allreduce_nvfp4_linear", Dtype::bf16, 144, 5, 3.5F},  // 9 scales
                      Alone{"allreduce_residual_rmsnorm_nvfp4_128x4", Dtype::bf16, 144, 130, 11.0F},
                      Alone{"allreduce_nvfp4_8x4", Dtype::bf16, 208, 13, 100.0F},
                      Alone{"moe_reduce_allreduce", Dtype::bf16, 72, 5},
                      Alone{"moe_finalize_allreduce_residual_fp8_token", Dtype::fp32, 72, 5}));

/// One launch shape of every algorithm, fused and not.
std::vector<CandidateSpec> one_of_each(const std::vector<CandidateSpec>& all) {
  std::vector<CandidateSpec> chosen;
  std::set<std::string> seen;
  for (const CandidateSpec& spec : all) {
    const std::string key = std::string(to_string(spec.backend())) + spec.algorithm() + (spec.fused() ? "" : "+");
    if (seen.insert(key).second) chosen.push_back(spec);
  }
  return chosen;
}

void expect_all_equal(int size, const ProblemFamily& family, std::size_t least_fused) {
  std::vector<std::vector<Bytes>> by_rank(static_cast<std::size_t>(size));
  run_ranks(size, [&](RankContext& context) {
    const auto group = make_group(context.bootstrap, context.device, quiet_group_options());
    ProblemFamily plain = family;
    plain.pattern = "allreduce";
    std::vector<CandidateSpec> best_plain = one_of_each(enumerate_candidates(group->capabilities(), plain, {}));
    best_plain.resize(1);
    // The unfused one first: it is what the others must reproduce.
    std::vector<CandidateSpec> candidates =
        one_of_each(enumerate_candidates(group->capabilities(), family, best_plain));
    std::stable_partition(candidates.begin(), candidates.end(),
                          [](const CandidateSpec& spec) { return !spec.fused(); });
    ASSERT_FALSE(candidates.front().fused());
    EXPECT_EQ(candidates.front().prologue.has_value(), family.pattern.starts_with("moe"));
    std::optional<std::vector<Bytes>> expected;
    for (const CandidateSpec& spec : candidates) {
      const FusedTensors tensors(*context.device, family, awkward(context.rank, family.hidden, false), 0.75F);
      const auto got = run_candidate(*group, context, spec, family, tensors);
      ASSERT_TRUE(got);
      if (!expected) expected = got;
      EXPECT_TRUE(*got == *expected) << spec.name() << " differs from " << candidates.front().name();
      EXPECT_EQ(CandidateSpec::parse(group->catalogue(), spec.name(), family, size), spec);
    }
    EXPECT_GE(candidates.size(), least_fused + 1);
    by_rank[static_cast<std::size_t>(context.rank)] = *expected;
  });
  for (const std::vector<Bytes>& results : by_rank) EXPECT_TRUE(results == by_rank[0]) << "ranks differ";
}

/// One rank, one call: `change` is made before it.
std::vector<Bytes> run_alone(const ProblemFamily& family, const std::function<void(FusedTensors&)>& change) {
  std::vector<Bytes> outputs;
  run_ranks(1, [&](RankContext& context) {
    const auto group = make_group(context.bootstrap, context.device, quiet_group_options());
    FusedTensors tensors(*context.device, family, awkward(0, family.hidden, false), 1.0F);
    change(tensors);
    const auto got = run_candidate(*group, context, enumerate_candidates(group->capabilities(), family, {}).front(),
                                   family, tensors);
    ASSERT_TRUE(got);
    outputs = *got;
  });
  return outputs;
}

TEST(FusedKernels, GammaInFp32GivesTheBitsOfTheSameNumbersInTheDtype) {
  const ProblemFamily family{"allreduce_residual_rmsnorm_fp8_token", Dtype::bf16, 1032, 5, Mode::graph};
  const auto widen = [&](FusedTensors& tensors, float factor) {
    unsigned char* wide = tensors.make(4 * 1032);
    for (std::size_t i = 0; i < 1032; ++i)
      test::put(wide, i, Dtype::fp32,
                factor * test::element(static_cast<const unsigned char*>(tensors.call.gamma), i, Dtype::bf16));
    tensors.call.gamma = wide;
    tensors.call.gamma_fp32 = true;
  };
  const std::vector<Bytes> narrow = run_alone(family, [](FusedTensors&) {});
  EXPECT_TRUE(run_alone(family, [&](FusedTensors& tensors) { widen(tensors, 1); }) == narrow);
  EXPECT_FALSE(run_alone(family, [&](FusedTensors& tensors) { widen(tensors, 1.001F); }) == narrow)
      << "bits that bf16 does not have are lost";
}

TEST(FusedKernels, WeightBiasIsAddedToGamma) {
  const ProblemFamily family{"allreduce_rmsnorm", Dtype::bf16, 520, 3, Mode::graph};
  const auto with = [&](float gamma, float bias) {
    return run_alone(family, [&](FusedTensors& tensors) {
      auto* weights = const_cast<unsigned char*>(static_cast<const unsigned char*>(tensors.call.gamma));
      for (std::size_t i = 0; i < 520; ++i) test::put(weights, i, Dtype::bf16, gamma);
      tensors.call.weight_bias = bias;
    });
  };
  EXPECT_TRUE(with(0.5F, 1) == with(1.5F, 0));
  EXPECT_FALSE(with(0.5F, 1) == with(0.5F, 0));
}

TEST(FusedKernels, MoeWeightsInTheDtypeAndWithoutSharedTokens) {
  for (const char* pattern : {"moe_reduce_allreduce", "moe_finalize_allreduce"}) {
    const ProblemFamily family{pattern, Dtype::bf16, 72, 5, Mode::graph};
    run_ranks(1, [&](RankContext& context) {
      const auto group = make_group(context.bootstrap, context.device, quiet_group_options());
      FusedTensors tensors(*context.device, family, awkward(0, 72, false), 1.0F);
      const std::size_t terms = 5 * (tensors.call.moe_row_map != nullptr ? FusedTensors::top_k : FusedTensors::experts);
      unsigned char* narrow = tensors.make(2 * terms);
      for (std::size_t i = 0; i < terms; ++i) test::put(narrow, i, Dtype::bf16, tensors.weight(i));
      tensors.call.moe_weights = narrow;
      tensors.call.moe_weights_fp32 = false;
      tensors.call.moe_shared = nullptr;
      ASSERT_TRUE(run_candidate(*group, context, enumerate_candidates(group->capabilities(), family, {}).front(),
                                family, tensors));
      EXPECT_EQ(tensors.values(tensors.call.output), tensors.contribution()) << pattern;
    });
  }
}

TEST(FusedKernels, MapEntriesThatNameNoRowAreSkipped) {
  const ProblemFamily family{"moe_finalize_allreduce", Dtype::bf16, 72, 5, Mode::graph};
  // A rank to which nothing was routed: only the shared expert is left. Its input does not even exist.
  const auto run = [&](int entry) {
    return run_alone(family, [&](FusedTensors& tensors) {
      int* map = const_cast<int*>(tensors.call.moe_row_map);
      std::fill_n(map, 5 * FusedTensors::top_k, entry);
      tensors.call.moe_rows = 0;
      tensors.call.input = nullptr;
      auto* shared = const_cast<unsigned char*>(static_cast<const unsigned char*>(tensors.call.moe_shared));
      for (std::size_t i = 0; i < std::size_t{5} * 72; ++i) test::put(shared, i, Dtype::bf16, 1.0F);
    });
  };
  const std::vector<Bytes> outputs = run(-1);
  ASSERT_EQ(outputs.size(), 1u);
  for (std::size_t i = 0; i < std::size_t{5} * 72; ++i)
    ASSERT_EQ(test::element(outputs[0].data(), i, Dtype::bf16), 1.0F);
  EXPECT_TRUE(run(7) == outputs) << "a row that does not exist was read";
}

TEST(FusedAlgorithms, MoeFinalizeNormAndTokenScales) {
  expect_all_equal(2, {"moe_finalize_allreduce_residual_rmsnorm_fp8_token", Dtype::bf16, 2048, 5, Mode::graph}, 5);
}

TEST(FusedAlgorithms, MoeReduceAndGroupsOfSeveralWarps) {
  expect_all_equal(3, {"moe_reduce_allreduce_rmsnorm_fp8_group512_fp32", Dtype::bf16, 2048, 7, Mode::graph}, 5);
}

TEST(FusedAlgorithms, Nvfp4InTiles) {
  expect_all_equal(2, {"allreduce_residual_rmsnorm_nvfp4_8x4", Dtype::bf16, 2048, 9, Mode::graph}, 5);
}

TEST(FusedAlgorithms, APrologueAndNothingElse) {
  expect_all_equal(2, {"moe_reduce_allreduce", Dtype::bf16, 1032, 3, Mode::graph}, 4);
}

}  // namespace
}  // namespace arbiter
