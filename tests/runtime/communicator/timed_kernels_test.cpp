// What is served is what was measured: kernels of another compiler are held against those that were timed.
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "candidate/loaded_kernel.hpp"
#include "communicator/resolve.hpp"
#include "runtime/communicator_fixture.hpp"
#include "runtime/forwarding_device.hpp"
#include "runtime/stored_decision.hpp"

namespace arbiter {
namespace {

using test::quiet_group_options;
using test::quiet_options;
using test::RankContext;
using test::run_ranks;

constexpr int ranks = 2;

/// A device whose compiler says what it gave the kernels. The compiler of the CPU device says nothing.
class SayingDevice final : public test::ForwardingDevice {
 public:
  SayingDevice(std::unique_ptr<Device> inner, KernelUse use) : ForwardingDevice(std::move(inner)), use_(use) {}
  std::unique_ptr<Kernel> load(const CompiledKernel& compiled, int rank) override {
    return std::make_unique<Said>(ForwardingDevice::load(compiled, rank), use_);
  }
  int resident_blocks(const Kernel& kernel, const Launch& launch) override {
    return ForwardingDevice::resident_blocks(*static_cast<const Said&>(kernel).inner, launch);
  }
  void launch(const Kernel& kernel, const Launch& launch, const void* arguments, std::size_t bytes,
              StreamHandle stream) override {
    ForwardingDevice::launch(*static_cast<const Said&>(kernel).inner, launch, arguments, bytes, stream);
  }

