#include "example_database.hpp"

#include <cmath>
#include <functional>
#include <random>

#include "arbiter/db/database.hpp"
#include "arbiter/tuner/recompute.hpp"
#include "db/fixtures.hpp"

namespace arbiter::testing {
namespace {

/// A candidate and its time: a latency, and bytes over the speed of a link.
struct Model {
  Candidate candidate;
  int blocks = 0;
  std::function<double(double bytes, int world)> us;
};

Candidate kernel(const std::string& algorithm, const std::string& parameters) {
  Candidate candidate;
  candidate.backend = algorithm.starts_with("twoshot_push") ? Backend::mnnvl : Backend::trtllm;
  candidate.algorithm = algorithm;
  candidate.name = std::string(to_string(candidate.backend)) + "/" + algorithm + ":" + parameters;
  candidate.numerics = Numerics::rank_order_fp32;
  candidate.source_hash = "5eed" + std::to_string(parameters.size());
  return candidate;
}

Candidate unfused(Candidate candidate) {
  candidate.name += "+epilogue:threads=512";
  return candidate;
}

std::vector<Model> models(bool fused) {
  constexpr double link = 350e3;  // bytes per microsecond
  const auto oneshot = [](double latency) {
    return [=](double bytes, int world) { return latency + 0.2 * world + 1.4 * bytes * (world - 1) / link; };
  };
  const auto twoshot = [](double latency) {
    return [=](double bytes, int world) { return latency + 0.3 * world + 2.2 * bytes * (world - 1) / world / link; };
  };
  const auto nccl = [](double bytes, int world) {
    return 9.5 + 1.1 * world + 1.9 * bytes * (world - 1) / world / link;
  };
  std::vector<Model> list{
      {kernel("oneshot_push", "threads=256,vectors=1,cluster=1,blocks=16"), 16, oneshot(2.0)},
      {kernel("oneshot_push", "threads=512,vectors=2,cluster=1,blocks=32"), 32, oneshot(2.15)},
      {kernel("oneshot_push", "threads=512,vectors=1,cluster=2,blocks=64"), 64, oneshot(2.01)},
      {kernel("twoshot_push", "threads=512,vectors=1,cluster=1,blocks=64"), 64, twoshot(4.6)},
      {kernel("twoshot_barrier", "threads=512,vectors=2,blocks=64"), 64, twoshot(6.4)},
  };
  Model classic{test::nccl_candidate(), 0, nccl};
  if (!fused) {
    list.push_back(classic);
    return list;
  }
  // Unfused: another kernel, and the result is read and written once more.
  const auto behind = [](auto first) {
    return [=](double bytes, int world) { return first(bytes, world) + 1.7 + bytes / 1.6e6; };
  };
  list.push_back({unfused(list[0].candidate), 16, behind(oneshot(2.0))});
  list.push_back({unfused(classic.candidate), 0, behind(nccl)});
  return list;
}

}  // namespace

void make_example_database(const std::string& file, const ExampleShape& shape) {
  WorkDatabase database = WorkDatabase::open(file);
  Environment environment = test::example_environment();
  environment.gpu_name = shape.gpu_name;
  environment.nccl_variables.clear();
  Run run;
  run.id = shape.run;
  run.host = "example-host";
  run.command = "arbiter tune --gpus 0-3 --world 2,4";
  run.started = 1'760'000'000;
  run.sm_clock_start_mhz = 1980;
  run.sm_clock_end_mhz = 1965;
  run.power_start_watts = 120;
  run.power_end_watts = shape.dropped ? 80 : 412;
  run.clocks_dropped = shape.dropped;
  database.begin_run(environment, run);
  std::mt19937 random(7);
  std::normal_distribution<double> noise(0, 1);
  const auto record = [&](const Trial& trial) {
    database.begin_trial(run.id, environment, trial.problem, trial.candidate);
    database.finish_trial(run.id, environment, trial);
  };
  for (const std::string& pattern : shape.patterns) {
    for (const int world : shape.worlds) {
      for (const int hidden : shape.hiddens) {
        for (const long tokens : shape.tokens) {
          Trial trial;
          trial.problem = {pattern, Dtype::bf16, hidden, tokens, world, Mode::graph, false};
          trial.calls_per_sample = 50;
          for (const Model& model : models(pattern != "allreduce")) {
            trial.candidate = model.candidate;
            trial.blocks = model.blocks;
            trial.use = model.candidate.backend == Backend::nccl ? KernelUse{} : KernelUse{48, 0};
            trial.status = TrialStatus::done;
            trial.reason.clear();
            const double us = model.us(static_cast<double>(trial.problem.bytes()), world);
            trial.samples_us.clear();
            for (int i = 0; i < shape.samples; ++i) {
              const double spread = model.candidate.backend == Backend::nccl ? 0.15 : 0.02;
              trial.samples_us.push_back(us * (1 + 0.004 * noise(random) + spread * std::fabs(noise(random))));
            }
            record(trial);
          }
          trial.samples_us.clear();
          trial.blocks = 0;
          trial.use = {64, 8};
          trial.candidate = kernel("oneshot_push", "threads=1024,vectors=4,cluster=1,blocks=8");
          trial.status = TrialStatus::wrong;
          trial.reason = "rank 1, element 512: 3.5, expected 3.25";
          record(trial);
          trial.candidate = kernel("oneshot_push", "threads=1024,vectors=4,cluster=4,blocks=8");
          trial.status = TrialStatus::failed;
          trial.reason = "rank 0 waited longer than 2000 ms for rank 1";
          record(trial);
          trial.candidate = kernel("twoshot_push", "threads=128,vectors=1,cluster=1,blocks=8");
          trial.status = TrialStatus::pruned;
          trial.reason = "slower than the best by 4x in the first block";
          record(trial);
        }
      }
    }
  }
  run.finished = run.started + 118;
  database.finish_run(run.id, run);
  recompute_decisions(database, environment);
}

}  // namespace arbiter::testing
