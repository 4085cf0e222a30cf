// The built-in choice, held against what was measured: where nothing is tuned, the algorithm that it expects to be
// fastest must be within 1.2 times of the one that is.
#include "communicator/costs.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "communicator/heuristic.hpp"
#include "runtime/communicator_fixture.hpp"

namespace arbiter {
namespace {

constexpr int hidden = 8192;

Environment h200() {
  Environment environment;
  environment.device = "cuda";
  environment.compute_capability = 90;
  environment.sm_count = 132;
  environment.topology = "nvlink_switch";
  return environment;
}

struct Point {
  int world = 0;
  std::string pattern;
  std::int64_t tokens = 0;
  auto operator<=>(const Point&) const = default;
};
using Times = std::map<std::string, double>;  // by algorithm

std::map<Point, Times> measured() {
  std::map<Point, Times> points;
  std::ifstream file(ARBITER_MEASURED);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("#")) continue;
    std::istringstream fields(line);
    Point point;
    std::string algorithm;
    double us = 0;
    fields >> point.world >> point.pattern >> point.tokens >> algorithm >> us;
    EXPECT_FALSE(fields.fail()) << line;
    points[point][algorithm] = us;
  }
  return points;
}

/// By the catalogue's default of each algorithm, as the built-in choice does it on GPUs.
std::string expected(const Point& point) {
  const Catalogue& catalogue = Catalogue::builtin();
  const Pattern pattern = catalogue.pattern(point.pattern);
  const MachineFigures machine = machine_figures(h200());
  std::map<std::string, double> us;
  for (const Variant& variant :
       enumerate(catalogue, point.pattern, Dtype::bf16, point.world, hidden, {90, 1024, {}}).variants) {
    const AlgorithmEntry& entry = catalogue.algorithm(variant.backend, variant.algorithm);
    if (entry.numerics == Numerics::fp8_transport) continue;  // not measured yet, and only where it is asked for
    us.emplace(std::string(to_string(variant.backend)) + "/" + variant.algorithm,
               expected_us(entry, variant, pattern, point.tokens * hidden * 2, machine));
  }
  return std::min_element(us.begin(), us.end(), [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

// With few multiprocessors (ARBITER_MAX_SMS) a message takes many iterations of them sooner, and wide blocks for that.
TEST(Costs, ABoundOfMultiprocessorsWantsWideBlocks) {
  GroupCapabilities group;
  group.size = 2;
  group.environment = h200();
  group.limits = {90, 1024, {}};
  group.symmetric_provider = SymmetricProvider::vmm;
  const ProblemFamily family{"allreduce", Dtype::bf16, 8192, 8192, Mode::graph};
  const auto threads = [&](int sms, std::int64_t tokens) {
    group.environment.sm_count = sms;
    return heuristic(group, family, tokens).kernel->parameter("threads");
  };
  EXPECT_LT(threads(132, 64), 1024);  // 1 MiB: half of them hold it at once
  EXPECT_EQ(threads(16, 64), 1024);
  EXPECT_EQ(threads(16, 1), threads(132, 1)) << "a row fits both";
}

TEST(Costs, TheExpectedWinnerIsNearTheMeasuredOne) {
  const std::map<Point, Times> points = measured();
  ASSERT_GT(points.size(), 100U);
  for (const auto& [point, times] : points) {
    const std::string chosen = expected(point);
    const auto best =
        std::min_element(times.begin(), times.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    ASSERT_EQ(times.count(chosen), 1U) << point.world << " ranks, " << point.pattern << ", " << point.tokens
                                       << " tokens: " << chosen << " was not measured";
    EXPECT_LE(times.at(chosen), 1.2 * best->second)
        << point.world << " ranks, " << point.pattern << ", " << point.tokens << " tokens: " << chosen
        << " was expected to be fastest, " << best->first << " is";
  }
}

struct Loss {
  int points = 0, chosen = 0;  ///< where something was measured, and where what is chosen was
  double log_sum = 0, worst = 1;
  std::string worst_at;
  double mean() const { return std::exp(log_sum / chosen); }
};

/// What the built-in choice loses to the best that was measured, by the number of ranks.
std::map<int, Loss> losses() {
  using Point4 = std::tuple<int, std::string, int, std::int64_t>;
  std::map<Point4, Times> points;  // by candidate
  std::ifstream file(ARBITER_MEASURED_CANDIDATES);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("#")) continue;
    std::istringstream fields(line);
    auto [world, pattern, row, tokens] = Point4{};
    std::string candidate;
    double us = 0;
    fields >> world >> pattern >> row >> tokens >> candidate >> us;
    EXPECT_FALSE(fields.fail()) << line;
    points[{world, pattern, row, tokens}][candidate] = us;
  }
  std::map<int, Loss> all;
  for (const auto& [point, times] : points) {
    const auto& [world, pattern, row, tokens] = point;
    GroupCapabilities group;
    group.size = world;
    group.environment = h200();
    group.limits = {90, 1024, {}};
    group.symmetric_provider = SymmetricProvider::vmm;
    const std::string chosen = heuristic(group, {pattern, Dtype::bf16, row, 8192, Mode::graph}, tokens).name();
    Loss& loss = all[world];
    ++loss.points;
    const auto found = times.find(chosen);
    if (found == times.end()) continue;
    ++loss.chosen;
    const double best = std::min_element(times.begin(), times.end(), [](const auto& a, const auto& b) {
                          return a.second < b.second;
                        })->second;
    const double ratio = found->second / best;
    loss.log_sum += std::log(ratio);
    if (ratio <= loss.worst) continue;
    loss.worst = ratio;
    loss.worst_at = pattern + ", " + std::to_string(tokens) + " tokens: " + chosen;
  }
  return all;
}

TEST(Costs, TheBuiltInCandidateIsNearTheBestThatWasMeasured) {
  const std::map<int, Loss> all = losses();
  ASSERT_EQ(all.size(), 2U);
  for (const auto& [world, loss] : all) {
    EXPECT_GE(loss.chosen, loss.points * 3 / 4) << world << " ranks: too little of what is chosen was measured";
    EXPECT_LE(loss.mean(), 1.009) << world << " ranks";
    EXPECT_LE(loss.worst, 1.06) << world << " ranks, " << loss.worst_at;
  }
}

TEST(Costs, TheWinnerChangesWhereItWasMeasuredToChange) {
  const auto first = [](int world, const char* pattern, const std::string& algorithm) {
    std::int64_t tokens = 1;
    while (tokens < 8192 && expected({world, pattern, tokens}) != algorithm) ++tokens;
    return tokens;
  };
  const auto between = [](std::int64_t tokens, std::int64_t from, std::int64_t to) {
    return tokens >= from && tokens <= to;
  };
  const char* const fused = "allreduce_residual_rmsnorm";
  for (const std::int64_t tokens : {1, 64, 8192}) {  // with two ranks two-shot moves as many bytes in more steps
    EXPECT_EQ(expected({2, "allreduce", tokens}), "trtllm/oneshot_push");
    EXPECT_EQ(expected({2, fused, tokens}), "mnnvl/oneshot_push");
  }
  EXPECT_EQ(expected({4, "allreduce", 1}), "trtllm/oneshot_push");
  EXPECT_EQ(expected({4, fused, 1}), "mnnvl/oneshot_push");
  EXPECT_PRED3(between, first(4, "allreduce", "mnnvl/twoshot_rows"), 10, 14);
  EXPECT_PRED3(between, first(4, "allreduce", "mnnvl/twoshot_push"), 200, 320);
  EXPECT_PRED3(between, first(4, fused, "mnnvl/twoshot_rows"), 10, 14);
  EXPECT_PRED3(between, first(4, fused, "mnnvl/twoshot_push"), 700, 1100);
}

TEST(Costs, ComeFromTheCatalogueAndTheMachine) {
  const Catalogue& catalogue = Catalogue::builtin();
  const Pattern pattern = catalogue.pattern("allreduce");
  const MachineFigures machine = machine_figures(h200());
  const Variant variant = enumerate(catalogue, "allreduce", Dtype::bf16, 4, hidden, {90, 1024, {}}).variants.front();
  AlgorithmEntry entry = catalogue.algorithm(variant.backend, variant.algorithm);
  const double before = expected_us(entry, variant, pattern, 1 << 20, machine);
  entry.steps += 1;
  EXPECT_GT(expected_us(entry, variant, pattern, 1 << 20, machine), before);
  entry.steps -= 1;
  entry.link_rows = "world";
  EXPECT_LT(expected_us(entry, variant, pattern, 1 << 20, machine), before);

  Environment slower = h200();
  slower.compute_capability = 80;
  EXPECT_LT(machine_figures(slower).bytes_per_us, machine.bytes_per_us);
  slower.topology = "pcie";
  EXPECT_LT(machine_figures(slower).bytes_per_us, 30e3);
  EXPECT_GT(machine_figures(slower).step_us, machine.step_us);
}

TEST(Costs, StepsOfTheBuiltInChoiceCoverEverySize) {
  test::run_ranks(3, [](test::RankContext& context) {
    const auto group = make_group(context.bootstrap, context.device, test::quiet_group_options());
    const ProblemFamily family{"allreduce_residual_rmsnorm", Dtype::bf16, 2048, 1 << 16, Mode::graph};
    std::vector<std::string> asked;
    const auto usable = [&](const CandidateSpec& spec) {
      asked.push_back(spec.kernel->algorithm);
      return spec.kernel->algorithm != "twoshot_rows";
    };
    const std::vector<HeuristicStep> steps = heuristic_steps(group->capabilities(), family, {}, usable, nullptr);
    ASSERT_EQ(steps.size(), 2U);
    EXPECT_EQ(steps[0].tokens_min, 1);
    EXPECT_EQ(steps[0].spec.algorithm(), "oneshot_push");
    EXPECT_EQ(steps[1].spec.algorithm(), "twoshot_push");  // what cannot be used is replaced by the next best
    EXPECT_NE(steps[1].reason.find("2 steps"), std::string::npos) << steps[1].reason;
    // Asking may load a kernel: what would never be chosen is not asked for.
    EXPECT_EQ(std::count(asked.begin(), asked.end(), "twoshot_barrier"), 0);
    EXPECT_EQ(std::count(asked.begin(), asked.end(), "twoshot_chunked"), 0);
  });
}

}  // namespace
}  // namespace arbiter
