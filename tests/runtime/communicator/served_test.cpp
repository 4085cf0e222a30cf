// Every request is served: what no kernel can take goes to NCCL with the pattern's other parts around it, and the
// reason is there for explain().
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "arbiter/error.hpp"
#include "communicator/heuristic.hpp"
#include "runtime/capabilities.hpp"

namespace arbiter {
namespace {

const std::vector<std::string>& patterns() {
  static const std::vector<std::string> all{"allreduce", "allreduce_residual_rmsnorm", "moe_reduce_allreduce",
                                            "allreduce_residual_rmsnorm_fp8_group128_ue8m0",
                                            "moe_finalize_allreduce_residual_rmsnorm_nvfp4_128x4"};
  return all;
}

void expect_nccl(const GroupCapabilities& group, const std::function<bool(const CandidateSpec&)>& usable,
                 std::string_view reason) {
  for (const std::string& name : patterns()) {
    const ProblemFamily family{name, Dtype::bf16, 1024, 4096, Mode::graph};
    std::string why_not;
    const std::vector<HeuristicStep> steps = heuristic_steps(group, family, {}, usable, &why_not);
    ASSERT_FALSE(steps.empty()) << name << ": " << why_not;
    const CandidateSpec& spec = steps.front().spec;
    EXPECT_EQ(spec.nccl, NcclKind::classic) << name;
    const Pattern pattern = Catalogue::builtin().pattern(name);
    EXPECT_EQ(spec.prologue.has_value(), pattern.has(PartKind::prologue)) << name;
    EXPECT_EQ(spec.epilogue.has_value(), pattern.has_stages()) << name;
    EXPECT_EQ(spec.prologue ? spec.prologue->pattern : "allreduce", pattern.prologue_alone());
    EXPECT_EQ(spec.epilogue ? spec.epilogue->pattern : "allreduce", pattern.without_prologue());
    EXPECT_NE(steps.front().reason.find(reason), std::string::npos) << name << ": " << steps.front().reason;
    EXPECT_EQ(CandidateSpec::parse(Catalogue::builtin(), spec.name(), family, group.size), spec) << spec.name();
    const std::vector<CandidateSpec> all = enumerate_candidates(group, family, {});
    EXPECT_NE(std::find(all.begin(), all.end(), spec), all.end()) << spec.name();
  }
}

bool any(const CandidateSpec&) { return true; }

TEST(Served, WorldsWithoutKernelsGoToNccl) {
  expect_nccl(test::with_nccl(9, true), any, "world size 9 is not built");
  expect_nccl(test::with_nccl(32, true), any, "up to 16 ranks");
}

TEST(Served, WithoutSymmetricMemoryNcclServes) {
  expect_nccl(test::with_nccl(4, false), any, "peers cannot be reached");
}

TEST(Served, WhenNoKernelLoadsNcclServes) {
  const GroupCapabilities group = test::with_nccl(4, true);
  expect_nccl(
      group, [](const CandidateSpec& spec) { return !spec.kernel; }, "none of its kernels can be loaded");
}

TEST(Served, WhereKernelsServeTheReasonIsTheirs) {
  const GroupCapabilities group = test::with_nccl(4, true);
  for (const std::string& name : patterns()) {
    const ProblemFamily family{name, Dtype::bf16, 1024, 64, Mode::graph};
    const std::vector<HeuristicStep> steps = heuristic_steps(group, family, {}, any, nullptr);
    ASSERT_FALSE(steps.empty());
    EXPECT_TRUE(steps.front().spec.kernel && steps.front().spec.fused()) << name;
    EXPECT_NE(steps.front().reason.find("expected to be fastest: 1 step,"), std::string::npos) << steps.front().reason;
  }
}

/// The algorithms, each once where it follows itself.
std::vector<std::string> chosen(const GroupCapabilities& group, const std::string& pattern,
                                const std::function<bool(const CandidateSpec&)>& usable) {
  const ProblemFamily family{pattern, Dtype::bf16, 8192, 1 << 20, Mode::graph};
  std::vector<std::string> names;
  for (const HeuristicStep& step : heuristic_steps(group, family, {}, usable, nullptr)) {
    names.push_back(step.spec.kernel
                        ? std::string(to_string(step.spec.kernel->backend)) + "/" + step.spec.kernel->algorithm
                        : step.spec.algorithm());
  }
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

/// "cluster x threads" of the steps on an algorithm.
std::vector<std::string> widths(int world, const std::string& pattern, int hidden, const std::string& algorithm,
                                const std::function<bool(const CandidateSpec&)>& usable = any) {
  const ProblemFamily family{pattern, Dtype::bf16, hidden, 1 << 20, Mode::graph};
  std::vector<std::string> widths;
  for (const HeuristicStep& step : heuristic_steps(test::with_nccl(world, true), family, {}, usable, nullptr)) {
    if (step.spec.algorithm() != algorithm) continue;
    widths.push_back(
        fmt::format("{}x{}", step.spec.kernel->parameter("cluster"), step.spec.kernel->parameter("threads")));
  }
  return widths;
}

TEST(Served, LargeMessagesHaveOneBlockARow) {
  using Widths = std::vector<std::string>;
  const char* const fused = "allreduce_residual_rmsnorm";
  EXPECT_EQ(widths(2, "allreduce", 8192, "oneshot_push"), (Widths{"1x128", "1x1024"}));
  EXPECT_EQ(widths(4, fused, 8192, "twoshot_rows"), (Widths{"8x128", "1x1024"}));
  EXPECT_EQ(widths(4, fused, 2880, "twoshot_rows"), (Widths{"4x128", "1x512"})) << "no wider than the row";
  EXPECT_EQ(widths(4, fused, 16384, "twoshot_rows"), (Widths{"8x256"})) << "no block is as wide as the row";
  const auto narrow = [](const CandidateSpec& spec) { return spec.kernel && spec.kernel->parameter("cluster") > 1; };
  EXPECT_EQ(widths(4, fused, 8192, "twoshot_rows", narrow), (Widths{"8x128"})) << "the wide one cannot be used";
}

TEST(Served, TwoRanksAreOneShotAtEverySize) {
  const GroupCapabilities group = test::with_nccl(2, true);
  EXPECT_EQ(chosen(group, "allreduce", any), std::vector<std::string>{"trtllm/oneshot_push"});
  EXPECT_EQ(chosen(group, "allreduce_residual_rmsnorm", any), std::vector<std::string>{"mnnvl/oneshot_push"});
}

TEST(Served, RowsAreSpreadOverClustersWhereThatLoads) {
  const GroupCapabilities group = test::with_nccl(4, true);
  EXPECT_EQ(chosen(group, "allreduce", any),
            (std::vector<std::string>{"trtllm/oneshot_push", "mnnvl/twoshot_rows", "mnnvl/twoshot_push"}));
  EXPECT_EQ(chosen(group, "allreduce_residual_rmsnorm", any),
            (std::vector<std::string>{"mnnvl/oneshot_push", "mnnvl/twoshot_rows", "mnnvl/twoshot_push"}));
  const auto no_cluster = [](const CandidateSpec& spec) {
    return !spec.kernel || spec.kernel->parameters.at("cluster") == 1;
  };
  EXPECT_EQ(chosen(group, "allreduce_residual_rmsnorm", no_cluster).front(), "trtllm/oneshot_push");
}

}  // namespace
}  // namespace arbiter
