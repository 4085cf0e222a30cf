// Intervals: how layers of decisions become one table, and how the table is searched.
#include "communicator/dispatch.hpp"

#include <gtest/gtest.h>

#include "communicator/resolve.hpp"
#include "runtime/idle_candidate.hpp"

namespace arbiter {
namespace {

using test::IdleCandidate;

CandidateSpec spec_number(int n) {
  CandidateSpec spec;
  spec.nccl = NcclKind::classic;
  spec.max_blocks = n;
  return spec;
}

PlannedInterval interval(std::int64_t first, std::int64_t last, int n) {
  return {first, last, spec_number(n), Rule::decision, "", std::nullopt};
}

/// "1-4:1 5-9:2" for reading.
std::string text(const std::vector<PlannedInterval>& intervals) {
  std::string result;
  for (const PlannedInterval& item : intervals) {
    result += (result.empty() ? "" : " ") + std::to_string(item.tokens_min) + "-" + std::to_string(item.tokens_max) +
              ":" + std::to_string(item.spec.max_blocks);
  }
  return result;
}

TEST(Overlay, EarlierLayersWinAndLaterOnesFillTheGaps) {
  EXPECT_EQ(text(overlay({{interval(4, 8, 1), interval(16, 20, 2)}, {interval(1, 100, 3)}}, 32)),
            "1-3:3 4-8:1 9-15:3 16-20:2 21-32:3");
}

TEST(Overlay, NeighboursWithTheSameChoiceAreJoined) {
  EXPECT_EQ(text(overlay({{interval(1, 4, 1), interval(5, 9, 1), interval(10, 12, 2)}}, 12)), "1-9:1 10-12:2");
}

TEST(Overlay, IntervalsAreCutAtTheLargestTokenCount) {
  EXPECT_EQ(text(overlay({{interval(1, 4, 1), interval(5, 1000, 2)}}, 7)), "1-4:1 5-7:2");
  EXPECT_EQ(text(overlay({{interval(1, 4, 1), interval(5, 1000, 2)}}, 4)), "1-4:1");
  EXPECT_EQ(text(overlay({{interval(1, 1, 1)}}, 1)), "1-1:1");
}

TEST(Overlay, WhatNoLayerCoversStaysOut) {
  EXPECT_EQ(text(overlay({{interval(3, 4, 1)}}, 9)), "3-4:1");
  EXPECT_EQ(text(overlay({}, 9)), "");
}

TEST(Overlay, OverlapsWithinALayerAreResolvedInOrder) {
  EXPECT_EQ(text(overlay({{interval(1, 6, 1), interval(4, 9, 2)}}, 9)), "1-6:1 7-9:2");
}

TEST(Overlay, LargeNumbersDoNotOverflow) {
  constexpr std::int64_t most = INT64_MAX;
  EXPECT_EQ(text(overlay({{interval(5, most, 1)}, {interval(1, most, 2)}}, most - 1)),
            "1-4:2 5-" + std::to_string(most - 1) + ":1");
}

/// A counter that nobody reads.
CallCounter& nobody() {
  static CallCounter counter(CallCount{});
  return counter;
}

FamilyTable table_of(const ProblemFamily& family, RunnableCandidate& candidate) {
  FamilyTable table(family, Catalogue::builtin().pattern(family.pattern));
  table.append(family.max_tokens, candidate, {}, nobody(), nobody());
  return table;
}

TEST(Dispatch, EveryTokenCountFindsItsInterval) {
  IdleCandidate a, b, c;
  FamilyTable table({"allreduce", Dtype::bf16, 64, 100, Mode::graph}, Catalogue::builtin().pattern("allreduce"));
  table.append(1, a, {Rule::decision, "", {}, std::nullopt}, nobody(), nobody());
  table.append(16, b, {Rule::nearest_hidden, "", {}, std::nullopt}, nobody(), nobody());
  table.append(100, c, {Rule::heuristic, "", {}, std::nullopt}, nobody(), nobody());
  EXPECT_EQ(table.interval(1).candidate, &a);
  EXPECT_EQ(table.interval(2).candidate, &b);
  EXPECT_EQ(table.interval(16).candidate, &b);
  EXPECT_EQ(table.interval(17).candidate, &c);
  EXPECT_EQ(table.interval(100).candidate, &c);
  EXPECT_EQ(table.explanation(16).rule, Rule::nearest_hidden);
  EXPECT_EQ(table.max_elements(), 6400);
}

TEST(Dispatch, ModeIsPreferredAndOtherwiseTheOtherOneServes) {
  IdleCandidate graph, eager;
  DispatchTable table;
  table.put(table_of({"allreduce", Dtype::bf16, 64, 10, Mode::graph}, graph));
  EXPECT_EQ(table.find("allreduce", Dtype::bf16, 64, Mode::eager)->interval(1).candidate, &graph);
  table.put(table_of({"allreduce", Dtype::bf16, 64, 10, Mode::eager}, eager));
  EXPECT_EQ(table.find("allreduce", Dtype::bf16, 64, Mode::eager)->interval(1).candidate, &eager);
  EXPECT_EQ(table.find("allreduce", Dtype::bf16, 64, Mode::graph)->interval(1).candidate, &graph);
  EXPECT_EQ(table.find("allreduce", Dtype::fp16, 64, Mode::graph), nullptr);
  EXPECT_EQ(table.find("allreduce", Dtype::bf16, 65, Mode::graph), nullptr);
  EXPECT_EQ(table.find("allreduc", Dtype::bf16, 64, Mode::graph), nullptr);
}

TEST(Dispatch, TheSmallestTableThatCoversServesAFlatMessage) {
  IdleCandidate small, large, eager;
  DispatchTable table;
  table.put(table_of({"allreduce", Dtype::bf16, 8192, 100, Mode::graph}, large));
  table.put(table_of({"allreduce", Dtype::bf16, 64, 10, Mode::graph}, small));
  table.put(table_of({"allreduce", Dtype::bf16, 64, 20, Mode::eager}, eager));
  const auto serves = [&](std::int64_t elements, Mode mode) {
    const FamilyTable* found = table.covering("allreduce", Dtype::bf16, elements, mode);
    return found == nullptr ? nullptr : found->interval(1).candidate;
  };
  EXPECT_EQ(serves(640, Mode::graph), &small);
  EXPECT_EQ(serves(641, Mode::graph), &large);
  EXPECT_EQ(serves(641, Mode::eager), &eager);
  EXPECT_EQ(serves(1281, Mode::eager), &large);
  EXPECT_EQ(serves(819201, Mode::graph), nullptr);
  EXPECT_EQ(table.covering("allreduce", Dtype::fp32, 1, Mode::graph), nullptr);
}

TEST(Dispatch, APreparedFamilyReplacesItsSmallerSelf) {
  IdleCandidate old, young;
  DispatchTable table;
  table.put(table_of({"allreduce", Dtype::bf16, 64, 10, Mode::graph}, old));
  table.put(table_of({"allreduce", Dtype::bf16, 64, 20, Mode::graph}, young));
  EXPECT_EQ(table.tables().size(), 1U);
  EXPECT_EQ(table.find("allreduce", Dtype::bf16, 64, Mode::graph)->interval(5).candidate, &young);
}

}  // namespace
}  // namespace arbiter
