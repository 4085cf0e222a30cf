// Candidates on a group: enumerated, loaded, agreed on, and bit-identical whether fused or not.
#include <gtest/gtest.h>

#include <set>

#include "arbiter/error.hpp"
#include "runtime/communicator_fixture.hpp"
#include "runtime/forwarding_device.hpp"

namespace arbiter {
namespace {

using test::quiet_group_options;
using test::RankContext;
using test::run_ranks;
using test::Tensor;

using Bits = std::uint16_t;

/// bf16 numbers of very different size, sentinel patterns, zeros of both signs and subnormals among them.
Bits awkward(int rank, std::size_t i) {
  const std::uint32_t mixed =
      (static_cast<std::uint32_t>(i) * 2654435761U) ^ (static_cast<std::uint32_t>(rank) * 40503U);
  switch (mixed % 16) {
    case 0:
      return 0x8000;  // -0
    case 1:
      return 0x0000;
    case 2:
      return 0x0001;  // subnormal
    default:
      return static_cast<Bits>(((mixed >> 8) & 0x80FF) | ((0x78U + mixed % 12) << 7));
  }
}

struct Tensors {
  Tensor<Bits> input, residual, residual_out, gamma, norm;
  Tensors(RankContext& context, const ProblemFamily& family)
      : input(*context.device, elements(family)),
        residual(*context.device, elements(family)),
        residual_out(*context.device, elements(family)),
        gamma(*context.device, static_cast<std::size_t>(family.hidden)),
        norm(*context.device, elements(family)) {
    input.fill([&](std::size_t i) { return awkward(context.rank, i); });
    residual.fill([&](std::size_t i) { return awkward(77, i); });
    gamma.fill([&](std::size_t i) { return awkward(78, i); });
    residual_out.fill([](std::size_t) { return Bits{0x7FC0}; });
    norm.fill([](std::size_t) { return Bits{0x7FC0}; });
  }
  static std::size_t elements(const ProblemFamily& family) {
    return static_cast<std::size_t>(family.max_tokens) * static_cast<std::size_t>(family.hidden);
  }
  Call call(const ProblemFamily& family, bool in_place) const {
    Call call;
    call.pattern = family.pattern;
    call.dtype = family.dtype;
    call.hidden = family.hidden;
    call.tokens = family.max_tokens;
    call.input = input.data();
    call.residual_in = residual.data();
    call.residual_out = in_place ? residual.data() : residual_out.data();
    call.gamma = gamma.data();
    call.norm_out = norm.data();
    return call;
  }
};

struct Result {
  std::vector<Bits> residual, norm;
  bool operator==(const Result&) const = default;
};

/// Load, reserve, run once.
std::optional<Result> run_candidate(Group& group, RankContext& context, const CandidateSpec& spec,
                                    const ProblemFamily& family, bool in_place) {
  const LoadRequest request{spec, family};
  std::vector<LoadResult> loaded = load_on_all_ranks(group, {&request, 1});
  if (!loaded[0].candidate) {
    ADD_FAILURE() << spec.name() << ": " << loaded[0].reason;
    return std::nullopt;
  }
  const WorkspaceNeeds needs = loaded[0].candidate->needs(family.max_tokens);
  group.reserve(needs.push_bytes, needs.staging_bytes);
  const Tensors tensors(context, family);
  loaded[0].candidate->enqueue(tensors.call(family, in_place), nullptr);
  context.device->synchronize(nullptr);
  group.check();
  return Result{(in_place ? tensors.residual : tensors.residual_out).values(), tensors.norm.values()};
}

/// One launch shape of every algorithm: enough here, the tuner verifies the rest.
std::vector<CandidateSpec> one_of_each(const std::vector<CandidateSpec>& all) {
  std::vector<CandidateSpec> chosen;
  std::set<std::string> seen;
  for (const CandidateSpec& spec : all) {
    const std::string key = std::string(to_string(spec.backend())) + spec.algorithm() + (spec.epilogue ? "+" : "");
    if (seen.insert(key).second) chosen.push_back(spec);
  }
  return chosen;
}

TEST(Candidates, FusedAndUnfusedAreBitIdenticalOnAllRanks) {
  for (const int size : {2, 3}) {
    std::vector<Result> by_rank(static_cast<std::size_t>(size));
    run_ranks(size, [&](RankContext& context) {
      const auto group = make_group(context.bootstrap, context.device, quiet_group_options());
      const ProblemFamily family{"allreduce_residual_rmsnorm", Dtype::bf16, 1032, 5, Mode::graph};
      const ProblemFamily plain{"allreduce", Dtype::bf16, 1032, 5, Mode::graph};
      const std::vector<CandidateSpec> best_plain = one_of_each(enumerate_candidates(group->capabilities(), plain, {}));
      const std::vector<CandidateSpec> candidates =
          one_of_each(enumerate_candidates(group->capabilities(), family, best_plain));
      std::size_t fused = 0;
      std::size_t unfused = 0;
      std::optional<Result> expected;
      for (const CandidateSpec& spec : candidates) {
        (spec.epilogue ? unfused : fused) += 1;
        for (const bool in_place : {false, true}) {
          const std::optional<Result> result = run_candidate(*group, context, spec, family, in_place);
          ASSERT_TRUE(result);
          if (!expected) expected = result;
          EXPECT_TRUE(*result == *expected) << spec.name() << (in_place ? " in place" : "");
        }
      }
      EXPECT_GE(fused, 3U);
      EXPECT_GE(unfused, 3U);
      by_rank[static_cast<std::size_t>(context.rank)] = *expected;
    });
    for (const Result& result : by_rank) EXPECT_TRUE(result == by_rank[0]);
  }
}

TEST(Candidates, EnumerationIsEqualOnAllRanksAndEveryNameParses) {
  std::vector<std::vector<std::string>> names(3);
  run_ranks(3, [&](RankContext& context) {
    const auto group = make_group(context.bootstrap, context.device, quiet_group_options());
    for (const char* pattern : {"allreduce", "allreduce_residual_rmsnorm"}) {
      const ProblemFamily family{pattern, Dtype::fp16, 2048, 64, Mode::graph};
      std::vector<Excluded> excluded;
      const CandidateSpec some_plain =
          heuristic(group->capabilities(), {"allreduce", Dtype::fp16, 2048, 64, Mode::graph}, 1);
      const auto candidates = enumerate_candidates(group->capabilities(), family, {&some_plain, 1}, &excluded);
      EXPECT_FALSE(candidates.empty());
      EXPECT_FALSE(excluded.empty());  // 1024 threads do not exist on the CPU device
      for (const Excluded& item : excluded) EXPECT_FALSE(item.reason.empty()) << item.variant.name();
      for (const CandidateSpec& spec : candidates) {
        EXPECT_EQ(CandidateSpec::parse(group->catalogue(), spec.name(), family, 3), spec) << spec.name();
        EXPECT_FALSE(spec.nccl) << "NCCL on the CPU device";
        names[static_cast<std::size_t>(context.rank)].push_back(std::string(pattern) + " " + spec.name());
      }
    }
  });
  EXPECT_EQ(names[0], names[1]);
  EXPECT_EQ(names[0], names[2]);
  EXPECT_EQ(std::set<std::string>(names[0].begin(), names[0].end()).size(), names[0].size()) << "a name twice";
}

TEST(Candidates, TheHeuristicIsOneShotForSmallAndTwoShotForLargeMessages) {
  run_ranks(4, [](RankContext& context) {
    const auto group = make_group(context.bootstrap, context.device, quiet_group_options());
    for (const char* pattern : {"allreduce", "allreduce_residual_rmsnorm"}) {
      const ProblemFamily family{pattern, Dtype::bf16, 2048, 1 << 20, Mode::graph};
      EXPECT_EQ(heuristic(group->capabilities(), family, 1).algorithm(), "oneshot_push");
      EXPECT_EQ(heuristic(group->capabilities(), family, 512).algorithm(), "twoshot_rows");      // 2 MiB
      EXPECT_EQ(heuristic(group->capabilities(), family, 1 << 16).algorithm(), "twoshot_push");  // 256 MiB
    }
  });
}

/// Fewer blocks of the same kernel fit here: what another register count on another rank's kernel does on GPUs.
class SmallDevice final : public test::ForwardingDevice {
 public:
  SmallDevice(std::unique_ptr<Device> inner, int blocks) : ForwardingDevice(std::move(inner)), blocks_(blocks) {}
  int resident_blocks(const Kernel&, const Launch&) override { return blocks_; }

