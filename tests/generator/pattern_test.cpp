// Pattern names: every composition, what it needs, and what is refused.
#include "arbiter/generator/pattern.hpp"

#include <set>

#include "arbiter/error.hpp"
#include "arbiter/generator/variant.hpp"
#include "expect_error.hpp"

namespace arbiter {
namespace {

using test::expect_error;

Pattern pattern(std::string_view name) { return Catalogue::builtin().pattern(name); }

TEST(Pattern, EveryCompositionIsAName) {
  std::size_t count = 0;
  for (const char* prologue : {"", "moe_reduce_", "moe_finalize_"}) {
    for (const char* residual : {"", "_residual"}) {
      for (const char* norm : {"", "_rmsnorm"}) {
        for (const char* quantisation : {"", "_fp8_static", "_fp8_token", "_fp8_group128_ue8m0", "_fp8_group3_fp32",
                                         "_nvfp4_linear", "_nvfp4_128x4", "_nvfp4_8x4"}) {
          const std::string name = std::string(prologue) + "allreduce" + residual + norm + quantisation;
          const Pattern composed = pattern(name);
          EXPECT_EQ(composed.name, name);
          EXPECT_EQ(composed.has(PartKind::prologue), *prologue != '\0') << name;
          EXPECT_EQ(composed.has(PartKind::residual), *residual != '\0') << name;
          EXPECT_EQ(composed.has(PartKind::norm), *norm != '\0') << name;
          EXPECT_EQ(composed.has(PartKind::quantisation), *quantisation != '\0') << name;
          EXPECT_EQ(composed.rows, name != "allreduce") << name;
          EXPECT_EQ(composed.plain(), name == "allreduce") << name;
          EXPECT_EQ(composed.without_prologue(), name.substr(std::string(prologue).size()));
          EXPECT_EQ(composed.prologue_alone(), std::string(prologue) + "allreduce");
          ++count;
        }
      }
    }
  }
  EXPECT_EQ(count, 96u);
}

TEST(Pattern, ResultsOfEarlierStagesAreOptional) {
  const auto expect = [](const char* name, TensorSet required, TensorSet optional) {
    const Pattern composed = pattern(name);
    EXPECT_EQ(composed.required, required) << name;
    EXPECT_EQ(composed.optional, optional) << name;
  };
  using enum Tensor;
  expect("allreduce", {output}, {});
  expect("moe_reduce_allreduce", {output, moe_weights}, {moe_shared});
  expect("moe_finalize_allreduce_residual", {residual_in, residual_out, moe_weights, moe_row_map}, {moe_shared});
  expect("allreduce_residual", {residual_in, residual_out}, {});
  expect("allreduce_rmsnorm", {gamma, norm_out}, {output});
  expect("allreduce_residual_rmsnorm", {residual_in, gamma, norm_out}, {residual_out});
  expect("allreduce_fp8_static", {quant_out, scale_in}, {output});
  expect("allreduce_residual_rmsnorm_fp8_token", {residual_in, gamma, quant_out, scale_out}, {residual_out, norm_out});
  expect("allreduce_rmsnorm_nvfp4_8x4", {gamma, quant_out, scale_in, scale_out}, {output, norm_out});
}

TEST(Pattern, GroupsAreNumbersOfOneSpelling) {
  EXPECT_EQ(pattern("allreduce_fp8_group48_ue8m0").group, 48);
  EXPECT_EQ(pattern("allreduce_fp8_group1_fp32").parts[0].name, "fp8_group1_fp32");
  EXPECT_EQ(pattern("allreduce_nvfp4_linear").group, 16);
  EXPECT_EQ(pattern("allreduce_fp8_token").group, 0);
  for (const char* name :
       {"allreduce_fp8_group_ue8m0", "allreduce_fp8_group0_ue8m0", "allreduce_fp8_group032_fp32",
        "allreduce_fp8_group-1_fp32", "allreduce_fp8_group+1_fp32", "allreduce_fp8_group9999999_fp32",
        "allreduce_fp8_group99999999999999999999_fp32", "allreduce_fp8_group8", "allreduce_fp8_group"})
    EXPECT_THROW(pattern(name), InvalidArgument) << name;
}

TEST(Pattern, UnknownNamesAreRefusedNamingTheNearest) {
  expect_error<InvalidArgument>([] { pattern("allreduce_residual_rmsnrm"); },
                                {"unknown pattern", "did you mean 'allreduce_residual_rmsnorm'?", "[moe_reduce_|"});
  expect_error<InvalidArgument>([] { pattern("allreduce_residual_fp8_group64_ue8m"); },
                                {"did you mean 'allreduce_residual_fp8_group64_ue8m0'?"});
  expect_error<InvalidArgument>([] { pattern("moe_reducee_allreduce"); }, {"did you mean 'moe_reduce_allreduce'?"});
  for (const char* name : {"",
                           "_",
                           "all",
                           "allreduce_",
                           "allreducermsnorm",
                           "rmsnorm",
                           "allreduce_rmsnorm_residual",
                           "allreduce_rmsnorm_rmsnorm",
                           "allreduce_fp8_token_fp8_static",
                           "moe_reduce_",
                           "moe_reduce",
                           "_allreduce",
                           "moe_reduce_moe_reduce_allreduce",
                           "allreduce_residual_",
                           "allreduce__residual",
                           "allreduce_moe_reduce",
                           "Allreduce",
                           "allreduce_nvfp4",
                           "allreduce_rmsnorm_fp8_static_",
                           "allreduce_rmsnormfp8_static"})
    EXPECT_THROW(pattern(name), InvalidArgument) << name;
  expect_error<InvalidArgument>([] { pattern(std::string(100000, 'x')); }, {"..."});
}

TEST(Pattern, SizesOfQuantisedTensors) {
  EXPECT_EQ(pattern("allreduce").quant_out_bytes(64, 3), 0u);
  EXPECT_EQ(pattern("allreduce_rmsnorm").scale_out_bytes(64, 3), 0u);
  EXPECT_EQ(pattern("allreduce_fp8_static").quant_out_bytes(96, 3), 288u);
  EXPECT_EQ(pattern("allreduce_fp8_static").scale_out_bytes(96, 3), 0u);
  EXPECT_EQ(pattern("allreduce_fp8_token").scale_out_bytes(96, 3), 12u);
  EXPECT_EQ(pattern("allreduce_fp8_group32_fp32").scale_out_bytes(96, 3), 36u);
  // 3 groups make one int32, 5 tokens are padded to 8.
  EXPECT_EQ(pattern("allreduce_fp8_group32_ue8m0").scale_out_bytes(96, 5), 32u);
  EXPECT_EQ(pattern("allreduce_fp8_group16_ue8m0").scale_out_bytes(96, 4), 32u);
  EXPECT_EQ(pattern("allreduce_nvfp4_linear").quant_out_bytes(96, 3), 144u);
  EXPECT_EQ(pattern("allreduce_nvfp4_linear").scale_out_bytes(96, 3), 18u);
  EXPECT_EQ(pattern("allreduce_nvfp4_128x4").scale_out_bytes(96, 129), 2048u);
  EXPECT_EQ(pattern("allreduce_nvfp4_8x4").scale_out_bytes(96, 9), 128u);
  EXPECT_EQ(pattern("allreduce_nvfp4_8x4").scale_out_bytes(96, 0), 0u);
}

TEST(Pattern, WhatCannotWorkSaysWhy) {
  const auto reason = [](const char* name, Dtype dtype, int hidden) {
    return impossible(pattern(name), dtype, hidden).value_or("");
  };
  EXPECT_EQ(reason("allreduce", Dtype::bf16, 7), "");
  EXPECT_EQ(reason("allreduce_rmsnorm_fp8_group48_ue8m0", Dtype::fp32, 96), "");
  EXPECT_NE(reason("moe_reduce_allreduce", Dtype::bf16, 12).find("multiple of 8"), std::string::npos);
  EXPECT_NE(reason("allreduce_fp8_group48_fp32", Dtype::bf16, 64).find("multiple of the group"), std::string::npos);
  EXPECT_NE(reason("allreduce_nvfp4_linear", Dtype::fp32, 64).find("bf16 and fp16 only"), std::string::npos);
  EXPECT_NE(reason("allreduce_nvfp4_linear", Dtype::bf16, 24).find("multiple of 16"), std::string::npos);
  expect_error<InvalidArgument>(
      [] {
        enumerate(Catalogue::builtin(), "allreduce_nvfp4_8x4", Dtype::fp32, 2, 64, {90, 1024, {}});
      },
      {"nvfp4_8x4", "bf16 and fp16 only"});
}

TEST(Pattern, AGroupThatSpansBlocksOfAClusterIsExcludedWithAReason) {
  // 80 elements are 10 vectors, which cross the 128 threads of a block: 128 * 8 is no multiple of 80.
  const auto clusters = [](const char* name) {
    std::set<std::string> reasons;
    const Enumeration all = enumerate(Catalogue::builtin(), name, Dtype::bf16, 2, 2560, {90, 1024, {}}, Backend::mnnvl);
    for (const Variant& variant : all.variants)
      if (variant.parameter("cluster") > 1) reasons.insert("");
    for (const Excluded& excluded : all.excluded) reasons.insert(excluded.reason);
    return reasons;
  };
  const std::string why = "fp8_group80_ue8m0: a group would span blocks of a cluster";
  EXPECT_EQ(clusters("allreduce_fp8_group80_ue8m0").count(why), 1u);
  EXPECT_EQ(clusters("allreduce_fp8_group80_ue8m0").count(""), 0u);
  EXPECT_EQ(clusters("allreduce_fp8_group128_ue8m0").count(""), 1u);
  EXPECT_EQ(clusters("allreduce_fp8_group512_fp32").count(""), 1u);
}

}  // namespace
}  // namespace arbiter
