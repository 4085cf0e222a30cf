#include "arbiter/tuner/bench.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "arbiter/error.hpp"
#include "arbiter/tuner/tune.hpp"
#include "tuner/ranks.hpp"

namespace arbiter {
namespace {

Problem problem(const std::string& pattern, std::int64_t tokens) {
  return {pattern, Dtype::bf16, 128, tokens, 2, Mode::graph, false};
}

BenchOptions options_for(std::vector<Problem> problems) {
  BenchOptions options;
  options.problems = std::move(problems);
  options.measure = MeasureSettings::for_device(DeviceKind::cpu);
  options.samples = 4;
  return options;
}

void with_communicator(const std::function<void(Group&, Communicator&)>& body) {
  testing::on_devices(2, [&](const std::shared_ptr<Bootstrap>& bootstrap, const std::shared_ptr<Device>& device) {
    GroupOptions group_options;
    group_options.variables = testing::test_variables(std::chrono::seconds(20));
    group_options.nccl = false;
    const auto group = make_group(bootstrap, device, group_options);
    CommunicatorOptions options;
    options.variables = group_options.variables;
    options.decisions = share_decisions();
    options.nccl = false;
    Communicator communicator(bootstrap, device, options);
    body(*group, communicator);
  });
}

const BenchResult& result_of(const BenchRow& row, const std::string& name) {
  for (const auto& [key, result] : row.results) {
    if (key == name) return result;
  }
  throw InvalidArgument("no result '" + name + "'");
}

TEST(Bench, TimesAutoAndEveryAlgorithmAndSaysWhyNcclIsMissing) {
  with_communicator([](Group& group, Communicator& communicator) {
    const std::vector<BenchRow> rows = bench(
        group, communicator,
        options_for({problem("allreduce", 2), problem("allreduce_residual_rmsnorm", 3), problem("allreduce", 5)}));
    ASSERT_EQ(rows.size(), 3U);
    for (const BenchRow& row : rows) {
      ASSERT_GE(row.results.size(), 5U);
      EXPECT_EQ(row.results[0].first, "auto");
      EXPECT_EQ(row.results[1].first, "nccl");
      EXPECT_EQ(row.results[2].first, "nccl_symmetric");
      EXPECT_EQ(row.results[3].first, "nccl_registered");
      const BenchResult& automatic = result_of(row, "auto");
      ASSERT_TRUE(automatic.time.has_value()) << automatic.unavailable;
      EXPECT_GE(automatic.time->samples, 4U);
      EXPECT_LE(automatic.time->ci_low_us, automatic.time->median_us);
      EXPECT_FALSE(automatic.chosen.empty());
      EXPECT_FALSE(automatic.rule.empty());
      EXPECT_TRUE(result_of(row, "trtllm/oneshot_push").time.has_value());
      EXPECT_TRUE(result_of(row, "mnnvl/twoshot_push").time.has_value());
      for (const auto& [name, result] : row.results) {
        EXPECT_NE(result.time.has_value(), !result.unavailable.empty()) << name;
      }
      EXPECT_FALSE(result_of(row, "nccl").time.has_value());
    }
    EXPECT_FALSE(result_of(rows[0], "mnnvl/oneshot_push").unavailable.empty()) << "a flat message has no rows";
    EXPECT_TRUE(result_of(rows[1], "mnnvl/oneshot_push").time.has_value());
  });
}

TEST(Bench, UsesTheBestMeasuredCandidateOfEachAlgorithm) {
  const testing::TemporaryFolder folder;
  const auto database = folder / "bench.db";
  testing::on_ranks(2, [&](Group& group) {
    TuneOptions tuning;
    tuning.families = {{"allreduce", Dtype::bf16, 128, 2, Mode::graph}};
    tuning.tokens = {2};  // one size alone: no model prunes what must be there
    tuning.database = database;
    tuning.effort = SearchEffort::for_device(DeviceKind::cpu);
    tuning.measure = MeasureSettings::for_device(DeviceKind::cpu);
    tune(group, tuning);
  });
  std::string best;
  {
    WorkDatabase work = WorkDatabase::open(database);
    double best_us = 0;
    for (const Environment& environment : work.environments()) {
      for (const Trial& trial : work.trials(environment, problem("allreduce", 2))) {
        if (trial.candidate.algorithm != "oneshot_push" || trial.samples_us.empty()) continue;
        const double us = median(trial.samples_us);
        if (best_us > 0 && us >= best_us) continue;
        best_us = us;
        best = trial.candidate.name;
      }
    }
  }
  ASSERT_FALSE(best.empty());
  const std::filesystem::path snapshot = folder / "snapshot.db";
  write_snapshot(snapshot, read_decisions(database));
  const auto everything = [&] {  // name, size and content of all files beside them
    std::string text;
    std::set<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(snapshot.parent_path())) files.insert(entry.path());
    for (const auto& path : files) {
      std::ifstream file(path, std::ios::binary);
      text += path.string() + "\n" + std::string(std::istreambuf_iterator<char>(file), {}) + "\n";
    }
    return text;
  };
  const std::string before = everything();
  with_communicator([&](Group& group, Communicator& communicator) {
    BenchOptions options = options_for({problem("allreduce", 2)});
    options.database = database;
    const std::vector<BenchRow> rows = bench(group, communicator, options);
    EXPECT_EQ(result_of(rows[0], "trtllm/oneshot_push").chosen, best);
    options.database = snapshot;
    EXPECT_TRUE(result_of(bench(group, communicator, options)[0], "trtllm/oneshot_push").time.has_value());
  });
  EXPECT_EQ(everything(), before) << "reading writes nothing";
}

TEST(Bench, RefusesAProblemOfAnotherWorld) {
  with_communicator([](Group& group, Communicator& communicator) {
    Problem four = problem("allreduce", 2);
    four.world = 4;
    EXPECT_THROW(bench(group, communicator, options_for({four})), InvalidArgument);
    EXPECT_THROW(bench(group, communicator, options_for({problem("allreduce", 0)})), InvalidArgument);
  });
}

TEST(Bench, JsonHasThePromisedShape) {
  BenchRow row{problem("allreduce", 64), {}};
  BenchResult timed;
  timed.time = Summary{2.0 / 3, 0.5, 0.75, 30, false};
  timed.chosen = "trtllm/oneshot_push:threads=256";
  timed.rule = "decision";
  BenchResult missing;
  missing.unavailable = "no \"libnccl.so.2\"";
  row.results = {{"auto", timed}, {"nccl", missing}};
  const std::string text = bench_json({}, {row}, "arbiter bench");
  for (const char* part :
       {"\"schema\": 1", "\"environment\": {", "\"command\": \"arbiter bench\"", "\"mode\": \"graph\"", "\"world\": 2",
        "\"dtype\": \"bf16\"", "\"pattern\": \"allreduce\"", "\"hidden\": 128", "\"tokens\": 64", "\"bytes\": 16384",
        "\"results\": {", "\"auto\": {", "\"median_us\": 0.666667", "\"ci_low_us\": 0.5", "\"ci_high_us\": 0.75",
        "\"chosen\": \"trtllm/oneshot_push:threads=256\"", "\"nccl\": {",
        "\"unavailable\": \"no \\\"libnccl.so.2\\\"\""}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " is missing in\n" << text;
  }
}

}  // namespace
}  // namespace arbiter
