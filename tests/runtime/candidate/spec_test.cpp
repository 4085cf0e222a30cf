// A candidate's name and back.
#include <gtest/gtest.h>

#include <set>

#include "arbiter/error.hpp"
#include "arbiter/runtime/candidate.hpp"

namespace arbiter {
namespace {

const Catalogue& catalogue() { return Catalogue::builtin(); }

ProblemFamily fused_family() { return {"allreduce_residual_rmsnorm", Dtype::bf16, 4096, 64, Mode::graph}; }
ProblemFamily plain_family() { return {"allreduce", Dtype::fp16, 4096, 64, Mode::graph}; }

std::string refusal(std::string_view name, const ProblemFamily& family, int world = 4) {
  try {
    CandidateSpec::parse(catalogue(), name, family, world);
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  ADD_FAILURE() << "'" << name << "' was accepted";
  return {};
}

TEST(CandidateSpec, EveryKernelOfTheCatalogueSurvivesTheRoundTrip) {
  std::set<std::string> names;
  for (const ProblemFamily& family : {plain_family(), fused_family()}) {
    const bool rows = catalogue().pattern(family.pattern).rows;
    const Enumeration all =
        enumerate(catalogue(), family.pattern, family.dtype, 4, rows ? family.hidden : 0, {90, 1024, {}});
    ASSERT_FALSE(all.variants.empty());
    for (const Variant& variant : all.variants) {
      for (const int blocks : {0, 16}) {
        CandidateSpec spec;
        spec.kernel = variant;
        const bool has_blocks = catalogue().algorithm(variant.backend, variant.algorithm).axis("blocks") != nullptr;
        spec.max_blocks = has_blocks ? blocks : 0;
        const std::string name = spec.name();
        names.insert(family.pattern + name);
        EXPECT_EQ(CandidateSpec::parse(catalogue(), name, family, 4), spec) << name;
        EXPECT_EQ(spec.backend(), variant.backend);
        EXPECT_EQ(spec.algorithm(), variant.algorithm);
        EXPECT_EQ(name.find("blocks=0"), std::string::npos) << name;
      }
    }
  }
  EXPECT_GT(names.size(), 10U);
}

TEST(CandidateSpec, UnfusedAndNcclSurviveTheRoundTrip) {
  const ProblemFamily family = fused_family();
  const Enumeration epilogues =
      enumerate_standalone(catalogue(), family.pattern, family.dtype, family.hidden, {90, 1024, {}});
  const Enumeration plain = enumerate(catalogue(), "allreduce", family.dtype, 4, 0, {90, 1024, {}});
  ASSERT_FALSE(epilogues.variants.empty());
  ASSERT_FALSE(plain.variants.empty());
  CandidateSpec kernel;
  kernel.kernel = plain.variants.front();
  kernel.max_blocks = 8;
  CandidateSpec classic;
  classic.nccl = NcclKind::classic;
  CandidateSpec symmetric;
  symmetric.nccl = NcclKind::symmetric;
  for (CandidateSpec spec : {kernel, classic, symmetric}) {
    spec.epilogue = epilogues.variants.front();
    EXPECT_NE(spec.name().find("+epilogue:"), std::string::npos) << spec.name();
    EXPECT_EQ(CandidateSpec::parse(catalogue(), spec.name(), family, 4), spec) << spec.name();
  }
  EXPECT_EQ(classic.name(), "nccl/classic");
  EXPECT_EQ(symmetric.backend(), Backend::nccl);
  EXPECT_EQ(CandidateSpec::parse(catalogue(), "nccl/symmetric", plain_family(), 4), symmetric);

  CandidateSpec forced = classic;
  forced.forced = {NcclAlgorithm::ring, NcclProtocol::ll128, 8};
  EXPECT_EQ(forced.name(), "nccl/classic:algo=ring,channels=8,proto=ll128");
  EXPECT_EQ(forced.algorithm(), "classic");
  EXPECT_EQ(CandidateSpec::parse(catalogue(), forced.name(), plain_family(), 4), forced);
  EXPECT_NE(forced, classic);
}

TEST(CandidateSpec, ASingleRankCopiesOrRunsTheEpilogueAlone) {
  EXPECT_EQ(CandidateSpec::parse(catalogue(), "auto/copy", plain_family(), 1), CandidateSpec{});
  const ProblemFamily family = fused_family();
  CandidateSpec alone;
  alone.kernel =
      enumerate_standalone(catalogue(), family.pattern, family.dtype, family.hidden, {90, 1024, {}}).variants.front();
  EXPECT_EQ(CandidateSpec::parse(catalogue(), alone.name(), family, 1), alone);
  EXPECT_NE(refusal("auto/copy", plain_family(), 2).find("several ranks"), std::string::npos);
  EXPECT_NE(refusal(alone.name(), family, 2).find("exchanges no data"), std::string::npos);
}

TEST(CandidateSpec, RefusesBadNamesAndSaysWhy) {
  CandidateSpec good;
  good.kernel = enumerate(catalogue(), "allreduce", Dtype::fp16, 4, 0, {90, 1024, {}}).variants.front();
  const std::string name = good.name();
  const std::string head = name.substr(0, name.find(':'));
  EXPECT_NE(refusal("", plain_family()).find("backend/algorithm"), std::string::npos);
  EXPECT_NE(refusal("trtlm/oneshot_push", plain_family()).find("trtllm"), std::string::npos);  // did you mean
  EXPECT_NE(refusal("trtllm/oneshot_pusch", plain_family()).find("oneshot_push"), std::string::npos);
  EXPECT_NE(refusal(head, plain_family()).find("missing"), std::string::npos);
  EXPECT_NE(refusal(name + ",threads=256", plain_family()).find("twice"), std::string::npos);
  EXPECT_NE(refusal(name + ",colour=3", plain_family()).find("colour"), std::string::npos);
  EXPECT_NE(refusal(name + ",blocks=-1", plain_family()).find("blocks=-1"), std::string::npos);
  EXPECT_NE(refusal(name + ",blocks=99999", plain_family()).find("99999"), std::string::npos);
  EXPECT_NE(refusal(name + ",blocks=1x", plain_family()).find("not a number"), std::string::npos);
  EXPECT_NE(refusal(name + ",", plain_family()).find("comma"), std::string::npos);
  EXPECT_NE(refusal(name + ",blocks", plain_family()).find("axis=value"), std::string::npos);
  EXPECT_NE(
      refusal(head + ":threads=255,vectors=1,cluster=1,early_trigger=1", plain_family()).find("not in the catalogue"),
      std::string::npos);
  EXPECT_NE(refusal("nccl/fast", plain_family()).find("classic"), std::string::npos);
  EXPECT_NE(refusal("nccl/classic:threads=1", plain_family()).find("parameter"), std::string::npos);
  EXPECT_NE(refusal("nccl/classic:", plain_family()).find("colon"), std::string::npos);
  EXPECT_NE(refusal("nccl/classic:algo=ring", plain_family()).find("together"), std::string::npos);
  EXPECT_NE(refusal("nccl/symmetric:channels=4", plain_family()).find("no parameters"), std::string::npos);
  EXPECT_NE(refusal("nccl/classic", fused_family()).find("+epilogue"), std::string::npos);
  EXPECT_NE(refusal("nccl/classic+prologue:threads=256", fused_family()).find("has no prologue"), std::string::npos);
  EXPECT_NE(refusal(name + "+epilogue:threads=256,vectors=2,cluster=1,early_trigger=1", plain_family())
                .find("has no epilogue"),
            std::string::npos);
}

TEST(CandidateSpec, NoPrefixOrMutationCrashes) {
  CandidateSpec spec;
  spec.nccl = NcclKind::classic;
  const ProblemFamily family = fused_family();
  spec.epilogue =
      enumerate_standalone(catalogue(), family.pattern, family.dtype, family.hidden, {90, 1024, {}}).variants.front();
  const std::string name = spec.name();
  for (std::size_t i = 0; i <= name.size(); ++i) {
    for (const char inserted : {'\0', '+', ':', ',', '=', '/', '9', 'x'}) {
      std::string mutated = name;
      mutated.insert(i, 1, inserted);
      for (const std::string& text : {mutated, name.substr(0, i)}) {
        try {
          const CandidateSpec parsed = CandidateSpec::parse(catalogue(), text, family, 4);
          EXPECT_EQ(CandidateSpec::parse(catalogue(), parsed.name(), family, 4), parsed);
        } catch (const InvalidArgument&) {
        }
      }
    }
  }
}

}  // namespace
}  // namespace arbiter
