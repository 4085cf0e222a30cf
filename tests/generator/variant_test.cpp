#include "arbiter/generator/variant.hpp"

#include <set>

#include "arbiter/error.hpp"
#include "expect_error.hpp"
#include "sample_catalogue.hpp"

namespace arbiter {
namespace {

using test::expect_error;

class VariantTest : public ::testing::Test {
 protected:
  const Catalogue catalogue = Catalogue::parse(test::sample_json, test::sample_templates());
  TargetLimits hopper{90, 1024, {}};

  std::vector<std::string> names(const Enumeration& enumeration) const {
    std::vector<std::string> result;
    for (const Variant& variant : enumeration.variants) result.push_back(variant.name());
    return result;
  }
};

TEST_F(VariantTest, EnumeratesInCatalogueOrder) {
  const Enumeration all = enumerate(catalogue, "allreduce", Dtype::bf16, 2, 4096, hopper);
  EXPECT_EQ(names(all),
            (std::vector<std::string>{"trtllm/push:cluster=1,threads=128", "trtllm/push:cluster=2,threads=128",
                                      "trtllm/push:cluster=1,threads=256", "trtllm/push:cluster=2,threads=256"}));
  EXPECT_EQ(all.variants[0].hidden, 0);  // flat
  EXPECT_EQ(all.variants[0].full_name(), "trtllm/push:cluster=1,threads=128 allreduce bf16 world=2");
  ASSERT_EQ(all.excluded.size(), 1u);  // multimem, once
  EXPECT_TRUE(all.excluded[0].variant.parameters.empty());
  EXPECT_NE(all.excluded[0].reason.find("multicast"), std::string::npos);
}

TEST_F(VariantTest, ConstraintsExcludeWithTheirReason) {
  // 2048 bf16 elements are 256 vectors.
  const Enumeration rows = enumerate(catalogue, "allreduce_norm", Dtype::bf16, 4, 2048, hopper, Backend::trtllm);
  EXPECT_EQ(rows.variants.size(), 3u);
  ASSERT_EQ(rows.excluded.size(), 1u);
  EXPECT_EQ(rows.excluded[0].variant.name(), "trtllm/push:cluster=1,threads=128");
  EXPECT_EQ(rows.excluded[0].reason, "a row does not fit");
  EXPECT_EQ(rows.variants[0].full_name(), "trtllm/push:cluster=2,threads=128 allreduce_norm bf16 world=4 hidden=2048");

  const TargetLimits ampere{80, 128, {}};
  const Enumeration old = enumerate(catalogue, "allreduce", Dtype::bf16, 2, 0, ampere, Backend::trtllm);
  EXPECT_EQ(names(old), std::vector<std::string>{"trtllm/push:cluster=1,threads=128"});
  EXPECT_EQ(old.excluded[0].reason, "clusters need SM 90");
  EXPECT_EQ(old.excluded[1].reason, "too many threads");
}

TEST_F(VariantTest, WhatIsPrunedCanBeBuilt) {
  const Catalogue large = catalogue.with_axis("threads", {512});
  const Enumeration usual = enumerate(large, "allreduce", Dtype::bf16, 2, 0, hopper, Backend::trtllm);
  EXPECT_EQ(names(usual), std::vector<std::string>{"trtllm/push:cluster=1,threads=512"});
  ASSERT_EQ(usual.excluded.size(), 1u);
  EXPECT_EQ(usual.excluded[0].reason, "large clusters never won");
  EXPECT_TRUE(usual.excluded[0].pruned);
  EXPECT_EQ(unavailable(large, usual.excluded[0].variant, hopper), std::nullopt);
  hopper.exhaustive = true;
  const Enumeration all = enumerate(large, "allreduce", Dtype::bf16, 2, 0, hopper, Backend::trtllm);
  EXPECT_EQ(names(all),
            (std::vector<std::string>{"trtllm/push:cluster=1,threads=512", "trtllm/push:cluster=2,threads=512"}));
  hopper.max_threads = 256;  // what cannot be built is no matter of opinion
  const Enumeration none = enumerate(large, "allreduce", Dtype::bf16, 2, 0, hopper, Backend::trtllm);
  EXPECT_TRUE(none.variants.empty());
  EXPECT_FALSE(none.excluded[0].pruned);
}

TEST_F(VariantTest, CapabilitiesAndWorlds) {
  TargetLimits limits = hopper;
  limits.capabilities = {"multicast"};
  EXPECT_EQ(names(enumerate(catalogue, "allreduce", Dtype::fp16, 2, 0, limits, Backend::nvls)),
            std::vector<std::string>{"nvls/multimem:threads=512"});
  const Enumeration three = enumerate(catalogue, "allreduce", Dtype::fp16, 3, 0, limits);
  EXPECT_TRUE(three.variants.empty());
  ASSERT_EQ(three.excluded.size(), 2u);
  EXPECT_NE(three.excluded[0].reason.find("2, 4"), std::string::npos);
}

TEST_F(VariantTest, AValueOfAnAxisMayNeedACapability) {
  std::string json(test::sample_json);
  const std::string axis = "\"cluster\", \"values\": [1, 2]";
  json.replace(json.find(axis), axis.size(), "\"cast\", \"values\": [0, 1], \"capability\": \"multicast\"");
  for (std::size_t at; (at = json.find("cluster")) != std::string::npos;) json.replace(at, 7, "threads");
  const Catalogue changed = Catalogue::parse(json, test::sample_templates());
  TargetLimits limits = hopper;
  const Enumeration without = enumerate(changed, "allreduce", Dtype::bf16, 2, 0, limits, Backend::trtllm);
  EXPECT_TRUE(without.variants.empty() || without.variants[0].parameter("cast") == 0);
  ASSERT_FALSE(without.excluded.empty());
  limits.capabilities = {"multicast"};
  const Enumeration with = enumerate(changed, "allreduce", Dtype::bf16, 2, 0, limits, Backend::trtllm);
  EXPECT_EQ(with.variants.size(), 2 * without.variants.size());
  for (const Variant& variant : with.variants) {
    const auto reason = unavailable(changed, variant, hopper);
    EXPECT_EQ(reason.has_value(), variant.parameter("cast") == 1) << variant.name();
    EXPECT_TRUE(!reason || reason->find("cast=1 needs 'multicast'") != std::string::npos) << *reason;
  }
}

TEST_F(VariantTest, StandaloneHasOneRank) {
  const Enumeration alone = enumerate_standalone(catalogue, "allreduce_norm", Dtype::fp32, 4096, hopper);
  ASSERT_EQ(alone.variants.size(), 1u);
  EXPECT_EQ(alone.variants[0].world, 1);
  EXPECT_EQ(alone.variants[0].name(), "custom/epilogue:threads=64");
  // And it is never offered as a way to exchange data.
  EXPECT_TRUE(enumerate(catalogue, "allreduce", Dtype::fp32, 2, 0, hopper, Backend::custom).variants.empty());
}

TEST_F(VariantTest, RefusesBadRequests) {
  expect_error<InvalidArgument>([&] { enumerate(catalogue, "allreduce_nrom", Dtype::bf16, 2, 64, hopper); },
                                {"did you mean 'allreduce_norm'"});
  for (const int hidden : {0, -8, 4, 2049})
    expect_error<InvalidArgument>([&] { enumerate(catalogue, "allreduce_norm", Dtype::bf16, 2, hidden, hopper); },
                                  {"multiple of 8", std::to_string(hidden)});
  EXPECT_NO_THROW(enumerate(catalogue, "allreduce_norm", Dtype::fp32, 2, 4, hopper));
  for (const int world : {-1, 0, 1, 17})
    EXPECT_THROW(enumerate(catalogue, "allreduce", Dtype::bf16, world, 0, hopper), InvalidArgument);
}

TEST_F(VariantTest, UnavailableAgreesWithEnumeration) {
  for (const char* pattern : {"allreduce", "allreduce_norm"}) {
    const Enumeration all = enumerate(catalogue, pattern, Dtype::bf16, 4, 2048, hopper);
    for (const Variant& variant : all.variants) EXPECT_EQ(unavailable(catalogue, variant, hopper), std::nullopt);
    for (const Excluded& excluded : all.excluded) {
      if (excluded.variant.parameters.empty()) continue;
      EXPECT_EQ(unavailable(catalogue, excluded.variant, hopper), excluded.reason);
    }
  }
}

TEST_F(VariantTest, UnavailableExplainsForeignVariants) {
  const Variant good = enumerate(catalogue, "allreduce", Dtype::bf16, 2, 0, hopper).variants[0];
  const auto reason = [&](auto change) {
    Variant variant = good;
    change(variant);
    return unavailable(catalogue, variant, hopper).value_or("");
  };
  EXPECT_NE(reason([](Variant& v) { v.algorithm = "pull"; }).find("unknown algorithm"), std::string::npos);
  EXPECT_NE(reason([](Variant& v) { v.pattern = "x"; }).find("unknown pattern"), std::string::npos);
  EXPECT_NE(reason([](Variant& v) { v.parameters["threads"] = 96; }).find("threads=96"), std::string::npos);
  EXPECT_NE(reason([](Variant& v) { v.parameters.erase("threads"); }).find("no value for 'threads'"),
            std::string::npos);
  EXPECT_NE(reason([](Variant& v) { v.parameters["blocks"] = 8; }).find("no compile-time axis"), std::string::npos);
  EXPECT_NE(reason([](Variant& v) { v.hidden = 8; }).find("flat"), std::string::npos);
  EXPECT_NE(reason([](Variant& v) { v.world = 3; }).find("world size 3"), std::string::npos);
}

TEST_F(VariantTest, ParametersByName) {
  const Variant variant = enumerate(catalogue, "allreduce", Dtype::bf16, 2, 0, hopper).variants[1];
  EXPECT_EQ(variant.parameter("cluster"), 2);
  expect_error<InvalidArgument>([&] { variant.parameter("thread"); }, {"did you mean 'threads'?"});
}

TEST(BuiltinVariants, NamesAreUniqueAndEnumerationIsPure) {
  const Catalogue& catalogue = Catalogue::builtin();
  const TargetLimits hopper{90, 1024, {}};
  std::set<std::string> names;
  std::size_t count = 0;
  for (const std::string& pattern : catalogue.usual_patterns())
    for (const Dtype dtype : {Dtype::bf16, Dtype::fp16, Dtype::fp32})
      for (const int world : {2, 3, 4, 8})
        for (const int hidden : {2880, 4096, 7168, 8192}) {
          if (impossible(catalogue.pattern(pattern), dtype, hidden)) continue;
          const Enumeration once = enumerate(catalogue, pattern, dtype, world, hidden, hopper);
          EXPECT_EQ(once.variants, enumerate(catalogue, pattern, dtype, world, hidden, hopper).variants);
          EXPECT_FALSE(once.variants.empty()) << pattern << " world " << world << " hidden " << hidden;
          for (const Variant& variant : once.variants) names.insert(variant.full_name());
          count += once.variants.size();
          if (!catalogue.pattern(pattern).rows) break;
        }
  EXPECT_EQ(names.size(), count);
}

/// Whether ranks can exchange this with peer stores alone. The backend that needs least is asked first: it is quicker.
bool has_exchange(const std::string& pattern, Dtype dtype, int world, int hidden, const TargetLimits& limits) {
  const Catalogue& catalogue = Catalogue::builtin();
  return !enumerate(catalogue, pattern, dtype, world, hidden, limits, Backend::trtllm).variants.empty() ||
         !enumerate(catalogue, pattern, dtype, world, hidden, limits).variants.empty();
}

/// One of every kind that constraints can tell apart; the CPU device has the smallest blocks.
const TargetLimits every_target[] = {{0, 256, {}}, {80, 1024, {}}, {90, 1024, {}}, {100, 1024, {}}};
constexpr int every_world[] = {2, 3, 4, 5, 6, 7, 8, 16};

/// Hidden sizes in 16-byte vectors at which another number of threads and vectors begins to fit, those around them, and
/// some between.
TEST(BuiltinVariants, NothingNeedsMulticastOnGpusThatHaveNone) {
  for (const int sm : {80, 86, 89, 90, 100}) {
    const TargetLimits limits{sm, 1024, {"multicast"}, true};
    for (const char* pattern : {"allreduce", "allreduce_residual_rmsnorm"}) {
      for (const Variant& variant : enumerate(Catalogue::builtin(), pattern, Dtype::bf16, 4, 4096, limits).variants) {
        const AlgorithmEntry& algorithm = Catalogue::builtin().algorithm(variant.backend, variant.algorithm);
        const auto axis = variant.parameters.find("multicast");
        const bool multicast =
            !algorithm.capabilities.empty() || (axis != variant.parameters.end() && axis->second != 0);
        EXPECT_TRUE(sm >= 90 || !multicast) << variant.full_name() << " on SM " << sm;
      }
    }
  }
  const TargetLimits hopper{90, 1024, {"multicast"}};
  EXPECT_FALSE(
      enumerate(Catalogue::builtin(), "allreduce", Dtype::bf16, 4, 4096, hopper, Backend::nvls).variants.empty());
}

std::set<int> telling_row_vectors(int most) {
  std::set<int> sizes;
  for (int power = 1; power <= most; power *= 2)
    for (const int size : {power - 1, power, power + 1, power * 3 / 2}) sizes.insert(size);
  for (int size = 61; size <= most; size += 211) sizes.insert(size);
  while (!sizes.empty() && *sizes.begin() < 1) sizes.erase(sizes.begin());
  while (!sizes.empty() && *sizes.rbegin() > most) sizes.erase(*sizes.rbegin());
  return sizes;
}

TEST(BuiltinVariants, EveryHiddenSizeHasAnExchangeKernelAndAStandAloneOne) {
  const Catalogue& catalogue = Catalogue::builtin();
  for (const Dtype dtype : {Dtype::bf16, Dtype::fp32}) {
    const int elements = dtype == Dtype::fp32 ? 4 : 8;
    for (const int row_vectors : telling_row_vectors(16384 / elements)) {
      const int hidden = row_vectors * elements;
      for (const TargetLimits& limits : every_target) {
        for (const char* pattern :
             {"allreduce_residual_rmsnorm", "moe_finalize_allreduce_residual_rmsnorm_fp8_group4_fp32",
              "moe_reduce_allreduce"}) {
          for (const int world : every_world) {
            EXPECT_TRUE(has_exchange(pattern, dtype, world, hidden, limits))
                << pattern << " world " << world << " hidden " << hidden << " sm " << limits.sm;
          }
          EXPECT_FALSE(enumerate_standalone(catalogue, pattern, dtype, hidden, limits).variants.empty())
              << pattern << " hidden " << hidden << " sm " << limits.sm;
        }
      }
    }
  }
}

TEST(BuiltinVariants, EveryPatternHasAnExchangeKernel) {
  const Catalogue& catalogue = Catalogue::builtin();
  std::map<PartKind, std::vector<std::string>> parts;
  for (const PartKind kind : {PartKind::prologue, PartKind::residual, PartKind::norm, PartKind::quantisation})
    parts[kind].emplace_back();
  for (const PartEntry& part : catalogue.parts()) {
    std::string name = part.name;
    if (const std::size_t open = name.find('{'); open != std::string::npos)
      name.replace(open, name.find('}') - open + 1, "128");
    parts[part.kind].push_back(part.kind == PartKind::prologue ? name + "_" : "_" + name);
  }
  std::size_t patterns = 0;
  for (const std::string& prologue : parts[PartKind::prologue])
    for (const std::string& residual : parts[PartKind::residual])
      for (const std::string& norm : parts[PartKind::norm])
        for (const std::string& quantisation : parts[PartKind::quantisation]) {
          const std::string pattern = prologue + "allreduce" + residual + norm + quantisation;
          ++patterns;
          for (const Dtype dtype : {Dtype::bf16, Dtype::fp16, Dtype::fp32}) {
            if (impossible(catalogue.pattern(pattern), dtype, 16384)) continue;
            for (const int world : every_world)
              for (const TargetLimits& limits : every_target)
                EXPECT_TRUE(has_exchange(pattern, dtype, world, 16384, limits))
                    << pattern << " " << to_string(dtype) << " world " << world << " sm " << limits.sm;
          }
        }
  EXPECT_GE(patterns, 3U * 2 * 3 * 8);
}

}  // namespace
}  // namespace arbiter