 private:
  struct Said final : Kernel {
    Said(std::unique_ptr<Kernel> kernel, KernelUse use) : inner(std::move(kernel)) {
      resources_.registers = use.registers;
      resources_.spill_bytes = use.spill_bytes;
    }
    const KernelResources& resources() const noexcept override { return resources_; }
    std::unique_ptr<Kernel> inner;
    KernelResources resources_;
  };
  KernelUse use_;
};

ProblemFamily family_of(const std::string& pattern = "allreduce", int hidden = 256) {
  return {pattern, Dtype::bf16, hidden, 8, Mode::graph};
}

/// For every size of the family, by an algorithm that the heuristic does not choose.
Decision decision_of(const GroupCapabilities& group, const ProblemFamily& family, const KernelUse& timed,
                     const char* algorithm = "twoshot_push") {
  Decision decision = test::stored_decision(group, family, 1, family.max_tokens, algorithm);
  decision.use = timed;
  return decision;
}

GroupCapabilities capabilities() {
  std::array<GroupCapabilities, ranks> known;
  run_ranks(ranks, [&](RankContext& context) {
    const auto group = make_group(context.bootstrap, context.device, quiet_group_options());
    known.at(static_cast<std::size_t>(context.rank)) = group->capabilities();
  });
  return known[0];
}

/// What serves one token, and what rank 0 said about decisions that do not. `here`: what the compiler of each rank
/// gives every kernel.
struct Served {
  Explanation why;
  std::string said;
};

Served serve(const std::vector<DecisionSet>& sets, const std::array<KernelUse, ranks>& here,
             const ProblemFamily& family = family_of()) {
  Served served;
  ::testing::internal::CaptureStderr();
  run_ranks(ranks, [&](RankContext& context) {
    CommunicatorOptions options = quiet_options();
    options.variables.log = "warn";
    options.decisions = share_decisions(sets);
    const auto device =
        std::make_shared<SayingDevice>(make_cpu_device(context.rank), here.at(static_cast<std::size_t>(context.rank)));
    Communicator communicator(context.bootstrap, device, options);
    communicator.prepare({&family, 1});
    const Explanation why =
        communicator.explain({family.pattern, family.dtype, family.hidden, 1, ranks, family.mode, false});
    const std::vector<std::string> everywhere = context.bootstrap->allgather(why.candidate.name + why.reason);
    EXPECT_EQ(everywhere[0], everywhere[1]) << "the ranks chose differently";
    if (context.rank == 0) served.why = why;
  });
  served.said = ::testing::internal::GetCapturedStderr();
  return served;
}

std::vector<DecisionSet> measured_with(const char* compiler, const KernelUse& timed) {
  const GroupCapabilities group = capabilities();
  Environment there = group.environment;
  if (compiler != nullptr) there.compiler_version = compiler;
  return {{there, {decision_of(group, family_of(), timed)}}};
}

constexpr KernelUse unknown{};

/// The rows of docs/database.md about the compiler.
TEST(TimedKernels, AreWhatIsServedUnderAnyCompiler) {
  struct Row {
    const char* what;
    const char* compiler;  // of the measurement; null: the one here
    KernelUse timed;
    std::array<KernelUse, ranks> here;
    Rule rule;
    const char* said;  // of what is refused
  };
  const char* const other = "a compiler of another name";
  const std::vector<Row> table = {
      {"the same compiler and the same use", nullptr, {64, 0}, {{{64, 0}, {64, 0}}}, Rule::decision, ""},
      {"another compiler, the same use", other, {64, 0}, {{{64, 0}, {64, 0}}}, Rule::nearest_environment, ""},
      {"another compiler, fewer registers", other, {64, 8}, {{{60, 8}, {62, 0}}}, Rule::nearest_environment, ""},
      {"more registers on one rank",
       other,
       {64, 0},
       {{{64, 0}, {72, 0}}},
       Rule::heuristic,
       ": this compiler gives it 72 registers, measured with 64"},
      {"a new spill",
       other,
       {64, 0},
       {{{64, 16}, {64, 0}}},
       Rule::heuristic,
       ": this compiler spills 16 bytes, measured with 0"},
      {"both",
       other,
       {64, 0},
       {{{72, 16}, {72, 16}}},
       Rule::heuristic,
       ": this compiler gives it 72 registers, measured with 64; it spills 16 bytes, measured with 0"},
      {"another build of a compiler that says the same of itself",
       nullptr,
       {64, 0},
       {{{72, 0}, {72, 0}}},
       Rule::heuristic,
       ": this compiler gives it 72 registers, measured with 64"},
      {"it is not known here", other, {64, 0}, {{unknown, unknown}}, Rule::nearest_environment, ""},
      {"it is not known of one rank", other, {64, 0}, {{{64, 0}, unknown}}, Rule::nearest_environment, ""},
      {"it was not recorded: releases count",
       other,
       unknown,
       {{{64, 0}, {64, 0}}},
       Rule::heuristic,
       "compiler_version: "},
      {"it was not recorded, the same compiler", nullptr, unknown, {{{64, 0}, {64, 0}}}, Rule::decision, ""},
  };
  for (const Row& row : table) {
    SCOPED_TRACE(row.what);
    const Served served = serve(measured_with(row.compiler, row.timed), row.here);
    EXPECT_EQ(served.why.rule, row.rule) << served.why.reason;
    EXPECT_EQ(served.why.candidate.algorithm == "twoshot_push", row.rule != Rule::heuristic);
    EXPECT_NE(served.said.find(row.said), std::string::npos) << served.said;
    EXPECT_EQ(served.said.find("decision not used: ") != std::string::npos, *row.said != '\0') << served.said;
    if (row.rule == Rule::nearest_environment) {
      EXPECT_NE(served.why.reason.find("compiler_version: "), std::string::npos) << served.why.reason;
    }
  }
}

/// A refusal is of the decision, not of the candidate.
TEST(TimedKernels, TheNextBestServesInsteadAndMayBeTheSameCandidate) {
  const GroupCapabilities group = capabilities();
  Environment there = group.environment;
  there.arbiter_version = "0.0.1";
  const std::vector<DecisionSet> next = {{group.environment, {decision_of(group, family_of(), {64, 0})}},
                                         {there, {decision_of(group, family_of(), {80, 0}, "twoshot_barrier")}}};
  EXPECT_EQ(serve(next, {{{72, 0}, {72, 0}}}).why.candidate.algorithm, "twoshot_barrier");

  const std::vector<DecisionSet> same = {{group.environment, {decision_of(group, family_of(), {64, 0})}},
                                         {there, {decision_of(group, family_of(), {80, 0})}}};
  const Served served = serve(same, {{{72, 0}, {72, 0}}});
  EXPECT_EQ(served.why.rule, Rule::nearest_environment) << served.why.reason;
  EXPECT_EQ(served.why.candidate.algorithm, "twoshot_push");

  const KernelUse fewest{1, 0};
  const std::vector<DecisionSet> heuristics = {
      {group.environment, {decision_of(group, family_of(), fewest, "oneshot_push")}}};
  const Served chosen = serve(heuristics, {{{72, 0}, {72, 0}}});
  EXPECT_EQ(chosen.why.rule, Rule::heuristic) << "it may still choose that very kernel";
  EXPECT_EQ(chosen.why.candidate.algorithm, "oneshot_push");
}

/// A kernel that does not know the length of rows is the one that was timed; one that does is another.
TEST(TimedKernels, OfAnotherHiddenSizeAreHeldAgainstItOnlyIfTheyAreTheSame) {
  const GroupCapabilities group = capabilities();
  const KernelUse fewest{1, 0};
  const std::vector<DecisionSet> flat = {{group.environment, {decision_of(group, family_of(), fewest)}}};
  const ProblemFamily wider = family_of("allreduce", 512);
  EXPECT_EQ(serve(flat, {{{72, 0}, {72, 0}}}, wider).why.rule, Rule::heuristic);

  const std::string fused = "allreduce_residual_rmsnorm";
  const std::vector<DecisionSet> rows = {{group.environment, {decision_of(group, family_of(fused), fewest)}}};
  const Served served = serve(rows, {{{72, 0}, {72, 0}}}, family_of(fused, 512));
  EXPECT_EQ(served.why.rule, Rule::nearest_hidden) << served.said;
}

/// What is shipped is asked likewise, also where the source has changed since.
TEST(TimedKernels, OfShippedDecisionsCount) {
  const GroupCapabilities group = capabilities();
  Decision changed = decision_of(group, family_of(), {64, 0});
  changed.candidate.source_hash = "of another day";
  const std::vector<DecisionSet> shipped = {{group.environment, {changed}}};
  Resolver resolver(group, {}, {}, shipped);
  const std::vector<PlannedInterval> plan = resolver.plan(family_of(), {});
  ASSERT_EQ(plan.front().rule, Rule::shipped_default);
  EXPECT_EQ(plan.front().timed, (KernelUse{64, 0}));
  const Refusals refusals = {{refusal_key(plan.front().spec, family_of(), plan.front().timed), "more registers"}};
  EXPECT_EQ(resolver.plan(family_of(), refusals).front().rule, Rule::heuristic);
  ASSERT_EQ(resolver.ignored().size(), 1U);
  EXPECT_EQ(resolver.ignored().front().reason, "more registers");
}

/// Who serves where 8-bit values may not be sent has kernels of its own.
TEST(TimedKernels, OfTheBestExactCandidateCountWhereItServes) {
  const GroupCapabilities group = capabilities();
  Decision lossy = decision_of(group, family_of(), {40, 0});
  lossy.runner_up = lossy.candidate;
  lossy.runner_up_median_us = 4;
  lossy.runner_up_use = {64, 0};
  lossy.candidate.numerics = Numerics::fp8_transport;
  const std::vector<DecisionSet> sets = {{group.environment, {lossy}}};
  Resolver resolver(group, sets, {});
  const std::vector<PlannedInterval> plan = resolver.plan(family_of(), {});
  ASSERT_TRUE(plan.front().decision);
  EXPECT_EQ(plan.front().timed, (KernelUse{64, 0}));
}

/// The largest of all ranks, as the tuner records it.
TEST(TimedKernels, RanksAgreeOnTheMost) {
  const ProblemFamily family = family_of();
  run_ranks(ranks, [&](RankContext& context) {
    const KernelUse mine = context.rank == 0 ? KernelUse{64, 24} : KernelUse{72, 0};
    const auto device = std::make_shared<SayingDevice>(make_cpu_device(context.rank), mine);
    const auto group = make_group(context.bootstrap, device, quiet_group_options());
    for (const CandidateSpec& spec : enumerate_candidates(group->capabilities(), family, {})) {
      if (!spec.kernel) continue;
      const auto candidate = load_candidate(*group, spec, family);
      EXPECT_EQ(candidate->use(), mine);
      ASSERT_TRUE(agree(*group, candidate.get()));
      EXPECT_EQ(candidate->use(), (KernelUse{72, 24}));
      break;
    }
  });
}

}  // namespace
}  // namespace arbiter
