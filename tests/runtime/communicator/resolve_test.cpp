// Which rule chooses, and what explain() says about it.
#include "communicator/resolve.hpp"

#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <set>

#include "arbiter/error.hpp"
#include "candidate/loaded_kernel.hpp"
#include "runtime/capabilities.hpp"
#include "runtime/communicator_fixture.hpp"
#include "runtime/stored_decision.hpp"

namespace arbiter {
namespace {

using test::quiet_group_options;
using test::quiet_options;
using test::RankContext;
using test::run_ranks;
using test::stored_decision;

ProblemFamily plain_family(int hidden = 4096, std::int64_t max_tokens = 64) {
  return {"allreduce", Dtype::bf16, hidden, max_tokens, Mode::graph};
}

/// "1-16 decision twoshot_push; ..."
std::string text(const std::vector<PlannedInterval>& plan) {
  std::string result;
  for (const PlannedInterval& item : plan) {
    result += (result.empty() ? "" : "; ") + std::to_string(item.tokens_min) + "-" + std::to_string(item.tokens_max) +
              " " + std::string(to_string(item.rule)) + " " + item.spec.algorithm();
  }
  return result;
}

/// Once for what each of two ranks knows.
void with_group(const std::function<void(const GroupCapabilities&)>& body,
                NumericsPolicy numerics = NumericsPolicy::any) {
  std::array<GroupCapabilities, 2> known;
  run_ranks(2, [&](RankContext& context) {
    GroupOptions options = quiet_group_options();
    options.variables.numerics = numerics;
    const auto group = make_group(context.bootstrap, context.device, options);
    known.at(static_cast<std::size_t>(context.rank)) = group->capabilities();
  });
  for (const GroupCapabilities& group : known) body(group);
}

TEST(Resolve, DecisionsComeFirstAndTheHeuristicFillsTheRest) {
  with_group([](const GroupCapabilities& group) {
    const ProblemFamily family = plain_family();
    const std::vector<DecisionSet> sets = {
        {group.environment, {stored_decision(group, family, 5, 16, "twoshot_push")}}};
    Resolver resolver(group, sets, {});
    EXPECT_EQ(text(resolver.plan(family, {})),
              "1-4 heuristic oneshot_push; 5-16 decision twoshot_push; 17-64 heuristic oneshot_push");
    EXPECT_TRUE(resolver.ignored().empty());
    const auto plan = resolver.plan(family, {});
    ASSERT_TRUE(plan[1].decision);
    EXPECT_EQ(plan[1].decision->median_us, 3.5);
    // Another mode, dtype, pattern or world size is another problem.
    ProblemFamily other = family;
    other.mode = Mode::eager;
    EXPECT_EQ(text(resolver.plan(other, {})), "1-64 heuristic oneshot_push");
    other = family;
    other.dtype = Dtype::fp16;
    EXPECT_EQ(text(resolver.plan(other, {})), "1-64 heuristic oneshot_push");
  });
}

TEST(Resolve, TheNearestHiddenSizeServesByBytes) {
  with_group([](const GroupCapabilities& group) {
    const ProblemFamily near = plain_family(4096);
    const ProblemFamily far = plain_family(512);
    const std::vector<DecisionSet> sets = {
        {group.environment,
         {stored_decision(group, near, 1, 8, "oneshot_push"), stored_decision(group, near, 9, 32, "twoshot_push"),
          stored_decision(group, far, 1, 64, "twoshot_barrier")}}};
    Resolver resolver(group, sets, {});
    // Half the row: twice the tokens. 17 rows of 2048 lie between 8 and 9 rows of 4096: still the first interval.
    const auto plan = resolver.plan(plain_family(2048, 64), {});
    EXPECT_EQ(text(plan), "1-17 nearest_hidden oneshot_push; 18-64 nearest_hidden twoshot_push");
    EXPECT_NE(plan[0].reason.find("hidden=4096"), std::string::npos) << plan[0].reason;
    // Beyond what the nearest was measured for, the next nearest is asked, and then the heuristic.
    EXPECT_EQ(text(resolver.plan(plain_family(2048, 100), {})),
              "1-17 nearest_hidden oneshot_push; 18-64 nearest_hidden twoshot_push; 65-100 heuristic oneshot_push");
    EXPECT_EQ(text(resolver.plan(plain_family(1024, 16), {})), "1-16 nearest_hidden twoshot_barrier");
    // What was measured for no end of tokens serves no end of them, and more bytes than there are serve nothing.
    constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
    const std::vector<DecisionSet> endless = {{group.environment,
                                               {stored_decision(group, near, 1, 8, "oneshot_push"),
                                                stored_decision(group, near, 9, largest, "twoshot_push")}}};
    EXPECT_EQ(text(Resolver(group, endless, {}).plan(plain_family(2048, 64), {})),
              "1-17 nearest_hidden oneshot_push; 18-64 nearest_hidden twoshot_push");
    const std::vector<DecisionSet> beyond = {
        {group.environment, {stored_decision(group, near, largest / 2 + 2, largest, "twoshot_push")}}};
    EXPECT_EQ(text(Resolver(group, beyond, {}).plan(plain_family(2048, 64), {})), "1-64 heuristic oneshot_push");
  });
}

TEST(Resolve, TheNearestEnvironmentServesAndIsNamed) {
  with_group([](const GroupCapabilities& group) {
    const ProblemFamily family = plain_family();
    Environment near = group.environment;
    near.arbiter_version = "0.0.1";
    Environment far = near;
    far.catalogue_hash = "another";
    // The equal environment knows the middle only, the nearest some more, and the farthest everything.
    const DecisionSet equal = {group.environment, {stored_decision(group, family, 5, 8, "oneshot_push")}};
    const DecisionSet nearest = {near, {stored_decision(group, family, 1, 16, "twoshot_push")}};
    const DecisionSet farthest = {far, {stored_decision(group, family, 1, 32, "twoshot_barrier")}};
    const std::string expected =
        "1-4 nearest_environment twoshot_push; 5-8 decision oneshot_push; 9-16 nearest_environment twoshot_push; "
        "17-32 nearest_environment twoshot_barrier; 33-64 heuristic oneshot_push";
    for (const std::vector<DecisionSet>& sets :
         {std::vector<DecisionSet>{equal, nearest, farthest}, {farthest, nearest, equal}, {nearest, farthest, equal}}) {
      Resolver resolver(group, sets, {});
      const auto plan = resolver.plan(family, {});
      EXPECT_EQ(text(plan), expected);
      EXPECT_NE(plan[0].reason.find("compatible environment (arbiter_version: "), std::string::npos) << plan[0].reason;
      EXPECT_NE(plan[3].reason.find("catalogue_hash: "), std::string::npos) << plan[3].reason;
      EXPECT_TRUE(resolver.ignored().empty());
    }
    // For another hidden size the rule is that of the size, and the reason names the environment too.
    const std::vector<DecisionSet> sets = {farthest, nearest};
    const auto other = Resolver(group, sets, {}).plan(plain_family(2048, 64), {});
    EXPECT_EQ(text(other), "1-32 nearest_hidden twoshot_push; 33-64 nearest_hidden twoshot_barrier");
    EXPECT_NE(other[0].reason.find("compatible environment (arbiter_version: "), std::string::npos) << other[0].reason;
  });
}

TEST(Resolve, WhatTouchesOnlyNcclIsNothingToAKernel) {
  with_group([](const GroupCapabilities& group) {
    const ProblemFamily family = plain_family();
    Environment there = group.environment;
    there.nccl_version = "1.2.3";
    there.nccl_variables["NCCL_CUMEM_ENABLE"] = "0";
    Decision of_nccl = stored_decision(group, family, 17, 32, "twoshot_push");
    of_nccl.candidate = {Backend::nccl, "classic", "nccl/classic", Numerics::nccl, ""};
    const std::vector<DecisionSet> sets = {{there, {stored_decision(group, family, 1, 16, "twoshot_push"), of_nccl}}};
    Resolver resolver(group, sets, {});
    const auto plan = resolver.plan(family, {});
    EXPECT_EQ(text(plan), "1-16 decision twoshot_push; 17-64 heuristic oneshot_push");
    ASSERT_EQ(resolver.ignored().size(), 1U);
    EXPECT_NE(resolver.ignored()[0].decision.find("1 decisions"), std::string::npos) << resolver.ignored()[0].decision;
    EXPECT_NE(resolver.ignored()[0].reason.find("nccl_version: "), std::string::npos) << resolver.ignored()[0].reason;
  });
}

TEST(Resolve, ADecisionOfTheWholeNodeServesAPartOfIt) {
  with_group([](const GroupCapabilities& group) {
    const ProblemFamily family = plain_family();
    Environment there = group.environment;
    there.ranks_per_node += 4;
    const std::vector<DecisionSet> sets = {{there, {stored_decision(group, family, 1, 64, "twoshot_push")}}};
    Resolver resolver(group, sets, {});
    const auto plan = resolver.plan(family, {});
    EXPECT_EQ(text(plan), "1-64 nearest_environment twoshot_push");
    EXPECT_NE(plan[0].reason.find("ranks_per_node: "), std::string::npos) << plan[0].reason;
    EXPECT_TRUE(resolver.ignored().empty());
  });
}

TEST(Resolve, ShippedDefaultsServeOnTheSameHardwareWhereNothingBetterIsKnown) {
  with_group([](const GroupCapabilities& group) {
    const ProblemFamily family = plain_family();
    Environment there = group.environment;
    there.compiler_version = "a compiler of another name";
    there.nccl_variables["NCCL_ALGO"] = "Ring";
    there.ranks_per_node = 99;
    Decision renewed = stored_decision(group, family, 1, 16, "twoshot_push");
    renewed.candidate.source_hash = "";  // timed with a source that is gone
    Decision gone = stored_decision(group, family, 17, 24, "twoshot_push");
    gone.candidate.name = "mnnvl/threeshot:threads=256";
    const std::vector<DecisionSet> shipped = {
        {there, {renewed, gone, stored_decision(group, family, 25, 32, "twoshot_barrier")}}};
    const std::vector<DecisionSet> own = {{group.environment, {stored_decision(group, family, 5, 8, "oneshot_push")}}};
    Resolver resolver(group, own, {}, shipped);
    const auto plan = resolver.plan(family, {});
    EXPECT_EQ(text(plan),
              "1-4 shipped_default twoshot_push; 5-8 decision oneshot_push; 9-16 shipped_default twoshot_push; "
              "17-24 heuristic oneshot_push; 25-32 shipped_default twoshot_barrier; 33-64 heuristic oneshot_push");
    EXPECT_NE(plan[0].reason.find("shipped with Arbiter"), std::string::npos) << plan[0].reason;
    EXPECT_NE(plan[0].reason.find("source of its kernel has changed"), std::string::npos) << plan[0].reason;
    EXPECT_NE(plan[0].reason.find("NCCL_ALGO"), std::string::npos) << plan[0].reason;
    EXPECT_EQ(plan[4].reason.find("source of its kernel has changed"), std::string::npos) << plan[4].reason;
    ASSERT_EQ(resolver.ignored().size(), 1U);
    EXPECT_NE(resolver.ignored()[0].reason.find("threeshot"), std::string::npos);

    // By bytes for another hidden size, but only behind what was measured there.
    EXPECT_EQ(text(Resolver(group, {}, {}, shipped).plan(plain_family(2048, 16), {})),
              "1-16 shipped_default twoshot_push");
    EXPECT_EQ(text(Resolver(group, own, {}, shipped).plan(plain_family(2048, 16), {})),
              "1-9 shipped_default twoshot_push; 10-16 nearest_hidden oneshot_push");

    std::vector<DecisionSet> elsewhere = shipped;
    elsewhere[0].environment.gpu_name = "another processor";
    Resolver other(group, {}, {}, elsewhere);
    EXPECT_EQ(text(other.plan(family, {})), "1-64 heuristic oneshot_push");
    EXPECT_TRUE(other.ignored().empty()) << "nothing is said about what is shipped for other hardware";
  });
}

TEST(Resolve, WhatCannotBeUsedIsIgnoredWithItsReason) {
  with_group([](const GroupCapabilities& group) {
    const ProblemFamily family = plain_family();
    Decision changed = stored_decision(group, family, 1, 4, "twoshot_push");
    changed.candidate.source_hash[0] = changed.candidate.source_hash[0] == '0' ? '1' : '0';
    Decision unknown = stored_decision(group, family, 5, 8, "twoshot_push");
    unknown.candidate.name = "mnnvl/threeshot:threads=256";
    Decision no_nccl = stored_decision(group, family, 9, 12, "twoshot_push");
    no_nccl.candidate = {Backend::nccl, "classic", "nccl/classic", Numerics::nccl, ""};
    Decision good = stored_decision(group, family, 13, 16, "twoshot_push");
    Environment elsewhere = group.environment;
    elsewhere.gpu_name = "another processor";
    const std::vector<DecisionSet> sets = {{group.environment, {changed, unknown, no_nccl, good}},
                                           {elsewhere, {stored_decision(group, family, 1, 64, "twoshot_barrier")}}};
    Resolver resolver(group, sets, {});
    EXPECT_EQ(text(resolver.plan(family, {})),
              "1-12 heuristic oneshot_push; 13-16 decision twoshot_push; 17-64 heuristic oneshot_push");
    resolver.plan(family, {});  // said once, not once per plan
    ASSERT_EQ(resolver.ignored().size(), 4U);
    EXPECT_NE(resolver.ignored()[0].reason.find("another processor"), std::string::npos);
    EXPECT_NE(resolver.ignored()[1].reason.find("source of its kernel has changed"), std::string::npos);
    EXPECT_NE(resolver.ignored()[2].reason.find("threeshot"), std::string::npos);
    EXPECT_NE(resolver.ignored()[3].reason.find("NCCL"), std::string::npos);
  });
}

/// A decision for NCCL with this configuration, plain or with the stand-alone epilogue behind it.
Decision forced_decision(const GroupCapabilities& group, const ProblemFamily& family, const char* configuration) {
  CandidateSpec spec = CandidateSpec::classic_nccl();
  spec.forced = NcclConfiguration::parse(configuration);
  if (family.pattern != "allreduce") {
    spec.epilogue = enumerate_standalone(*group.catalogue, family.pattern, family.dtype, family.hidden, group.limits)
                        .variants.front();
  }
  Decision result = stored_decision(group, family, 1, 32, "oneshot_push");
  result.candidate = {Backend::nccl, "classic", spec.name(), Numerics::nccl, candidate_source_hash(group, spec)};
  return result;
}

TEST(Resolve, WithoutThePluginADecisionForForcedNcclIsNcclAsItChooses) {
  std::set<std::string> plans;
  with_group([&](const GroupCapabilities& known) {
    const GroupCapabilities group = test::with_nccl(known);
    for (const char* pattern : {"allreduce", "allreduce_residual_rmsnorm"}) {
      ProblemFamily family = plain_family();
      family.pattern = pattern;
      const std::vector<DecisionSet> sets = {
          {group.environment, {forced_decision(group, family, "algo=ring,channels=8,proto=ll128")}}};
      Resolver resolver(group, sets, {});
      const std::vector<PlannedInterval> plan = resolver.plan(family, {});
      EXPECT_EQ(text(plan), "1-32 decision classic; 33-64 heuristic oneshot_push");
      EXPECT_EQ(plan[0].spec.nccl, NcclKind::classic);
      EXPECT_FALSE(plan[0].spec.forced.forces());
      EXPECT_EQ(plan[0].spec.epilogue.has_value(), family.pattern != "allreduce") << "nothing else is left out";
      EXPECT_NE(plan[0].reason.find("cannot be told to use algo=ring"), std::string::npos) << plan[0].reason;
      EXPECT_TRUE(plan[0].decision) << "explain() still shows what was decided";
      resolver.plan(family, {});
      ASSERT_EQ(resolver.ignored().size(), 1U) << "said once";
      EXPECT_NE(resolver.ignored()[0].reason.find("cannot be told to use algo=ring,channels=8,proto=ll128: not here"),
                std::string::npos)
          << resolver.ignored()[0].reason;
      plans.insert(family.pattern + text(plan) + plan[0].spec.name());
    }
  });
  EXPECT_EQ(plans.size(), 2U) << "the same on both ranks";
}

TEST(Resolve, WithoutNcclADecisionForForcedNcclLeavesTheNextRule) {
  std::vector<DecisionSet> sets;
  const ProblemFamily family = plain_family(256, 40);
  with_group([&](const GroupCapabilities& group) {
    sets = {{group.environment, {forced_decision(group, family, "algo=tree,channels=4,proto=ll")}}};
  });
  ::testing::internal::CaptureStderr();
  run_ranks(2, [&](RankContext& context) {
    CommunicatorOptions options = quiet_options();
    options.variables.log = "warn";
    options.decisions = share_decisions(sets);
    Communicator communicator(context.bootstrap, context.device, options);
    communicator.prepare({&family, 1});
    communicator.prepare({&family, 1});
    const auto explanation = communicator.explain({"allreduce", Dtype::bf16, 256, 8, 2, Mode::graph, false});
    EXPECT_EQ(explanation.rule, Rule::heuristic);
    const std::vector<std::string> everywhere = context.bootstrap->allgather(explanation.candidate.name);
    EXPECT_EQ(everywhere[0], everywhere[1]);
  });
  const std::string said = ::testing::internal::GetCapturedStderr();
  const std::size_t first = said.find("decision not used: ");
  ASSERT_NE(first, std::string::npos) << said;
  EXPECT_NE(said.find("algo=tree,channels=4,proto=ll: it needs NCCL: "), std::string::npos) << said;
  EXPECT_EQ(said.find("decision not used: ", first + 1), std::string::npos) << "once, by one rank:\n" << said;
}

TEST(Resolve, RefusedCandidatesAreReplaced) {
  with_group([](const GroupCapabilities& group) {
    const ProblemFamily family = plain_family();
    const std::vector<DecisionSet> sets = {
        {group.environment, {stored_decision(group, family, 1, 64, "twoshot_push")}}};
    Resolver resolver(group, sets, {});
    const CandidateSpec chosen = resolver.plan(family, {}).front().spec;
    const CandidateSpec second = heuristic(group, family, 1);
    Refusals refusals = {{refusal_key(chosen, family), "rank 1: it does not compile"}};
    EXPECT_EQ(text(resolver.plan(family, refusals)), "1-64 heuristic oneshot_push");
    refusals.emplace(refusal_key(second, family), "rank 0: it does not load");
    const auto plan = resolver.plan(family, refusals);
    EXPECT_NE(plan.front().spec, second);
    // When everything is refused, the reasons are all that is left.
    for (const CandidateSpec& spec : enumerate_candidates(group, family, {})) {
      refusals.emplace(refusal_key(spec, family), "broken");
      CandidateSpec all_blocks = spec;
      all_blocks.max_blocks = 0;
      refusals.emplace(refusal_key(all_blocks, family), "broken");
    }
    const std::string message = test::message_of<Unsupported>([&] { resolver.plan(family, refusals); });
    EXPECT_NE(message.find("does not compile"), std::string::npos) << message;
  });
}

TEST(Resolve, APinnedBackendIsKeptWhereItCanServe) {
  with_group([](const GroupCapabilities& group) {
    const ProblemFamily family = plain_family();
    const std::vector<DecisionSet> sets = {{group.environment,
                                            {stored_decision(group, family, 1, 8, "oneshot_push"),
                                             stored_decision(group, family, 9, 16, "twoshot_push")}}};
    Resolver mnnvl(group, sets, {Backend::mnnvl, NumericsPolicy::any});
    EXPECT_EQ(text(mnnvl.plan(family, {})),
              "1-8 pinned twoshot_push; 9-16 decision twoshot_push; 17-64 pinned twoshot_push");
    Resolver nvls(group, sets, {Backend::nvls, NumericsPolicy::any});
    const auto plan = nvls.plan(family, {});
    EXPECT_EQ(text(plan), "1-64 fallback oneshot_push");
    EXPECT_NE(plan[0].reason.find("backend nvls"), std::string::npos) << plan[0].reason;
  });
}

TEST(Resolve, AKindOfExchangeCanBePinned) {
  with_group([](const GroupCapabilities& group) {
    const ProblemFamily family = plain_family();
    const std::vector<DecisionSet> sets = {
        {group.environment, {stored_decision(group, family, 1, 64, "twoshot_push")}}};
    Resolver oneshot(group, sets, {Backend::automatic, NumericsPolicy::any, "oneshot"});
    EXPECT_EQ(text(oneshot.plan(family, {})), "1-64 pinned oneshot_push");
    Resolver twoshot(group, sets, {Backend::mnnvl, NumericsPolicy::any, "twoshot"});
    std::int64_t covered = 0;
    for (const PlannedInterval& interval : twoshot.plan(family, {})) {
      EXPECT_EQ(interval.rule, Rule::pinned);
      EXPECT_TRUE(interval.spec.kernel && interval.spec.kernel->backend == Backend::mnnvl &&
                  interval.spec.kernel->algorithm.starts_with("twoshot"))
          << interval.spec.name();
      EXPECT_EQ(interval.tokens_min, covered + 1);
      covered = interval.tokens_max;
    }
    EXPECT_EQ(covered, family.max_tokens);
    // Where there is none of the kind, it is as if none was pinned.
    Resolver nvls(group, sets, {Backend::nvls, NumericsPolicy::any, "oneshot"});
    EXPECT_EQ(text(nvls.plan(family, {})), "1-64 fallback oneshot_push");
  });
}

TEST(Resolve, StrictNumericsLeavesOtherClassesOut) {
  with_group([](const GroupCapabilities& group) {
    const ProblemFamily family = plain_family();
    Decision other_class = stored_decision(group, family, 1, 64, "twoshot_push");
    other_class.candidate.numerics = Numerics::multimem;
    const std::vector<DecisionSet> sets = {{group.environment, {other_class}}};
    EXPECT_EQ(text(Resolver(group, sets, {}).plan(family, {})), "1-64 decision twoshot_push");
    EXPECT_EQ(text(Resolver(group, sets, {Backend::automatic, NumericsPolicy::strict}).plan(family, {})),
              "1-64 heuristic oneshot_push");
  });
}

TEST(Resolve, EightBitTransportServesOnlyWhereItIsAllowed) {
  with_group(
      [](const GroupCapabilities& group) {
        const ProblemFamily family = plain_family();
        Decision lossy = stored_decision(group, family, 1, 16, "oneshot_push_fp8");
        lossy.candidate.numerics = Numerics::fp8_transport;
        lossy.runner_up = stored_decision(group, family, 1, 1, "twoshot_push").candidate;
        lossy.runner_up_median_us = 4.5;
        Decision alone = lossy;
        alone.tokens_min = 17;
        alone.tokens_max = 64;
        alone.runner_up.reset();
        const std::vector<DecisionSet> sets = {{group.environment, {lossy, alone}}};
        const auto planned = [&](NumericsPolicy numerics) {
          return Resolver(group, sets, {Backend::automatic, numerics}).plan(family, {});
        };
        EXPECT_EQ(text(planned(NumericsPolicy::lossy)),
                  "1-16 decision oneshot_push_fp8; 17-64 decision oneshot_push_fp8");
        for (const NumericsPolicy numerics : {NumericsPolicy::any, NumericsPolicy::strict}) {
          const std::vector<PlannedInterval> plan = planned(numerics);
          EXPECT_EQ(text(plan), "1-16 decision twoshot_push; 17-64 heuristic oneshot_push");
          ASSERT_TRUE(plan[0].decision);
          EXPECT_EQ(plan[0].decision->candidate, *lossy.runner_up);
          EXPECT_EQ(plan[0].decision->median_us, 4.5);
        }
        // What is measured for another length of rows follows the same rule.
        EXPECT_EQ(text(Resolver(group, sets, {}).plan(plain_family(8192, 8), {})), "1-8 nearest_hidden twoshot_push");
        // Pinned, it is refused where it is not allowed, and the reason says what would allow it.
        Resolver pinned(group, {}, {Backend::automatic, NumericsPolicy::any, lossy.candidate.name});
        EXPECT_EQ(text(pinned.plan(plain_family(512, 4), {})), "1-4 heuristic oneshot_push");
        ASSERT_FALSE(pinned.ignored().empty());
        EXPECT_NE(pinned.ignored().front().reason.find("'lossy'"), std::string::npos)
            << pinned.ignored().front().reason;
      },
      NumericsPolicy::lossy);  // of the group: which candidates there are at all
}

TEST(Resolve, TheBuiltInChoiceSends8BitsOnlyForManyBytesAndOnlyIfItMay) {
  with_group([](const GroupCapabilities& group) {
    const ProblemFamily family = plain_family(8192, 4096);
    const auto planned = [&](NumericsPolicy numerics) {
      return Resolver(group, {}, {Backend::automatic, numerics}).plan(family, {});
    };
    for (const NumericsPolicy numerics : {NumericsPolicy::any, NumericsPolicy::strict}) {
      EXPECT_EQ(text(planned(numerics)).find("fp8"), std::string::npos) << text(planned(numerics));
    }
    const std::vector<PlannedInterval> plan = planned(NumericsPolicy::lossy);
    EXPECT_EQ(plan.front().spec.algorithm(), "oneshot_push") << text(plan);
    EXPECT_NE(plan.back().spec.algorithm().find("fp8"), std::string::npos) << text(plan);
  });
}

TEST(Resolve, TheCommunicatorUsesAndExplainsDecisions) {
  // Collect decisions from a group first, as a tune would.
  std::vector<DecisionSet> sets;
  with_group([&](const GroupCapabilities& group) {
    sets = {{group.environment, {stored_decision(group, plain_family(256), 3, 5, "twoshot_barrier")}}};
  });
  run_ranks(2, [&](RankContext& context) {
    CommunicatorOptions options = quiet_options();
    options.decisions = share_decisions(sets);
    Communicator communicator(context.bootstrap, context.device, options);
    const std::vector<ProblemFamily> families = {plain_family(256, 8)};
    communicator.prepare(families);
    const auto explain = [&](std::int64_t tokens) {
      return communicator.explain({"allreduce", Dtype::bf16, 256, tokens, 2, Mode::graph, false});
    };
    EXPECT_EQ(explain(2).rule, Rule::heuristic);
    EXPECT_EQ(explain(3).rule, Rule::decision);
    EXPECT_EQ(explain(3).candidate.name, sets[0].decisions[0].candidate.name);
    EXPECT_EQ(explain(3).candidate.source_hash, sets[0].decisions[0].candidate.source_hash);
    EXPECT_EQ(explain(5).decision->median_us, 3.5);
    EXPECT_EQ(explain(6).rule, Rule::heuristic);
    EXPECT_THROW(explain(9), Unsupported);
    EXPECT_THROW(explain(0), InvalidArgument);
    EXPECT_THROW(communicator.explain({"allreduce", Dtype::bf16, 256, 1, 3, Mode::graph, false}), InvalidArgument);
  });
}

}  // namespace
}  // namespace arbiter
