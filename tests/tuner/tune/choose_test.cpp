#include "arbiter/tuner/choose.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "arbiter/error.hpp"

namespace arbiter {
namespace {

Measured measured(const std::string& name, double median_us, double half_width = 0.01, int blocks = 16,
                  Numerics numerics = Numerics::rank_order_fp32) {
  Measured result;
  result.candidate.backend = numerics == Numerics::nccl ? Backend::nccl : Backend::trtllm;
  result.candidate.algorithm = name.substr(0, name.find(':'));
  result.candidate.name = name;
  result.candidate.numerics = numerics;
  result.blocks = blocks;
  result.summary = {median_us, median_us - half_width, median_us + half_width, 30, false};
  result.use = {32 + blocks, 0};
  return result;
}

struct Row {
  const char* what;
  std::vector<Measured> candidates;
  std::string incumbent;  // empty: none
  std::string winner;
};

TEST(Choose, NearTiesNeedMoreSamplesUntilTheIntervalsAreNarrow) {
  const auto near = [](const std::vector<Measured>& all) {
    std::vector<Summary> summaries;
    for (const Measured& each : all) summaries.push_back(each.summary);
    return near_ties(summaries);
  };
  using Indices = std::vector<std::size_t>;
  EXPECT_EQ(near({}), Indices{});
  EXPECT_EQ(near({measured("a", 2.0, 0.5)}), Indices{}) << "nobody to be near to";
  EXPECT_EQ(near({measured("a", 2.0, 0.02), measured("b", 2.04, 0.02)}), (Indices{0, 1}));
  EXPECT_EQ(near({measured("a", 2.0, 0.009), measured("b", 2.04, 0.009)}), Indices{}) << "narrower than 1%";
  EXPECT_EQ(near({measured("a", 2.0, 0.001), measured("b", 2.04, 0.02)}), (Indices{0, 1})) << "in turns, so both";
  EXPECT_EQ(near({measured("a", 2.0, 0.5), measured("b", 3.0, 0.5)}), Indices{}) << "far apart";
  EXPECT_EQ(near({measured("c", 3.0, 0.5), measured("a", 2.0, 0.02), measured("b", 2.04, 0.02)}), (Indices{1, 2}));
}

/// Who may or may not be slower by 2% is measured until that is known, if the choice depends on it.
TEST(Choose, NoiseDoesNotDecideWhoIsInATie) {
  const auto doubt = [](const std::vector<Measured>& all, const char* incumbent = nullptr) {
    std::optional<Candidate> before;
    if (incumbent != nullptr) before.emplace().name = incumbent;
    return doubtful(all, before);
  };
  using Indices = std::vector<std::size_t>;
  EXPECT_EQ(doubt({}), Indices{});
  EXPECT_EQ(doubt({measured("b", 2.000, 0.005), measured("a", 2.041, 0.005)}), (Indices{0, 1}));
  EXPECT_EQ(doubt({measured("a", 2.000, 0.005), measured("b", 2.041, 0.005)}), Indices{}) << "a is chosen either way";
  EXPECT_EQ(doubt({measured("a", 2.000, 0.005), measured("b", 2.041, 0.005)}, "b"), (Indices{0, 1}))
      << "unless it defends";
  EXPECT_EQ(doubt({measured("b", 2.000, 0.005), measured("a", 2.020, 0.005)}), Indices{}) << "a tie for sure";
  EXPECT_EQ(doubt({measured("b", 2.000, 0.005), measured("a", 2.070, 0.005)}), Indices{}) << "slower for sure";
  EXPECT_EQ(doubt({measured("c", 2.000, 0.005), measured("b", 2.041, 0.005), measured("a", 2.010, 0.005)}), Indices{})
      << "a is in the tie for sure, and comes before b";

  const SampleLimits limits{30, 150, 480};
  const auto next = [&](std::vector<Measured> all, std::size_t samples) {
    for (Measured& each : all) each.summary.samples = samples;
    const NextSamples found = next_samples(all, std::nullopt, limits);
    return found.which.empty() ? 0 : found.samples;
  };
  const std::vector<Measured> open{measured("b", 2.000, 0.005), measured("a", 2.041, 0.005)};
  EXPECT_EQ(next(open, 30), 30);
  EXPECT_EQ(next(open, 120), 120);
  EXPECT_EQ(next(open, 300), 180);
  EXPECT_EQ(next(open, 480), 0);
  const std::vector<Measured> wide{measured("b", 2.000, 0.02), measured("a", 2.041, 0.02)};
  EXPECT_EQ(next(wide, 120), 30);
  EXPECT_EQ(next(wide, 150), 0) << "too noisy to become certain of anything";
  EXPECT_TRUE(next_samples(open, std::nullopt, {30, 0, 480}).which.empty());
}

TEST(Choose, AWinnerWith8BitTransportHasTheBestOfTheOthersBesideIt) {
  const ProblemFamily family{"allreduce", Dtype::bf16, 4096, 64, Mode::graph};
  const auto fp8 = [](const char* name, double us) { return measured(name, us, 0.01, 16, Numerics::fp8_transport); };
  const std::vector<SizeResult> sizes{
      {1, {measured("a", 2.0), fp8("p", 3.0), measured("b", 2.5)}},
      {2, {measured("a", 4.0), fp8("p", 3.0), measured("b", 4.5), fp8("q", 3.5)}},
      {4, {measured("a", 6.0), fp8("p", 4.0), measured("b", 5.0)}},
      {8, {fp8("p", 5.0), fp8("q", 6.0)}},
  };
  const std::vector<Decision> decisions = decide(family, 2, sizes, {});
  ASSERT_EQ(decisions.size(), 4U);
  const auto names = [&](std::size_t i) {
    return decisions[i].candidate.name + " " + (decisions[i].runner_up ? decisions[i].runner_up->name : "-");
  };
  EXPECT_EQ(names(0), "a b");
  EXPECT_EQ(names(1), "p a") << "and not q, which is faster and not allowed either";
  EXPECT_EQ(names(2), "p b") << "an interval of its own: another serves in its place";
  EXPECT_EQ(names(3), "p -") << "nothing else was measured";
  EXPECT_EQ(decisions[1].runner_up_median_us, 4.0);
}

TEST(Choose, Rules) {
  const std::vector<Row> rows{
      {"the lowest median wins beyond noise", {measured("a", 2.0), measured("b", 3.0)}, "", "a"},
      {"order does not matter", {measured("b", 3.0), measured("a", 2.0)}, "", "a"},
      {"an incumbent that is clearly slower loses", {measured("a", 2.0), measured("b", 3.0)}, "b", "a"},
      {"the incumbent stays within 2%", {measured("a", 2.00), measured("b", 2.03)}, "b", "b"},
      {"the incumbent goes beyond 2% with separate intervals", {measured("a", 2.00), measured("b", 2.06)}, "b", "a"},
      {"the incumbent stays while the intervals overlap",
       {measured("a", 2.00, 0.05), measured("b", 2.06, 0.05)},
       "b",
       "b"},
      {"but not if it is 5% slower, however noisy", {measured("a", 2.0, 1.0), measured("b", 2.2, 1.0)}, "b", "a"},
      {"an unknown incumbent changes nothing", {measured("a", 2.0), measured("b", 3.0)}, "gone", "a"},
      {"stricter numerics within noise, even if slower",
       {measured("nccl", 2.00, 0.01, 0, Numerics::nccl), measured("a", 2.02, 0.01, 64)},
       "",
       "a"},
      {"looser numerics beyond noise",
       {measured("nccl", 2.00, 0.01, 0, Numerics::nccl), measured("a", 2.20)},
       "",
       "nccl"},
      {"multimem is stricter than nccl",
       {measured("nccl", 2.0, 0.01, 0, Numerics::nccl), measured("m", 2.01, 0.01, 8, Numerics::multimem)},
       "",
       "m"},
      {"numerics come before blocks",
       {measured("m", 2.0, 0.01, 1, Numerics::multimem), measured("a", 2.01, 0.01, 132)},
       "",
       "a"},
      {"fewer blocks within noise", {measured("a", 2.00, 0.01, 132), measured("b", 2.01, 0.01, 32)}, "", "b"},
      {"the incumbent comes before fewer blocks",
       {measured("a", 2.00, 0.01, 132), measured("b", 2.01, 0.01, 32)},
       "a",
       "a"},
      {"then the name, and not noise", {measured("a", 2.01), measured("b", 2.00)}, "", "a"},
      {"then the name", {measured("b", 2.0), measured("a", 2.0)}, "", "a"},
      {"ties are with the fastest, not with each other",
       {measured("a", 2.00, 0.01, 132), measured("b", 2.03, 0.01, 64), measured("c", 2.06, 0.01, 8)},
       "",
       "b"},
      {"one candidate", {measured("a", 2.0)}, "b", "a"},
  };
  for (const Row& row : rows) {
    std::optional<Candidate> incumbent;
    if (!row.incumbent.empty()) {
      incumbent.emplace();
      incumbent->name = row.incumbent;
    }
    std::vector<Measured> candidates = row.candidates;
    std::sort(candidates.begin(), candidates.end(),
              [](const auto& a, const auto& b) { return a.candidate.name < b.candidate.name; });
    do {
      const auto choice = choose(candidates, incumbent);
      ASSERT_TRUE(choice.has_value());
      EXPECT_EQ(candidates[choice->index].candidate.name, row.winner) << row.what;
      EXPECT_FALSE(choice->reason.empty());
    } while (std::next_permutation(candidates.begin(), candidates.end(),
                                   [](const auto& a, const auto& b) { return a.candidate.name < b.candidate.name; }));
  }
}

TEST(Choose, NothingMeasuredGivesNothing) { EXPECT_FALSE(choose({}, std::nullopt).has_value()); }

TEST(TokenGrid, PowersOfTwoMidpointsAndTheEnd) {
  EXPECT_EQ(token_grid(1), (std::vector<std::int64_t>{1}));
  EXPECT_EQ(token_grid(2), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(token_grid(8), (std::vector<std::int64_t>{1, 2, 3, 4, 6, 8}));
  EXPECT_EQ(token_grid(10), (std::vector<std::int64_t>{1, 2, 3, 4, 6, 8, 10}));
  EXPECT_EQ(token_grid(13), (std::vector<std::int64_t>{1, 2, 3, 4, 6, 8, 12, 13}));
  EXPECT_EQ(token_grid(8192).size(), 26U);
  EXPECT_EQ(token_grid(INT64_MAX).back(), INT64_MAX);
  EXPECT_THROW(token_grid(0), InvalidArgument);
}

TEST(Boundary, LiesBetweenTheMeasuredSizes) {
  EXPECT_EQ(boundary(1, 2), 1);
  EXPECT_EQ(boundary(4, 16), 8);
  EXPECT_EQ(boundary(64, 96), 78);
  for (std::int64_t below = 1; below < 50; ++below) {
    for (std::int64_t above = below + 1; above < 60; ++above) {
      EXPECT_GE(boundary(below, above), below);
      EXPECT_LT(boundary(below, above), above);
    }
  }
}

TEST(Reaches, NoFartherThanWhatWasMeasured) {
  using Ranges = std::vector<TokenRange>;
  const auto of = [](const std::vector<std::int64_t>& measured) { return reaches(measured); };
  EXPECT_EQ(of({}), Ranges{});
  EXPECT_EQ(of({1}), (Ranges{{1, 1}})) << "one size";
  EXPECT_EQ(of({64}), (Ranges{{16, 64}})) << "smaller ones are alike, larger ones are not";
  EXPECT_EQ(of({1, 2, 3}), (Ranges{{1, 1}, {2, 2}, {3, 3}}));
  EXPECT_EQ(of({1, 4, 64}), (Ranges{{1, 2}, {3, 16}, {17, 64}})) << "up to 16 times apart without a gap";
  EXPECT_EQ(of({1, 128, 8192}), (Ranges{{1, 4}, {32, 512}, {2048, 8192}})) << "a tune that was cut off";
  EXPECT_EQ(of({INT64_MAX / 2, INT64_MAX}).back().last, INT64_MAX);
  // Every grid is covered from its first to its last size.
  for (const std::int64_t most : {1, 2, 7, 100, 8192}) {
    const std::vector<std::int64_t> grid = token_grid(most);
    const Ranges ranges = reaches(grid);
    std::int64_t next = 1;
    for (const TokenRange& range : ranges) {
      EXPECT_EQ(range.first, next);
      next = range.last + 1;
    }
    EXPECT_EQ(next, most + 1);
  }
}

ProblemFamily family() { return {"allreduce", Dtype::bf16, 8192, 100, Mode::graph}; }

void expect_covers(const std::vector<Decision>& decisions, std::int64_t last) {
  std::int64_t next = 1;
  for (const Decision& decision : decisions) {
    EXPECT_EQ(decision.tokens_min, next);
    EXPECT_LE(decision.tokens_min, decision.tokens_max);
    next = decision.tokens_max + 1;
  }
  EXPECT_EQ(next, last + 1);
}

TEST(Decide, MergesEqualWinnersAndEndsWhereMeasuringEnded) {
  const std::vector<SizeResult> sizes{{64, {measured("a", 9.0), measured("b", 5.0)}},
                                      {1, {measured("a", 2.0), measured("b", 3.0)}},
                                      {4, {measured("a", 2.5), measured("b", 3.0)}}};
  const std::vector<Decision> decisions = decide(family(), 2, sizes, {});
  ASSERT_EQ(decisions.size(), 2U);
  expect_covers(decisions, 64);
  EXPECT_EQ(decisions[0].candidate.name, "a");
  EXPECT_EQ(decisions[0].tokens_max, 16);  // sqrt(4 * 64)
  EXPECT_DOUBLE_EQ(decisions[0].median_us, 2.5) << "at the largest measured size of the interval";
  ASSERT_TRUE(decisions[0].runner_up.has_value());
  EXPECT_EQ(decisions[0].runner_up->name, "b");
  EXPECT_DOUBLE_EQ(decisions[0].runner_up_median_us, 3.0);
  EXPECT_EQ(decisions[0].measured_tokens, 4);
  EXPECT_EQ(decisions[0].use, (KernelUse{48, 0}));
  EXPECT_EQ(decisions[0].runner_up_use, (KernelUse{48, 0}));
  EXPECT_EQ(decisions[1].measured_tokens, 64);
  EXPECT_EQ(decisions[1].candidate.name, "b");
  EXPECT_EQ(decisions[1].tokens_max, 64) << "not 100, which was asked for";
}

TEST(Decide, WinnersNeedNotBeMonotonic) {
  const std::vector<SizeResult> sizes{{1, {measured("a", 2.0), measured("b", 3.0)}},
                                      {2, {measured("a", 3.0), measured("b", 2.0)}},
                                      {4, {measured("a", 2.0), measured("b", 3.0)}}};
  const std::vector<Decision> decisions = decide(family(), 2, sizes, {});
  ASSERT_EQ(decisions.size(), 3U);
  expect_covers(decisions, 4);
  EXPECT_EQ(decisions[2].candidate.name, "a");
}

TEST(Decide, FarApartTheSameWinnerIsTwoDecisionsWithNothingBetween) {
  const std::vector<SizeResult> sizes{{1, {measured("a", 2.0)}},
                                      {8192, {measured("a", 1164.0), measured("b", 2000.0)}}};
  const std::vector<Decision> decisions = decide(family(), 2, sizes, {});
  ASSERT_EQ(decisions.size(), 2U);
  EXPECT_EQ(decisions[0].tokens_max, 4);
  EXPECT_DOUBLE_EQ(decisions[0].median_us, 2.0);
  EXPECT_FALSE(decisions[0].runner_up.has_value());
  EXPECT_EQ(decisions[1].tokens_min, 2048);
  EXPECT_EQ(decisions[1].tokens_max, 8192);
}

/// A coin that fell at one size must not decide the next ones: two tunes would differ at all of them.
TEST(Decide, WhatWonAtANeighbouringSizeHasNoSay) {
  // At 2 both are within noise, and b has fewer blocks; a won at 1.
  const std::vector<SizeResult> sizes{{1, {measured("a", 2.0, 0.01, 132), measured("b", 3.0, 0.01, 8)}},
                                      {2, {measured("a", 2.0, 0.01, 132), measured("b", 2.0, 0.01, 8)}}};
  const std::vector<Decision> decisions = decide(family(), 2, sizes, {});
  ASSERT_EQ(decisions.size(), 2U);
  EXPECT_EQ(decisions[1].candidate.name, "b");
}

TEST(Decide, WhatWasDecidedBeforeDefendsItsPlaceAndANeighbourDoesNot) {
  const std::vector<SizeResult> sizes{{1, {measured("a", 2.0), measured("b", 3.0)}},
                                      {2, {measured("a", 2.0), measured("b", 2.01)}}};
  Decision previous;
  previous.pattern = "allreduce";
  previous.dtype = Dtype::bf16;
  previous.hidden = 8192;
  previous.world = 2;
  previous.mode = Mode::graph;
  previous.tokens_min = 1;
  previous.tokens_max = 100;
  previous.candidate.name = "b";
  std::vector<Decision> decisions = decide(family(), 2, sizes, {&previous, 1});
  ASSERT_EQ(decisions.size(), 2U);
  EXPECT_EQ(decisions[1].candidate.name, "b");

  previous.world = 4;  // another problem's decision says nothing here
  EXPECT_EQ(decide(family(), 2, sizes, {&previous, 1}).size(), 1U);
  previous.world = 2;
  previous.candidate.name = "not measured this time";
  EXPECT_EQ(decide(family(), 2, sizes, {&previous, 1}).size(), 1U) << "then the fixed order decides";
}

TEST(Decide, SizesWithoutCandidatesWereNotMeasured) {
  const std::vector<SizeResult> sizes{{1, {}}, {8, {measured("a", 2.0)}}, {64, {}}};
  const std::vector<Decision> decisions = decide(family(), 2, sizes, {});
  ASSERT_EQ(decisions.size(), 1U);
  EXPECT_EQ(decisions[0].tokens_min, 2);
  EXPECT_EQ(decisions[0].tokens_max, 8);
  EXPECT_FALSE(decisions[0].runner_up.has_value());
  EXPECT_TRUE(decide(family(), 2, {}, {}).empty());
}

}  // namespace
}  // namespace arbiter
