// Timing on the CPU device, with subjects whose duration is known.
#include "arbiter/tuner/measure.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "arbiter/error.hpp"
#include "tuner/ranks.hpp"

namespace arbiter {
namespace {

using std::chrono::microseconds;

ProblemFamily family(Mode mode) { return {"allreduce", Dtype::bf16, 64, 16, mode}; }

MeasureSettings settings() {
  MeasureSettings result = MeasureSettings::for_device(DeviceKind::cpu);
  result.max_calls = 2;
  result.replay_us = 100;
  return result;
}

/// Takes `own` microseconds on each rank.
Subject sleeper(const std::string& name, microseconds own) {
  return {name, Numerics::rank_order_fp32, [own](const Call&, StreamHandle) { std::this_thread::sleep_for(own); }, {}};
}

TEST(Measure, CallsPerReplayAdaptWithinBounds) {
  const MeasureSettings gpu = MeasureSettings::for_device(DeviceKind::cuda);
  EXPECT_EQ(calls_for(2, gpu), 200);
  EXPECT_EQ(calls_for(20, gpu), 50);
  EXPECT_EQ(calls_for(600, gpu), 2);
  EXPECT_EQ(calls_for(0, gpu), 200);
  EXPECT_LE(calls_for(1, MeasureSettings::for_device(DeviceKind::cpu)), 4);
}

TEST(Measure, ASampleIsTheSlowestRankAndEqualEverywhere) {
  testing::on_ranks(3, [&](Group& group) {
    Timing timing(group, family(Mode::eager), 4, settings(), nullptr);
    const std::size_t index = timing.add(sleeper("uneven", microseconds(group.rank() == 1 ? 3000 : 300)));
    timing.sample({&index, 1}, 2, 1);
    const Timing::Entry& entry = timing.entry(index);
    ASSERT_TRUE(entry.ok()) << entry.failure;
    ASSERT_EQ(entry.samples_us.size(), 4U);
    for (const double us : entry.samples_us) EXPECT_GE(us, 3000);
    std::vector<double> all(entry.samples_us.size() * 3);
    group.bootstrap().allgather(entry.samples_us.data(), entry.samples_us.size() * sizeof(double), all.data());
    for (std::size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], entry.samples_us[i % entry.samples_us.size()]);
  });
}

TEST(Measure, RoundsVisitAllSubjectsInChangingOrderEqualOnAllRanks) {
  std::vector<std::string> order[2];
  testing::on_ranks(2, [&](Group& group) {
    Timing timing(group, family(Mode::eager), 4, settings(), nullptr);
    std::vector<std::size_t> which;
    std::vector<std::string>& mine = order[group.rank()];
    for (const std::string name : {"a", "b", "c"}) {
      which.push_back(timing.add({name,
                                  Numerics::rank_order_fp32,
                                  [&mine, name](const Call&, StreamHandle) {
                                    if (mine.empty() || mine.back() != name) mine.push_back(name);
                                  },
                                  {}}));
    }
    mine.clear();
    timing.sample(which, 12, 7);
    for (const std::size_t index : which) EXPECT_EQ(timing.entry(index).samples_us.size(), 24U);
  });
  EXPECT_EQ(order[0], order[1]);
  EXPECT_GE(order[0].size(), 24U) << "interleaved, not one after the other";
}

TEST(Measure, AFailingSubjectIsLeftOutOnAllRanksAndTheOthersGetTheirSamples) {
  testing::on_ranks(2, [&](Group& group) {
    Timing timing(group, family(Mode::eager), 4, settings(), nullptr);
    int calls = 0;
    const std::size_t good = timing.add(sleeper("good", microseconds(50)));
    const std::size_t bad = timing.add({"bad",
                                        Numerics::rank_order_fp32,
                                        [&](const Call&, StreamHandle) {
                                          if (group.rank() == 1 && ++calls > 8) throw Unsupported("enough");
                                        },
                                        {}});
    ASSERT_TRUE(timing.entry(bad).ok());
    const std::size_t which[] = {good, bad};
    timing.sample(which, 5, 3);
    EXPECT_FALSE(timing.entry(bad).ok());
    EXPECT_NE(timing.entry(bad).failure.find("rank 1: enough"), std::string::npos) << timing.entry(bad).failure;
    EXPECT_TRUE(timing.entry(good).ok());
    EXPECT_GE(timing.entry(good).samples_us.size(), 10U);
    EXPECT_NO_THROW(group.check());
  });
}

TEST(Measure, ASlowSubjectIsGivenUpAfterItsEstimate) {
  testing::on_ranks(2, [&](Group& group) {
    Timing timing(group, family(Mode::graph), 4, settings(), nullptr);
    const std::size_t index = timing.add(sleeper("slow", microseconds(group.rank() == 0 ? 5000 : 10)), 1000);
    EXPECT_NE(timing.entry(index).failure.find("too slow"), std::string::npos);
    EXPECT_GE(timing.entry(index).estimate_us, 5000);
  });
}

TEST(Measure, GraphsOfARealKernelAreTimedAndCapturedAgainAfterRelease) {
  testing::on_ranks(2, [&](Group& group) {
    const ProblemFamily shape = family(Mode::graph);
    const LoadRequest request{enumerate_candidates(group.capabilities(), shape, {}).front(), shape};
    const LoadResult loaded = std::move(load_on_all_ranks(group, {&request, 1}).front());
    ASSERT_TRUE(loaded.candidate) << loaded.reason;
    const WorkspaceNeeds needs = loaded.candidate->needs(16);
    group.reserve(needs.push_bytes, needs.staging_bytes);
    Timing timing(group, shape, 4, settings(), nullptr);
    const std::size_t index = timing.add(subject_of(*loaded.candidate));
    timing.sample({&index, 1}, 1, 1);
    timing.release(index);
    EXPECT_EQ(timing.take_samples(index).size(), 2U);
    group.reserve(needs.push_bytes * 4 + 4096, needs.staging_bytes + 4096);  // moves the workspace
    timing.sample({&index, 1}, 1, 1);
    EXPECT_TRUE(timing.entry(index).ok()) << timing.entry(index).failure;
    EXPECT_EQ(timing.entry(index).samples_us.size(), 2U);
  });
}

/// Right when it is called, and when it is replayed with the inputs that it was captured with; blind to new ones.
TEST(Measure, AGraphThatKeepsItsFirstInputsIsWrongAndHasNoSamples) {
  testing::on_ranks(2, [&](Group& group) {
    const ProblemFamily shape = family(Mode::graph);
    const LoadRequest request{enumerate_candidates(group.capabilities(), shape, {}).front(), shape};
    const LoadResult loaded = std::move(load_on_all_ranks(group, {&request, 1}).front());
    ASSERT_TRUE(loaded.candidate) << loaded.reason;
    const WorkspaceNeeds needs = loaded.candidate->needs(16);
    group.reserve(needs.push_bytes, needs.staging_bytes);
    const std::size_t bytes = 4 * 64 * 2;
    std::vector<std::unique_ptr<DeviceMemory>> kept;
    Subject stale = subject_of(*loaded.candidate);
    stale.enqueue = [&](const Call& call, StreamHandle stream) {
      Call changed = call;
      if (group.device().capturing(stream)) {
        kept.push_back(std::make_unique<DeviceMemory>(group.device(), bytes));
        std::memcpy(kept.back()->data(), call.input, bytes);  // the CPU device's memory is the host's
        changed.input = kept.back()->data();
      }
      loaded.candidate->enqueue(changed, stream);
    };
    Verifier verifier(group, shape);
    ASSERT_TRUE(verifier.verify_before_timing(stale, 4).ok()) << "an eager check finds nothing";
    Timing timing(group, shape, 4, settings(), &verifier);
    const std::size_t wrong = timing.add(stale);
    const std::size_t right = timing.add(subject_of(*loaded.candidate));
    const std::size_t which[] = {wrong, right};
    timing.sample(which, 2, 1);
    EXPECT_EQ(timing.entry(wrong).status, TrialStatus::wrong);
    EXPECT_NE(timing.entry(wrong).failure.find("replayed with new inputs before its samples"), std::string::npos)
        << timing.entry(wrong).failure;
    EXPECT_TRUE(timing.entry(wrong).samples_us.empty());
    EXPECT_TRUE(timing.entry(right).ok()) << timing.entry(right).failure;
    EXPECT_EQ(timing.entry(right).samples_us.size(), 4U);
  });
}

TEST(Measure, WhatTurnsWrongWhileItIsTimedLosesItsSamples) {
  testing::on_ranks(2, [&](Group& group) {
    const ProblemFamily shape = family(Mode::eager);
    const LoadRequest request{enumerate_candidates(group.capabilities(), shape, {}).front(), shape};
    const LoadResult loaded = std::move(load_on_all_ranks(group, {&request, 1}).front());
    ASSERT_TRUE(loaded.candidate) << loaded.reason;
    const WorkspaceNeeds needs = loaded.candidate->needs(16);
    group.reserve(needs.push_bytes, needs.staging_bytes);
    int calls = 0;
    Subject tired = subject_of(*loaded.candidate);
    tired.enqueue = [&](const Call& call, StreamHandle stream) {
      if (++calls <= 12) loaded.candidate->enqueue(call, stream);
    };
    Verifier verifier(group, shape);
    Timing timing(group, shape, 4, settings(), &verifier);
    const std::size_t index = timing.add(tired);
    timing.sample({&index, 1}, 10, 1);
    EXPECT_EQ(timing.entry(index).status, TrialStatus::wrong) << timing.entry(index).failure;
    EXPECT_NE(timing.entry(index).failure.find("after its samples"), std::string::npos) << timing.entry(index).failure;
    EXPECT_TRUE(timing.entry(index).samples_us.empty());
  });
}

TEST(Measure, ARankWithoutMemoryFailsOnAllRanks) {
  testing::on_ranks(2, [&](Group& group) {
    // More than any machine has.
    const ProblemFamily huge{"allreduce", Dtype::fp32, 1 << 20, std::int64_t{1} << 24, Mode::graph};
    EXPECT_THROW(Timing(group, huge, std::int64_t{1} << 24, settings(), nullptr), Unavailable);
    EXPECT_NO_THROW(Timing(group, family(Mode::graph), 4, settings(), nullptr));
  });
}

}  // namespace
}  // namespace arbiter