 private:
  int blocks_;
};

TEST(Candidates, AGridLimitThatDiffersBetweenRanksBecomesTheSmallest) {
  // Without agreement the grids would differ, and the call would hang.
  std::vector<int> local(2);
  std::vector<int> agreed(2);
  run_ranks(2, [&](RankContext& context) {
    context.device = std::make_shared<SmallDevice>(make_cpu_device(context.rank), context.rank == 0 ? 4 : 2);
    const auto group = make_group(context.bootstrap, context.device, quiet_group_options());
    const ProblemFamily family{"allreduce", Dtype::bf16, 4096, 32, Mode::graph};
    CandidateSpec spec = heuristic(group->capabilities(), family, 1);
    const auto candidate = load_candidate(*group, spec, family);
    const auto index = static_cast<std::size_t>(context.rank);
    local[index] = candidate->block_limit();
    const Tensor<Bits> data(*context.device, 32 * 4096);
    data.fill([](std::size_t i) { return static_cast<Bits>(0x3F80 + (i % 4 == 0 ? 0x80 : 0)); });
    Call call;
    call.dtype = family.dtype;
    call.hidden = family.hidden;
    call.tokens = 32;
    call.input = data.data();
    call.output = data.data();
    // Not before the ranks have agreed, and not before there is a workspace.
    EXPECT_THROW(candidate->enqueue(call, nullptr), InvalidArgument);
    EXPECT_TRUE(agree(*group, candidate.get()));
    agreed[index] = candidate->block_limit();
    EXPECT_THROW(candidate->enqueue(call, nullptr), Unsupported);
    const WorkspaceNeeds needs = candidate->needs(32);
    group->reserve(needs.push_bytes, needs.staging_bytes);
    candidate->enqueue(call, nullptr);
    group->check();
    for (std::size_t i = 0; i < data.size(); ++i) ASSERT_EQ(data[i], i % 4 == 0 ? 0x4080 : 0x4000);
  });
  EXPECT_EQ(local, (std::vector<int>{4, 2}));
  EXPECT_EQ(agreed, (std::vector<int>{2, 2}));
}

TEST(Candidates, AFailureOnOneRankIsAFailureOnAll) {
  run_ranks(2, [](RankContext& context) {
    GroupOptions options = quiet_group_options();
    // Rank 1 may not compile and has no cache: it cannot load anything.
    if (context.rank == 1) {
      CacheOptions cache;
      cache.compile_on_miss = false;
      options.cache = std::make_shared<KernelCache>(cache);
    }
    const auto group = make_group(context.bootstrap, context.device, options);
    const ProblemFamily family{"allreduce", Dtype::bf16, 4096, 32, Mode::graph};
    const LoadRequest request{heuristic(group->capabilities(), family, 1), family};
    const std::vector<LoadResult> loaded = load_on_all_ranks(*group, {&request, 1});
    EXPECT_EQ(loaded[0].candidate, nullptr);
    EXPECT_NE(loaded[0].reason.find("rank 1"), std::string::npos) << loaded[0].reason;
    EXPECT_FALSE(agree(*group, nullptr));
    group->check();
  });
}

TEST(Candidates, RanksThatLoadDifferentNumbersDisagree) {
  run_ranks(2, [](RankContext& context) {
    const auto group = make_group(context.bootstrap, context.device, quiet_group_options());
    const ProblemFamily family{"allreduce", Dtype::bf16, 4096, 32, Mode::graph};
    const std::vector<LoadRequest> requests(static_cast<std::size_t>(1 + context.rank),
                                            {heuristic(group->capabilities(), family, 1), family});
    EXPECT_THROW(load_on_all_ranks(*group, requests), Disagreement);
  });
}

TEST(Candidates, WhatTheDeviceCannotDoIsRefusedWithItsReason) {
  run_ranks(2, [](RankContext& context) {
    const auto group = make_group(context.bootstrap, context.device, quiet_group_options());
    const ProblemFamily family{"allreduce", Dtype::bf16, 4096, 32, Mode::graph};
    CandidateSpec nccl;
    nccl.nccl = NcclKind::classic;
    const std::string no_nccl = test::message_of<Unsupported>([&] { load_candidate(*group, nccl, family); });
    EXPECT_NE(no_nccl.find("CPU device"), std::string::npos) << no_nccl;
    CandidateSpec other_world = heuristic(group->capabilities(), family, 1);
    other_world.kernel->world = 4;
    const std::string ranks = test::message_of<Unsupported>([&] { load_candidate(*group, other_world, family); });
    EXPECT_NE(ranks.find("4 ranks"), std::string::npos) << ranks;
    CandidateSpec threads = heuristic(group->capabilities(), family, 1);
    threads.kernel->parameters["threads"] = 1024;
    EXPECT_THROW(load_candidate(*group, threads, family), Unsupported);
  });
}

}  // namespace
}  // namespace arbiter
