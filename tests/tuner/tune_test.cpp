// The tuner end to end, on the CPU device.
#include "arbiter/tuner/tune.hpp"

#include <gtest/gtest.h>

#include <mutex>

#include "ranks.hpp"

namespace arbiter {
namespace {

using testing::on_ranks;
using testing::TemporaryFolder;

ProblemFamily family(const std::string& pattern = "allreduce", std::int64_t max_tokens = 4) {
  return {pattern, Dtype::bf16, 128, max_tokens, Mode::graph};
}

TuneOptions small_options(const std::filesystem::path& database) {
  TuneOptions options;
  options.families = {family()};
  options.database = database;
  options.effort = SearchEffort::for_device(DeviceKind::cpu);
  options.effort.anchor_candidates = 3;
  options.effort.candidates = 2;
  options.effort.final_samples = 4;
  options.effort.compiles = 4;
  options.measure = MeasureSettings::for_device(DeviceKind::cpu);
  options.measure.max_calls = 1;
  return options;
}

TEST(Tune, DecidesForEveryTokenCountAndStoresIt) {
  const TemporaryFolder folder;
  const auto database = folder / "tune.db";
  std::mutex mutex;
  std::vector<TuneResult> results;
  on_ranks(2, [&](Group& group) {
    TuneOptions options = small_options(database);
    options.families.push_back(family("allreduce_residual_rmsnorm"));
    TuneResult result = tune(group, options);
    const std::lock_guard lock(mutex);
    results.push_back(std::move(result));
  });
  ASSERT_EQ(results.size(), 2U);
  EXPECT_EQ(results[0].decisions, results[1].decisions) << "the ranks must decide the same";
  for (const std::string& note : results[0].notes) ADD_FAILURE() << note;
  std::int64_t next = 1;
  for (const Decision& decision : results[0].decisions) {
    if (decision.pattern != "allreduce") continue;
    EXPECT_EQ(decision.tokens_min, next);
    next = decision.tokens_max + 1;
    EXPECT_GT(decision.median_us, 0);
  }
  EXPECT_EQ(next, 5);

  const std::vector<DecisionSet> stored = read_decisions(database);
  ASSERT_EQ(stored.size(), 1U);
  EXPECT_EQ(stored[0].decisions.size(), results[0].decisions.size());
}

}  // namespace
}  // namespace arbiter
