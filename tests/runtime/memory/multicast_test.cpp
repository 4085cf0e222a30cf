// Multicast on the CPU device: opt-in, proven by a kernel, and the same results as without it.
#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "arbiter/error.hpp"
#include "cpu/memory.hpp"
#include "runtime/communicator_fixture.hpp"

namespace arbiter {
namespace {

using test::message_of;
using test::quiet_group_options;
using test::RankContext;
using test::run_ranks;
using test::Tensor;

GroupOptions with_multicast(bool on = true) {
  GroupOptions options = quiet_group_options();
  options.variables.multicast = on;
  return options;
}

bool uses_multicast(const CandidateSpec& spec) {
  if (!spec.kernel) return false;
  const auto axis = spec.kernel->parameters.find("multicast");
  return spec.kernel->algorithm == "multimem" || (axis != spec.kernel->parameters.end() && axis->second != 0);
}

TEST(Multicast, IsOptIn) {
  run_ranks(2, [](RankContext& context) {
    const ProblemFamily family{"allreduce", Dtype::bf16, 512, 4, Mode::graph};
    const auto off = make_group(context.bootstrap, context.device, with_multicast(false));
    EXPECT_NE(off->capabilities().multicast_reason.find("ARBITER_MULTICAST=on"), std::string::npos);
    EXPECT_FALSE(off->environment().multicast);
    std::vector<Excluded> excluded;
    for (const CandidateSpec& spec : enumerate_candidates(off->capabilities(), family, {}, &excluded)) {
      EXPECT_FALSE(uses_multicast(spec)) << spec.name();
    }
    std::set<std::string> reasons;
    for (const Excluded& item : excluded) reasons.insert(item.reason);
    EXPECT_EQ(reasons.count("it needs 'multicast', which is not proven here"), 1U);
    EXPECT_EQ(reasons.count("multicast=1 needs 'multicast', which is not proven here"), 1U);

    const Problem problem{"allreduce", Dtype::bf16, 512, 4, 2, Mode::graph, false};
    CommunicatorOptions only_nvls = test::quiet_options();
    only_nvls.variables.backend = Backend::nvls;
    {
      Communicator communicator(context.bootstrap, context.device, only_nvls);
      communicator.prepare({&family, 1});
      const std::string reason = communicator.explain(problem).reason;
      EXPECT_NE(reason.find("multicast: opt-in"), std::string::npos) << reason;
    }
    only_nvls.variables.multicast = true;
    {
      Communicator communicator(context.bootstrap, context.device, only_nvls);
      communicator.prepare({&family, 1});
      EXPECT_EQ(communicator.explain(problem).candidate.numerics, Numerics::multimem);
    }
    only_nvls.variables.numerics = NumericsPolicy::strict;
    {
      Communicator communicator(context.bootstrap, context.device, only_nvls);
      communicator.prepare({&family, 1});
      EXPECT_EQ(communicator.explain(problem).candidate.numerics, Numerics::rank_order_fp32);
    }

    const auto on = make_group(context.bootstrap, context.device, with_multicast());
    EXPECT_EQ(on->capabilities().multicast_reason, "");
    EXPECT_TRUE(on->environment().multicast);
    std::set<std::string> algorithms;
    for (const CandidateSpec& spec : enumerate_candidates(on->capabilities(), family, {})) {
      if (uses_multicast(spec)) algorithms.insert(spec.algorithm());
    }
    EXPECT_EQ(algorithms, (std::set<std::string>{"oneshot_push", "twoshot_barrier", "twoshot_push", "multimem"}));
  });
}

TEST(Multicast, RanksThatDifferInTheOptionDisagree) {
  run_ranks(2, [](RankContext& context) {
    const std::string message = message_of<Disagreement>(
        [&] { make_group(context.bootstrap, context.device, with_multicast(context.rank == 0)); });
    EXPECT_NE(message.find("ARBITER_MULTICAST"), std::string::npos) << message;
  });
}

TEST(Multicast, AnAddressStandsForAPlaceOnEveryRank) {
  std::vector<char> first(8192);
  std::vector<char> second(8192);
  const void* members[max_world] = {};
  MulticastLookup lookup;
  const void* outside = nullptr;
  {
    const MulticastRange range({first.data(), second.data()}, 8192);
    const auto* address = static_cast<const char*>(range.address());
    outside = address + 16;
    ASSERT_EQ(lookup.members(address + 4100, members), 2U);
    EXPECT_EQ(members[0], first.data() + 4100);
    EXPECT_EQ(members[1], second.data() + 4100);
    EXPECT_EQ(lookup.members(address + 8192, members), 0U);
    EXPECT_EQ(lookup.members(address - 1, members), 0U);
    EXPECT_EQ(lookup.members(first.data(), members), 0U);
    const MulticastRange other({second.data()}, 4096);  // a range that came later is found too
    EXPECT_EQ(lookup.members(other.address(), members), 1U);
  }
  lookup.doubt();
  EXPECT_EQ(lookup.members(outside, members), 0U);
}

/// Whole numbers that every dtype holds, and whose sums it holds.
std::uint16_t bits16(Dtype dtype, int value) {
  const auto x = static_cast<float>(value);
  std::uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof(bits));
  if (dtype == Dtype::bf16) return static_cast<std::uint16_t>(bits >> 16U);
  if (value == 0) return 0;
  return static_cast<std::uint16_t>((bits >> 16U & 0x8000U) | (((bits & 0x7FFFFFFFU) - 0x38000000U) >> 13U));
}
void put(Dtype dtype, void* data, std::size_t i, int value) {
  if (dtype == Dtype::fp32) {
    static_cast<float*>(data)[i] = static_cast<float>(value);
  } else {
    static_cast<std::uint16_t*>(data)[i] = bits16(dtype, value);
  }
}
bool holds(Dtype dtype, const void* data, std::size_t i, int value) {
  if (dtype == Dtype::fp32) return static_cast<const float*>(data)[i] == static_cast<float>(value);
  return static_cast<const std::uint16_t*>(data)[i] == bits16(dtype, value);
}

class MulticastKernels : public ::testing::TestWithParam<std::tuple<int, Dtype>> {};

TEST_P(MulticastKernels, EveryWorldAndDtypeIsRight) {
  const auto [ranks, dtype] = GetParam();
  run_ranks(
      ranks,
      [&, world = ranks, type = dtype](RankContext& context) {
        const auto group = make_group(context.bootstrap, context.device, with_multicast());
        constexpr int hidden = 1000;
        constexpr std::int64_t tokens = 7;
        constexpr std::size_t elements = hidden * tokens;
        const ProblemFamily family{"allreduce", type, hidden, tokens, Mode::graph};
        std::set<std::string> seen;
        std::vector<LoadRequest> requests;
        for (const CandidateSpec& spec : enumerate_candidates(group->capabilities(), family, {})) {
          const bool chunked = spec.kernel && spec.kernel->algorithm == "twoshot_chunked";
          if ((uses_multicast(spec) || chunked) && seen.insert(spec.algorithm()).second) {
            requests.push_back({spec, family});
          }
        }
        ASSERT_EQ(requests.size(), world > 2 ? 6U : 5U);  // twoshot_rows is for three ranks and more
        const std::vector<LoadResult> loaded = load_on_all_ranks(*group, requests);
        const Tensor<float> data(*context.device, elements);  // in place
        for (const LoadResult& result : loaded) {
          ASSERT_TRUE(result.candidate) << result.reason;
          const WorkspaceNeeds needs = result.candidate->needs(tokens);
          group->reserve(needs.push_bytes, needs.staging_bytes);
          for (std::size_t i = 0; i < elements; ++i) {
            put(type, data.data(), i, static_cast<int>(i % 7) - 3 + (context.rank == static_cast<int>(i % 3) ? 1 : 0));
          }
          Call call;
          call.dtype = type;
          call.hidden = hidden;
          call.tokens = tokens;
          call.input = call.output = data.data();
          result.candidate->enqueue(call, nullptr);
          group->check();
          std::size_t wrong = 0;
          for (std::size_t i = 0; i < elements; ++i) {
            const int extra = static_cast<int>(i % 3) < world ? 1 : 0;
            wrong += holds(type, data.data(), i, world * (static_cast<int>(i % 7) - 3) + extra) ? 0 : 1;
          }
          EXPECT_EQ(wrong, 0U) << result.candidate->spec().name();
        }
      },
      std::chrono::seconds(100));
}

INSTANTIATE_TEST_SUITE_P(Worlds, MulticastKernels,
                         ::testing::Values(std::tuple(2, Dtype::fp16), std::tuple(3, Dtype::bf16),
                                           std::tuple(5, Dtype::fp32), std::tuple(8, Dtype::bf16),
                                           std::tuple(16, Dtype::fp16)));

}  // namespace
}  // namespace arbiter
