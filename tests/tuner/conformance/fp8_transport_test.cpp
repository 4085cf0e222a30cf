// 8-bit transport passes the conformance cases: every bit is what the host computes, on every rank, and the error is
// within its bound.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>

#include "arbiter/tuner/conformance.hpp"
#include "arbiter/tuner/verify.hpp"
#include "tuner/ranks.hpp"

namespace arbiter {
namespace {

/// The body with each rank's group, in which 8-bit transport is allowed.
void on_groups(int world, const std::function<void(Group&)>& body) {
  GroupOptions options;
  options.variables = testing::test_variables(std::chrono::seconds(20));
  options.variables.numerics = NumericsPolicy::lossy;
  options.nccl = false;
  testing::on_ranks_with(world, options, body);
}

constexpr const char* algorithms[] = {"trtllm/oneshot_push_fp8", "mnnvl/twoshot_push_fp8"};

TEST(Fp8Transport, PassesTheConformanceCases) {
  for (const int world : {2, 3}) {
    ConformanceOptions options;
    options.algorithms = {algorithms[0], algorithms[1]};
    options.areas = {"tokens", "fusion", "sentinel salt", "numerics", "grid changes"};
    ConformanceReport report;
    testing::on_devices(world, [&](std::shared_ptr<Bootstrap> bootstrap, std::shared_ptr<Device> device) {
      GroupOptions group;
      group.variables = testing::test_variables(std::chrono::seconds(20));
      group.nccl = false;
      const int rank = bootstrap->rank();
      ConformanceReport mine = run_conformance(std::move(bootstrap), std::move(device), group, options);
      if (rank == 0) report = std::move(mine);
    });
    EXPECT_GT(report.count(CaseStatus::passed), 20U);
    for (const CaseResult& item : report.cases) {
      EXPECT_NE(item.status, CaseStatus::failed)
          << item.area << ", " << item.candidate << ", " << item.detail << ": " << item.reason;
    }
  }
}

TEST(Fp8Transport, FlatMessagesOfAnyLengthAndWhatIsNotFinite) {
  on_groups(3, [](Group& group) {
    // Groups run through rows of 8 and of 200; the last is short.
    for (const Dtype dtype : {Dtype::bf16, Dtype::fp16, Dtype::fp32}) {
      for (const int hidden : {8, 200, 256}) {
        const ProblemFamily family{"allreduce", dtype, hidden, 330, Mode::graph};
        Verifier verifier(group, family);
        for (const CandidateSpec& spec : enumerate_candidates(group.capabilities(), family, {})) {
          if (numerics_of(group.catalogue(), spec) != Numerics::fp8_transport || spec.max_blocks != 0) continue;
          if (spec.kernel->parameter("threads") != 128) continue;
          const LoadRequest request{spec, family};
          LoadResult loaded = std::move(load_on_all_ranks(group, {&request, 1}).front());
          ASSERT_TRUE(loaded.candidate) << loaded.reason;
          const WorkspaceNeeds needs = loaded.candidate->needs(family.max_tokens);
          group.reserve(needs.push_bytes, needs.staging_bytes);
          for (const std::int64_t tokens : {1, 17, 330}) {
            for (const Content content : {Content::special, Content::extremes}) {
              VerifyRequest asked;
              asked.tokens = tokens;
              asked.content = content;
              asked.calls = 2;
              const Verification verdict = verifier.verify(subject_of(*loaded.candidate), asked);
              EXPECT_TRUE(verdict.ok()) << spec.name() << ", " << tokens << " of " << hidden << ": " << verdict.reason;
            }
          }
          const Verification measured = verifier.verify_before_timing(subject_of(*loaded.candidate), 64);
          EXPECT_TRUE(measured.ok()) << measured.reason;
          EXPECT_GT(measured.relative_error, 0.005);
        }
      }
    }
  });
}

TEST(Fp8Transport, AResultThatWasNotRoundedIsNoticed) {
  on_groups(2, [](Group& group) {
    const ProblemFamily family{"allreduce", Dtype::bf16, 256, 16, Mode::graph};
    Verifier verifier(group, family);
    for (const CandidateSpec& spec : enumerate_candidates(group.capabilities(), family, {})) {
      if (spec.algorithm() != "oneshot_push") continue;
      const LoadRequest request{spec, family};
      LoadResult loaded = std::move(load_on_all_ranks(group, {&request, 1}).front());
      ASSERT_TRUE(loaded.candidate) << loaded.reason;
      const WorkspaceNeeds needs = loaded.candidate->needs(family.max_tokens);
      group.reserve(needs.push_bytes, needs.staging_bytes);
      Subject subject = subject_of(*loaded.candidate);
      subject.numerics = Numerics::fp8_transport;
      subject.rounded_legs = 1;
      EXPECT_EQ(verifier.verify_before_timing(subject, 16).status, TrialStatus::wrong);
      return;
    }
    FAIL() << "oneshot_push is not there";
  });
}

}  // namespace
}  // namespace arbiter
