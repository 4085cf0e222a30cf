// The tuner end to end, on the CPU device with two ranks.
#include "arbiter/tuner/tune.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "arbiter/error.hpp"
#include "child_process.hpp"
#include "tuner/misbehaving.hpp"
#include "tuner/ranks.hpp"

namespace arbiter {
namespace {

using std::chrono::milliseconds;
using testing::Misbehaving;
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

/// Runs a tune on two ranks; both must decide the same. Returns rank 0's result.
TuneResult tune_on_two(const std::function<TuneOptions(Group&)>& options, milliseconds timeout = milliseconds(20'000),
                       const std::function<ProgressSink*(int)>& sink = {}) {
  TuneResult results[2];
  on_ranks(
      2,
      [&](Group& group) { results[group.rank()] = tune(group, options(group), sink ? sink(group.rank()) : nullptr); },
      timeout);
  EXPECT_EQ(results[0].decisions, results[1].decisions) << "the ranks must decide the same";
  EXPECT_EQ(results[0].notes, results[1].notes);
  return results[0];
}

TuneResult tune_on_two(const TuneOptions& options) {
  return tune_on_two([&](Group&) { return options; });
}

void expect_covers(const std::vector<Decision>& decisions, const ProblemFamily& wanted) {
  std::int64_t next = 1;
  for (const Decision& decision : decisions) {
    if (!belongs(decision, wanted, 2)) continue;
    EXPECT_EQ(decision.tokens_min, next);
    EXPECT_GT(decision.median_us, 0);
    next = decision.tokens_max + 1;
  }
  EXPECT_EQ(next, wanted.max_tokens + 1) << wanted.pattern;
}

std::vector<Trial> all_trials(const std::filesystem::path& path) {
  WorkDatabase database = WorkDatabase::open(path);
  std::vector<Trial> trials;
  for (const Environment& environment : database.environments()) {
    for (const Problem& problem : database.problems(environment)) {
      for (Trial& trial : database.trials(environment, problem)) trials.push_back(std::move(trial));
    }
  }
  return trials;
}

std::size_t count(const std::vector<Trial>& trials, TrialStatus status) {
  return static_cast<std::size_t>(
      std::count_if(trials.begin(), trials.end(), [&](const Trial& trial) { return trial.status == status; }));
}

/// The tune was cut off.
void expect_ends_where_measuring_ended(const std::vector<Decision>& decisions, const std::filesystem::path& path) {
  std::int64_t last = 0;
  for (const Trial& trial : all_trials(path)) {
    if (trial.status == TrialStatus::done) last = std::max(last, trial.problem.tokens);
  }
  ASSERT_FALSE(decisions.empty());
  EXPECT_EQ(decisions.front().tokens_min, 1);
  EXPECT_EQ(decisions.back().tokens_max, last);
}

/// The runtime's candidates, one algorithm of which misbehaves.
CandidateSource with_misbehaving(const std::string& algorithm, Misbehaving::Behaviour behaviour) {
  CandidateSource source = CandidateSource::runtime();
  source.load = [load = source.load, algorithm, behaviour = std::move(behaviour)](
                    Group& group, const CandidateSpec& spec, const ProblemFamily& shape) {
    LoadResult result = load(group, spec, shape);
    if (result.candidate && spec.algorithm() == algorithm) {
      result.candidate = std::make_unique<Misbehaving>(std::move(result.candidate), behaviour);
    }
    return result;
  };
  return source;
}

TEST(Tune, DecidesForEveryTokenCountAndStoresIt) {
  const TemporaryFolder folder;
  TuneOptions options = small_options(folder / "tune.db");
  options.families.push_back(family("allreduce_residual_rmsnorm"));
  const TuneResult result = tune_on_two(options);
  for (const std::string& note : result.notes) ADD_FAILURE() << note;
  EXPECT_EQ(result.problems, 8U);
  EXPECT_EQ(result.measured, 8U);
  for (const ProblemFamily& each : options.families) expect_covers(result.decisions, each);

  const std::vector<DecisionSet> stored = read_decisions(options.database);
  ASSERT_EQ(stored.size(), 1U);
  EXPECT_EQ(stored[0].decisions.size(), result.decisions.size());
  for (const Decision& decision : result.decisions) {
    EXPECT_NE(std::find(stored[0].decisions.begin(), stored[0].decisions.end(), decision), stored[0].decisions.end());
  }
  const std::vector<Trial> trials = all_trials(options.database);
  EXPECT_EQ(count(trials, TrialStatus::running), 0U);
  for (const Trial& trial : trials) {
    if (trial.status != TrialStatus::done) continue;
    EXPECT_GE(trial.samples_us.size(), 4U);
    EXPECT_GT(trial.calls_per_sample, 0);
    EXPECT_GT(trial.blocks, 0);
  }
  // A fused problem's candidates include the plain winner with the epilogue behind it.
  EXPECT_TRUE(std::any_of(trials.begin(), trials.end(), [](const Trial& trial) {
    return trial.problem.pattern != "allreduce" && trial.candidate.name.find("+epilogue") != std::string::npos;
  }));
}

TEST(Tune, EightBitTransportIsMeasuredOnlyWhereItIsAllowed) {
  for (const NumericsPolicy numerics : {NumericsPolicy::any, NumericsPolicy::lossy}) {
    const TemporaryFolder folder;
    TuneOptions options = small_options(folder / "tune.db");
    options.families = {family("allreduce", 1)};
    options.effort.anchor_candidates = options.effort.compiles = 12;
    options.effort.finalists = 12;
    options.effort.give_up = 0;  // threads that work together are slow on this device
    GroupOptions group_options;
    group_options.variables = testing::test_variables(milliseconds(20'000));
    group_options.variables.numerics = numerics;
    group_options.nccl = false;
    TuneResult results[2];
    testing::on_ranks_with(2, group_options, [&](Group& group) { results[group.rank()] = tune(group, options); });
    std::size_t lossy = 0, exact = 0;
    for (const Trial& trial : all_trials(options.database)) {
      if (trial.status != TrialStatus::done) continue;
      const bool is_lossy = trial.candidate.numerics == Numerics::fp8_transport;
      ++(is_lossy ? lossy : exact);
      // Its error is stored beside its time.
      EXPECT_EQ(trial.reason.starts_with("relative L2 error 0.0"), is_lossy) << trial.candidate.name << trial.reason;
    }
    EXPECT_EQ(lossy > 0, numerics == NumericsPolicy::lossy);
    EXPECT_GT(exact, 0U);
    for (const Decision& decision : results[0].decisions) {
      if (decision.candidate.numerics != Numerics::fp8_transport) continue;
      ASSERT_TRUE(decision.runner_up);
      EXPECT_NE(decision.runner_up->numerics, Numerics::fp8_transport) << "somebody serves where it is not allowed";
    }
  }
}

TEST(Tune, ResumeMeasuresNothingThatIsFinished) {
  const TemporaryFolder folder;
  TuneOptions options = small_options(folder / "tune.db");
  options.effort.bisections = 0;  // the sizes of the grid and no others: which those are depends on the times
  const TuneResult first = tune_on_two(options);
  options.resume = true;
  const TuneResult second = tune_on_two(options);
  EXPECT_EQ(second.resumed, second.problems);
  EXPECT_EQ(second.trials, 0U);
  EXPECT_EQ(second.decisions, first.decisions);

  options.families = {family("allreduce", 8)};  // two sizes more
  const TuneResult third = tune_on_two(options);
  EXPECT_EQ(third.resumed, 4U - 0U);
  EXPECT_EQ(third.measured, 2U);
  expect_covers(third.decisions, options.families[0]);
}

TEST(Tune, DecisionsOfOtherFamiliesStay) {
  const TemporaryFolder folder;
  TuneOptions options = small_options(folder / "tune.db");
  options.families = {family("allreduce", 1)};
  tune_on_two(options);
  options.families = {family("allreduce_residual_rmsnorm", 1)};
  tune_on_two(options);
  const std::vector<DecisionSet> stored = read_decisions(options.database);
  ASSERT_EQ(stored.size(), 1U);
  EXPECT_EQ(stored[0].decisions.size(), 2U);
}

TEST(Tune, AWrongCandidateIsRecordedAndNeverChosen) {
  const TemporaryFolder folder;
  const TuneOptions options = small_options(folder / "tune.db");
  const TuneResult result = tune_on_two([&](Group& group) {
    TuneOptions mine = options;
    mine.source = with_misbehaving("oneshot_push", [&group](RunnableCandidate& real, const CallTensors& tensors,
                                                            std::int64_t elements, StreamHandle s) {
      real.enqueue(tensors, elements, s);
      group.device().synchronize(s);
      if (group.rank() == 1) static_cast<unsigned char*>(tensors.output)[33] ^= 4;
    });
    return mine;
  });
  EXPECT_GE(result.wrong, 1U);
  for (const Decision& decision : result.decisions) EXPECT_NE(decision.candidate.algorithm, "oneshot_push");
  expect_covers(result.decisions, family());
  std::size_t wrong = 0;
  for (const Trial& trial : all_trials(options.database)) {
    if (trial.candidate.algorithm != "oneshot_push") continue;
    EXPECT_EQ(trial.status, TrialStatus::wrong);
    EXPECT_NE(trial.reason.find("rank 1: output"), std::string::npos) << trial.reason;
    EXPECT_TRUE(trial.samples_us.empty()) << "verified before it is timed";
    ++wrong;
  }
  EXPECT_GE(wrong, 1U);
}

TEST(Tune, ACandidateThatHangsCostsOneDeadlineAndTheTuneGoesOn) {
  const TemporaryFolder folder;
  const TuneOptions options = small_options(folder / "tune.db");
  const TuneResult result = tune_on_two(
      [&](Group& group) {
        TuneOptions mine = options;
        mine.source = with_misbehaving("oneshot_push", [&group](RunnableCandidate& real, const CallTensors& tensors,
                                                                std::int64_t elements, StreamHandle s) {
          if (group.rank() == 0) real.enqueue(tensors, elements, s);  // rank 1 never comes
        });
        return mine;
      },
      milliseconds(400));
  EXPECT_GE(result.failed, 1U);
  expect_covers(result.decisions, family());
  for (const Decision& decision : result.decisions) EXPECT_NE(decision.candidate.algorithm, "oneshot_push");
  EXPECT_GE(count(all_trials(options.database), TrialStatus::failed), 1U);
}

TEST(Tune, ACandidateThatCannotBeLoadedIsSaidAndLeftOut) {
  const TemporaryFolder folder;
  TuneOptions options = small_options(folder / "tune.db");
  options.source.load = [load = options.source.load](Group& group, const CandidateSpec& spec, const ProblemFamily& f) {
    if (spec.algorithm() == "oneshot_push") return LoadResult{nullptr, "rank 1: it does not compile here"};
    return load(group, spec, f);
  };
  const TuneResult result = tune_on_two(options);
  EXPECT_TRUE(std::any_of(result.notes.begin(), result.notes.end(), [](const std::string& note) {
    return note.find("it does not compile here") != std::string::npos;
  }));
  expect_covers(result.decisions, family());
}

/// Tunes in a child process that dies in the middle of a candidate; returns its exit status.
int die_in_the_middle(const TuneOptions& options, const std::string& algorithm) {
  return test::exit_status_of([&] {
    tune_on_two([&](Group& group) {
      TuneOptions mine = options;
      mine.source =
          with_misbehaving(algorithm, [&group](RunnableCandidate&, const CallTensors&, std::int64_t, StreamHandle) {
            group.bootstrap().barrier();  // so that no rank is still writing to the database
            ::_exit(9);
          });
      return mine;
    });
    return 1;
  });
}

TEST(Tune, ACrashLeavesAPoisonedRowThatRestartedWorkersSkip) {
  const TemporaryFolder folder;
  TuneOptions options = small_options(folder / "tune.db");
  ASSERT_EQ(die_in_the_middle(options, "twoshot_push"), 9);
  options.resume = options.restarted = true;
  const TuneResult result = tune_on_two(options);
  expect_covers(result.decisions, family());
  const std::vector<Trial> trials = all_trials(options.database);
  EXPECT_EQ(count(trials, TrialStatus::crashed), 1U);
  for (const Trial& trial : trials) {
    if (trial.status == TrialStatus::crashed) {
      EXPECT_EQ(trial.candidate.algorithm, "twoshot_push");
    }
  }
  EXPECT_TRUE(std::any_of(result.notes.begin(), result.notes.end(),
                          [](const std::string& note) { return note.find("did not survive") != std::string::npos; }));
}

TEST(Tune, ASpentBudgetStopsCleanlyAndStillDecides) {
  const TemporaryFolder folder;
  TuneOptions options = small_options(folder / "tune.db");
  options.families = {family("allreduce", 1 << 14)};  // far more than fits
  options.budget = milliseconds(1500);
  const TuneResult result = tune_on_two(options);
  EXPECT_TRUE(result.budget_spent);
  EXPECT_LT(result.measured, result.problems);
  EXPECT_GE(result.measured, 1U);
  EXPECT_LT(result.seconds, 30);
  expect_ends_where_measuring_ended(result.decisions, options.database);
}

TEST(Tune, CancellationOnOneRankStopsAllAfterTheTrialAtHand) {
  const TemporaryFolder folder;
  TuneOptions options = small_options(folder / "tune.db");
  std::atomic<bool> cancel{false}, never{false};
  struct Canceller : ProgressSink {
    std::atomic<bool>* flag = nullptr;
    void update(const Progress& progress) override {
      if (progress.done >= 1) flag->store(true);
    }
  } canceller;
  canceller.flag = &cancel;
  const TuneResult result = tune_on_two(
      [&](Group& group) {
        TuneOptions mine = options;
        mine.cancel = group.rank() == 1 ? &cancel : &never;
        return mine;
      },
      milliseconds(20'000), [&](int rank) { return rank == 1 ? &canceller : nullptr; });
  EXPECT_TRUE(result.cancelled);
  EXPECT_LT(result.measured, result.problems);
  expect_ends_where_measuring_ended(result.decisions, options.database);
  EXPECT_EQ(count(all_trials(options.database), TrialStatus::running), 0U);
}

TEST(Tune, ProgressReachesTheEnd) {
  const TemporaryFolder folder;
  TuneOptions options = small_options(folder / "tune.db");
  struct Recorder : ProgressSink {
    std::vector<Progress> seen;
    void update(const Progress& progress) override { seen.push_back(progress); }
  } recorder;
  tune_on_two([&](Group&) { return options; }, milliseconds(20'000),
              [&](int rank) { return rank == 0 ? &recorder : nullptr; });
  ASSERT_FALSE(recorder.seen.empty());
  EXPECT_EQ(recorder.seen.back().done, recorder.seen.back().total);
  std::size_t done = 0;
  bool best = false;
  for (const Progress& progress : recorder.seen) {
    EXPECT_GE(progress.done, done);
    done = progress.done;
    best = best || (!progress.best.empty() && progress.best_us > 0);
  }
  EXPECT_TRUE(best);
}

TEST(Tune, BadOptionsAreRefusedBeforeTheDatabaseIsTouched) {
  const TemporaryFolder folder;
  const auto database = folder / "tune.db";
  const auto refused = [&](const std::function<void(TuneOptions&)>& change) {
    TuneOptions options = small_options(database);
    change(options);
    EXPECT_THROW(on_ranks(2, [&](Group& group) { tune(group, options); }), InvalidArgument);
    EXPECT_FALSE(std::filesystem::exists(database));
  };
  refused([](TuneOptions& options) { options.families.clear(); });
  refused([](TuneOptions& options) { options.families[0].pattern = "allreduce_rmsnrm"; });
  refused([](TuneOptions& options) { options.families[0].hidden = 100; });
  refused([](TuneOptions& options) { options.families[0].max_tokens = 0; });
  refused([](TuneOptions& options) { options.tokens = {0}; });
  refused([](TuneOptions& options) { options.tokens = {64}; });
  refused([](TuneOptions& options) { options.database.clear(); });
}

TEST(Tune, ADatabaseThatCannotBeOpenedIsAnErrorOnEveryRank) {
  const TemporaryFolder folder;
  const TuneOptions options = small_options(folder / "missing" / "folder" / "tune.db");
  std::atomic<int> errors{0};
  on_ranks(2, [&](Group& group) {
    try {
      tune(group, options);
    } catch (const DatabaseError&) {
      ++errors;
    }
  });
  EXPECT_EQ(errors, 2);
}

}  // namespace
}  // namespace arbiter
