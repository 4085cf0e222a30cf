// Small random databases that overlap: runs, problems and candidates come from one pool, and a trial that is in several
// databases may have been copied at different stages.
#pragma once

#include <random>

#include "arbiter/db/contents.hpp"
#include "db/fixtures.hpp"
#include "records/digest.hpp"

namespace arbiter::test {

class RandomContents {
 public:
  explicit RandomContents(std::uint64_t seed) : random_(seed) {
    for (int i = 0; i < 2; ++i) environments_.push_back(i == 0 ? example_environment() : other_environment());
    for (int i = 0; i < 4; ++i) {
      Run run;
      run.id = "run-" + std::to_string(i);
      run.host = "node" + std::to_string(i % 3);
      run.command = "arbiter tune --seed \"" + std::to_string(i) + "\"\n";
      run.started = 1'700'000'000 + i / 2;  // two of them start in the same second
      run.sm_clock_start_mhz = 1980;
      runs_.push_back(run);
    }
  }

  Contents next() {
    Contents contents;
    const auto environments = 1 + below(2);
    for (std::size_t i = 0; i < environments; ++i) add_environment(contents, environments_[below(2)]);
    return contents;
  }

  std::size_t below(std::size_t bound) { return std::uniform_int_distribution<std::size_t>(0, bound - 1)(random_); }

  /// The same trial has the same outcome wherever it is: outcome and samples follow from its key.
  static StoredTrial outcome(StoredTrial trial, const std::string& key) {
    std::mt19937_64 own(std::hash<std::string>{}(key));
    trial.status = own() % 4 == 0 ? TrialStatus::wrong : TrialStatus::done;
    trial.calls_per_sample = 50;
    trial.blocks = static_cast<int>(own() % 64);
    if (own() % 3 != 0) trial.use = {static_cast<int>(own() % 128), static_cast<int>(own() % 2)};
    if (trial.status == TrialStatus::wrong) trial.reason = "element 3 is 1, expected 2";
    const double middle = 2.0 + static_cast<double>(own() % 40) / 10;
    for (int i = 0; i < 12; ++i) {
      trial.samples_us.push_back(middle * (1 + static_cast<double>(own() % 1000) / 20'000));
    }
    return trial;
  }

 private:
  void add_environment(Contents& contents, const Environment& environment) {
    const std::string environment_key = environment.key();
    contents.environments.emplace(environment_key, environment);
    const bool other = environment.gpu_name != example_environment().gpu_name;
    const std::size_t first = other ? 2 : 0;
    for (std::size_t i = 0; i < 2; ++i) {
      Run run = runs_[first + below(2)];
      const bool ended = below(2) == 0;
      if (ended) run.finished = run.started + 60;
      if (ended) run.sm_clock_end_mhz = 1900;
      if (!contents.runs.emplace(run.id, StoredRun{environment_key, run}).second) continue;
      for (std::size_t trials = below(10); trials > 0; --trials) add_trial(contents, environment_key, run.id);
    }
  }

  void add_trial(Contents& contents, const std::string& environment, const std::string& run) {
    Problem problem = example_problem(std::int64_t{1} << below(5));
    problem.in_place = below(8) == 0;
    const Candidate candidate = below(4) == 0 ? nccl_candidate() : example_candidate(static_cast<int>(below(5)));
    StoredTrial trial;
    trial.environment = environment;
    trial.problem = problem.key();
    trial.candidate = candidate.key();
    trial.run = run;
    trial.sequence = 1 + static_cast<std::int64_t>(below(2));
    contents.problems.emplace(trial.problem, problem);
    contents.candidates.emplace(trial.candidate, candidate);
    const std::string key = db::trial_key(trial.environment, trial.problem, trial.candidate, run, trial.sequence);
    trial.status = TrialStatus::running;
    switch (below(6)) {
      case 0:
        break;
      case 1:
        trial.status = TrialStatus::crashed;
        trial.reason = "the process ended during this trial";
        break;
      case 2:
        trial.status = TrialStatus::failed;
        trial.reason = below(2) == 0 ? "no room" : "a deadline passed";
        break;
      default:
        trial = outcome(trial, key);
    }
    contents.trials.emplace(key, trial);
  }

  std::mt19937_64 random_;
  std::vector<Environment> environments_;
  std::vector<Run> runs_;
};

}  // namespace arbiter::test
