#include "tune/search.hpp"
#include "tune/schedule.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

namespace arbiter::tuning {
namespace {

CandidateSpec spec(const std::string& algorithm, int threads, int vectors, int blocks) {
  CandidateSpec result;
  Variant& kernel = result.kernel.emplace();
  kernel.backend = Backend::trtllm;
  kernel.algorithm = algorithm;
  kernel.pattern = "allreduce";
  kernel.world = 2;
  kernel.parameters = {{"threads", threads}, {"vectors", vectors}};
  result.max_blocks = blocks;
  return result;
}

CandidateSpec nccl() {
  CandidateSpec result;
  result.nccl = NcclKind::classic;
  return result;
}

std::vector<CandidateSpec> grid() {
  std::vector<CandidateSpec> specs;
  for (const std::string algorithm : {"one", "two"}) {
    for (const int threads : {256, 128, 512}) {
      for (const int vectors : {1, 2}) {
        for (const int blocks : {0, 8, 64}) specs.push_back(spec(algorithm, threads, vectors, blocks));
      }
    }
  }
  specs.push_back(nccl());
  return specs;
}

/// Where two winners tie at both sizes, the border between them may lie anywhere.
TEST(Search, AChangeOfWinnerIsHalvedWhereItMatters) {
  const auto measured = [](const char* name, double us) {
    Measured result;
    result.candidate.name = name;
    result.summary = {us, us * 0.999, us * 1.001, 30, false};
    return result;
  };
  const auto found = [&](double b_below, double a_above) {
    const std::vector<SizeResult> sizes{{16, {measured("a", 2.0), measured("b", b_below)}},
                                        {64, {measured("a", a_above), measured("b", 4.0)}}};
    const std::vector<SizeWinner> winners{{16, &sizes[0], {0, "", false}}, {64, &sizes[1], {1, "", false}}};
    const auto crossover = widest_crossover(winners, 1.1, {});
    return crossover ? crossover->middle() : 0;
  };
  EXPECT_EQ(found(2.5, 5.0), 32);
  EXPECT_EQ(found(2.02, 5.0), 32) << "b would do below, but not a above";
  EXPECT_EQ(found(2.5, 4.02), 32);
  EXPECT_EQ(found(2.02, 4.02), 0);
}

TEST(Search, FindsByNameAndAddsOnce) {
  SearchSpace space(grid());
  const std::size_t size = space.size();
  EXPECT_EQ(size, 37U);
  EXPECT_EQ(space.group_count(), 3U);
  EXPECT_EQ(space.add(nccl()), 36U);
  EXPECT_EQ(space.size(), size);
  EXPECT_EQ(space.find("nccl/classic"), 36U);
  EXPECT_FALSE(space.find("nccl/none").has_value());
}

TEST(Search, NeighboursAreOneStepAwayAndOfTheSameAlgorithm) {
  const SearchSpace space(grid());
  const std::size_t start = *space.find(spec("one", 256, 1, 8).name());
  const std::vector<std::size_t> adjacent = space.adjacent(start);
  const auto has = [&](const CandidateSpec& other) {
    return std::count(adjacent.begin(), adjacent.end(), *space.find(other.name())) == 1;
  };
  EXPECT_TRUE(has(spec("one", 128, 1, 8)));
  EXPECT_TRUE(has(spec("one", 512, 1, 8)));
  EXPECT_TRUE(has(spec("one", 256, 2, 8)));
  EXPECT_TRUE(has(spec("one", 256, 1, 64)));
  EXPECT_TRUE(has(spec("one", 128, 2, 8))) << "two axes at once: constraints may tie them";
  EXPECT_FALSE(has(spec("one", 256, 1, 0))) << "no limit lies beyond 64";
  EXPECT_FALSE(has(spec("two", 256, 1, 64)));
  EXPECT_FALSE(has(spec("one", 256, 1, 8)));
  EXPECT_TRUE(space.adjacent(*space.find("nccl/classic")).empty());
  // Those along one axis come first.
  EXPECT_EQ(space.spec(adjacent.front()).kernel->parameters.at("vectors") == 1 ||
                space.spec(adjacent.front()).kernel->parameters.at("threads") == 256,
            true);
}

TEST(Search, NcclConfigurationsAreNeighboursToo) {
  std::vector<CandidateSpec> specs = {nccl()};
  const auto told = [](NcclAlgorithm algorithm, int channels, NcclProtocol protocol) {
    CandidateSpec result = nccl();
    result.forced = {algorithm, protocol, channels};
    return result;
  };
  for (const NcclAlgorithm algorithm : {NcclAlgorithm::ring, NcclAlgorithm::tree}) {
    for (const NcclProtocol protocol : {NcclProtocol::ll, NcclProtocol::ll128, NcclProtocol::simple}) {
      for (const int channels : {4, 8, 16}) specs.push_back(told(algorithm, channels, protocol));
    }
  }
  const SearchSpace space(specs);
  EXPECT_EQ(space.group_count(), 1U);
  const std::vector<std::size_t> adjacent =
      space.adjacent(*space.find(told(NcclAlgorithm::ring, 8, NcclProtocol::ll).name()));
  const std::set<std::size_t> next(adjacent.begin(), adjacent.end());
  for (const CandidateSpec& near :
       {told(NcclAlgorithm::ring, 4, NcclProtocol::ll), told(NcclAlgorithm::ring, 16, NcclProtocol::ll),
        told(NcclAlgorithm::tree, 8, NcclProtocol::ll), told(NcclAlgorithm::ring, 8, NcclProtocol::ll128)}) {
    EXPECT_TRUE(next.contains(*space.find(near.name()))) << near.name();
  }
  EXPECT_FALSE(next.contains(*space.find(told(NcclAlgorithm::tree, 16, NcclProtocol::ll128).name())));
  EXPECT_FALSE(next.contains(*space.find(told(NcclAlgorithm::ring, 8, NcclProtocol::simple).name())));
}

TEST(Search, NeighboursAreMutual) {
  const SearchSpace space(grid());
  for (std::size_t i = 0; i < space.size(); ++i) {
    for (const std::size_t j : space.adjacent(i)) {
      const std::vector<std::size_t> back = space.adjacent(j);
      EXPECT_NE(std::find(back.begin(), back.end(), i), back.end()) << space.name(i) << " and " << space.name(j);
    }
  }
}

TEST(Search, SpreadVisitsEveryAlgorithmFirstAndEverythingOnce) {
  const SearchSpace space(grid());
  const std::vector<std::size_t> order = space.spread();
  EXPECT_EQ(std::set<std::size_t>(order.begin(), order.end()).size(), space.size());
  ASSERT_EQ(order.size(), space.size());
  EXPECT_EQ(order[0], 0U) << "the catalogue's default";
  std::set<std::size_t> groups;
  for (int i = 0; i < 3; ++i) groups.insert(space.group(order[static_cast<std::size_t>(i)]));
  EXPECT_EQ(groups.size(), 3U);
  // The second of an algorithm is far from its first.
  std::size_t second = 0;
  for (const std::size_t index : order) {
    if (space.group(index) == 0 && index != 0) {
      second = index;
      break;
    }
  }
  const std::vector<std::size_t> near = space.adjacent(0);
  EXPECT_EQ(std::find(near.begin(), near.end(), second), near.end());
}

TEST(Search, SuggestionsComeFromTheNeighbours) {
  const SearchSpace space(grid());
  const double infinity = std::numeric_limits<double>::infinity();
  const std::size_t two = *space.find(spec("two", 256, 1, 0).name()), classic = *space.find("nccl/classic");
  const Screened below{{0, 2.0}, {1, 2.5}, {2, 3.5}, {3, infinity}, {two, 5.0}, {classic, 9.0}};
  const Screened* one[] = {&below};
  EXPECT_EQ(suggested(space, one, 10), (std::vector<std::size_t>{0, two, 1}))
      << "the best of an algorithm within 3x, then what is within 1.5x; NCCL at 4.5x and the broken one are out";
  const Screened above{{2, 10.0}, {0, 12.0}, {classic, 11.0}};
  const Screened* both[] = {&below, &above};
  const std::vector<std::size_t> all = suggested(space, both, 10);
  EXPECT_NE(std::find(all.begin(), all.end(), 2U), all.end()) << "the best at the other neighbour";
  EXPECT_NE(std::find(all.begin(), all.end(), classic), all.end());
  EXPECT_EQ(suggested(space, both, 2).size(), 2U);
  EXPECT_TRUE(suggested(space, {}, 10).empty());
}

TEST(Search, CoarseToFineVisitsEverySizeOnce) {
  for (std::size_t count = 0; count < 70; ++count) {
    const std::vector<std::size_t> order = coarse_to_fine(count);
    ASSERT_EQ(order.size(), count);
    EXPECT_EQ(std::set<std::size_t>(order.begin(), order.end()).size(), count);
    if (count < 3) continue;
    EXPECT_EQ(order[0], 0U);
    EXPECT_EQ(order[1], count / 2);
    EXPECT_EQ(order[2], count - 1);
    // After any number of steps, the largest gap is at most a few times the smallest possible one.
    std::set<std::size_t> seen;
    for (std::size_t steps = 1; steps <= count; ++steps) {
      seen.insert(order[steps - 1]);
      if (steps < 3) continue;
      std::size_t gap = 0, last = 0;
      for (const std::size_t index : seen) {
        gap = std::max(gap, index - last);
        last = index;
      }
      EXPECT_LE(gap, 4 * count / steps + 2) << count << " sizes after " << steps;
    }
  }
}

}  // namespace
}  // namespace arbiter::tuning
