// What a tune does with its time, over candidates whose times are known: the search, the cost model, bisection, budget.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "arbiter/db/contents.hpp"
#include "arbiter/error.hpp"
#include "tune/wire.hpp"
#include "tuner/modelled_tune.hpp"

namespace arbiter {
namespace {

using namespace testing;

TEST(TuneSearch, ASecondTuneOfTheSameSamplesDecidesTheSame) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "a.db");
  options.families = {small_family(64), small_family(64, Mode::eager)};
  const TuneResult first = modelled_tune(options, two_lines(23));
  options.database = folder / "b.db";
  const TuneResult second = modelled_tune(options, two_lines(23));
  EXPECT_EQ(first.decisions, second.decisions);
  EXPECT_EQ(first.trials, second.trials);
  EXPECT_GE(first.decisions.size(), 4U) << "two modes, each with a change of winner";
  // What is served is held against what its kernels used and where it was timed, so both are written down.
  const Contents contents = read_contents(options.database);
  for (const auto& [key, trial] : contents.trials) {
    EXPECT_EQ(trial.use,
              contents.candidates.at(trial.candidate).backend == Backend::nccl ? KernelUse{} : (KernelUse{40, 0}));
  }
  for (const Decision& decision : contents.decisions.begin()->second) {
    EXPECT_EQ(decision.use, (KernelUse{40, 0})) << decision.candidate.name;
    EXPECT_GE(decision.measured_tokens, decision.tokens_min);
    EXPECT_LE(decision.measured_tokens, decision.tokens_max);
  }
}

TEST(TuneSearch, AChangeOfWinnerIsFoundByBisection) {
  const TemporaryFolder folder;
  for (const int crossover : {21, 38, 58}) {
    TuneOptions options = modelled_options(folder / ("at" + std::to_string(crossover) + ".db"));
    options.families = {small_family(64)};
    options.rules.gain = 0.0;  // the modelled times are exact
    options.effort.narrow_to = 1.0;
    options.effort.anchor_candidates = options.effort.candidates = 200;
    const TuneResult result = modelled_tune(options, two_lines(crossover));
    ASSERT_EQ(result.decisions.size(), 2U) << tuning::to_text(result.decisions);
    EXPECT_EQ(result.decisions[0].tokens_max, crossover);
    EXPECT_GE(result.bisected, 2U);
    EXPECT_EQ(result.problems, token_grid(64).size() + result.bisected);
    EXPECT_EQ(result.measured, result.problems);

    options.database = folder / ("coarse" + std::to_string(crossover) + ".db");
    options.effort.bisections = 0;
    const TuneResult coarse = modelled_tune(options, two_lines(crossover));
    EXPECT_NE(coarse.decisions[0].tokens_max, crossover) << "the grid alone cannot know";
    options.database = folder / ("asked" + std::to_string(crossover) + ".db");
    options.effort.bisections = 40;
    options.tokens = token_grid(64);
    EXPECT_EQ(modelled_tune(options, two_lines(crossover)).bisected, 0U) << "only what was asked for";
  }
}

// Kernels take turns: a grid whose last round is full is fast, one row more begins another round. So at a size that was
// searched early the best may lie behind a hill that the climb does not cross, and be found only at the sizes between.
TEST(TuneSearch, WhatWinsAtTheNextSizeIsTriedHereToo) {
  const TemporaryFolder folder;
  const CostOf cost = [](const CandidateSpec& spec, const Problem& problem) -> std::int64_t {
    if (!spec.kernel || spec.algorithm() != "twoshot_chunked" || spec.max_blocks != 0) return 100'000;
    const auto is = [&](const char* axis, int value) { return spec.kernel->parameters.at(axis) == value ? 1 : 0; };
    const int up = is("chunk", 4) + 2 * is("chunk", 16) + is("vectors", 2);
    const std::int64_t rest = 30 * problem.tokens;
    if (problem.tokens <= 16) return rest + 4000 + 2000 * up;
    if (problem.tokens <= 48) return rest + 20'000 - 3000 * up;
    return rest + (up == 3 ? 5000 : 10'000 + 2000 * up);
  };
  TuneOptions options = modelled_options(folder / "tune.db");
  options.families = {small_family(64)};
  options.effort.anchors = 1;
  options.effort.candidates = 40;
  const TuneResult result = modelled_tune(options, cost);
  ASSERT_FALSE(result.decisions.empty());
  const Decision& last = result.decisions.back();
  EXPECT_EQ(last.tokens_max, 64);
  EXPECT_NE(last.candidate.name.find("chunk=16,cluster=1,early_trigger=1,threads=256,vectors=2"), std::string::npos)
      << tuning::to_text(result.decisions);
}

TEST(TuneSearch, TheModelPrunesAndSaysHowWrongItWas) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "tune.db");
  options.families = {small_family(256)};
  // Two-shot is hopeless everywhere, along a line that the model can find.
  const CostOf cost = [](const CandidateSpec& spec, const Problem& problem) {
    const std::int64_t line = 2000 + 40 * problem.tokens;
    return spec.algorithm().starts_with("oneshot") ? line : 5 * line;
  };
  const TuneResult result = modelled_tune(options, cost);
  EXPECT_GT(result.model_pruned, 50U);
  // What is counted as screened out is what the database holds as such: finalists were screened, too.
  const Contents contents = read_contents(options.database);
  EXPECT_EQ(result.pruned, static_cast<std::size_t>(std::count_if(
                               contents.trials.begin(), contents.trials.end(),
                               [](const auto& trial) { return trial.second.status == TrialStatus::pruned; })));
  EXPECT_GT(result.model_predictions, 20U);
  EXPECT_NEAR(result.model_worst_ratio, 1, 0.05) << result.model_worst;
  EXPECT_EQ(result.model_regrets, 0U);
  EXPECT_GT(result.model_controls, 0U) << "some are measured to see whether the model is right";
  ASSERT_EQ(result.decisions.size(), 1U);
  EXPECT_TRUE(result.decisions[0].candidate.algorithm.starts_with("oneshot"));
}

TEST(TuneSearch, WhatIsFastOnlyOnceDoesNotWin) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "tune.db");
  options.families = {small_family(1, Mode::eager)};
  // More candidates than there are finalists look ten times as fast as the best while they are screened.
  constexpr std::size_t first_lucky = 2, behind_lucky = 7;
  constexpr int calls_of_screening = 28;  // 2 verified, 2 to estimate, 6 replays of 4
  const CostOf cost = [&](const CandidateSpec& spec, const Problem&) -> std::int64_t {
    thread_local std::vector<std::pair<std::string, int>> seen;  // by each rank, in the order of the search
    auto at = std::find_if(seen.begin(), seen.end(), [&](const auto& item) { return item.first == spec.name(); });
    if (at == seen.end()) at = seen.insert(seen.end(), {spec.name(), 0});
    const auto index = static_cast<std::size_t>(at - seen.begin());
    if (first_lucky <= index && index < behind_lucky) return ++at->second <= calls_of_screening ? 1000 : 20'000;
    return index == 0 ? 9000 : 10'000;
  };
  const TuneResult result = modelled_tune(options, cost);
  ASSERT_EQ(result.decisions.size(), 1U);
  EXPECT_NEAR(result.decisions[0].median_us, 9, 0.01) << "the best of the search was not looked at again";
  const WorkDatabase database = WorkDatabase::open(options.database);
  std::size_t again = 0;
  for (const Trial& trial :
       database.trials(database.environments().front(), {"allreduce", Dtype::bf16, 8, 1, 2, Mode::eager, false})) {
    again += !trial.samples_us.empty() && trial.samples_us.back() > 19 ? 1U : 0U;
  }
  EXPECT_EQ(again, behind_lucky - first_lucky) << "all that came close are looked at again";
}

TEST(TuneSearch, AModelThatIsWrongIsFoundOut) {
  const TemporaryFolder folder;
  // No line: two-shot is ten times faster at one size than its neighbours let expect.
  const CostOf cost = [](const CandidateSpec& spec, const Problem& problem) -> std::int64_t {
    if (spec.algorithm().starts_with("oneshot")) return 2000 + 40 * problem.tokens;
    return (problem.tokens == 48 ? 1 : 10) * (1000 + 40 * problem.tokens);
  };
  std::size_t found = 0, regrets = 0;
  for (int seed = 1; seed <= 6; ++seed) {  // what is measured against the model's advice is drawn
    TuneOptions options = modelled_options(folder / ("tune" + std::to_string(seed) + ".db"));
    options.families = {small_family(256)};
    options.effort.bisections = 0;
    options.seed = static_cast<std::uint64_t>(seed);
    const TuneResult result = modelled_tune(options, cost);
    regrets += result.model_regrets;
    if (result.model_regrets == 0) continue;
    EXPECT_GT(std::fabs(std::log(result.model_worst_ratio)), std::log(2.0));
    EXPECT_NE(result.model_worst.find("twoshot"), std::string::npos) << result.model_worst;
    EXPECT_TRUE(std::any_of(result.notes.begin(), result.notes.end(), [](const std::string& note) {
      return note.find("tokens=48") != std::string::npos && note.find("would have pruned it") != std::string::npos;
    }));
    for (const Decision& decision : result.decisions) {
      const bool here = decision.tokens_min <= 48 && 48 <= decision.tokens_max;
      found += here && decision.candidate.algorithm.starts_with("twoshot") ? 1 : 0;
    }
  }
  EXPECT_GE(regrets, 1U);
  EXPECT_GE(found, 1U) << "the control measurement finds what the model would have hidden";
}

TEST(TuneSearch, ABudgetIsKeptAndSpreadOverAllSizes) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "tune.db");
  options.families = {small_family(1024), small_family(1024, Mode::eager)};
  options.effort.anchor_candidates = options.effort.candidates = 1000;
  options.budget = std::chrono::seconds(3);
  // A call takes long enough that far more than the budget would be needed.
  std::atomic<std::int64_t> microseconds = 0;
  options.now = [&] { return std::chrono::steady_clock::time_point(std::chrono::microseconds(microseconds)); };
  const CostOf cost = [&, line = two_lines(300)](const CandidateSpec& spec, const Problem& problem) {
    microseconds += 250;  // on each of two ranks
    return line(spec, problem);
  };
  const TuneResult result = modelled_tune(options, cost);
  EXPECT_TRUE(result.budget_spent);
  EXPECT_GE(result.seconds, 2.7);
  EXPECT_LE(result.seconds, 3.3);
  EXPECT_GE(result.measured, 12U) << "every size gets something before any gets all";
}

TEST(TuneSearch, TimeThatIsLeftGoesToCloseCalls) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "tune.db");
  options.families = {small_family(4, Mode::eager)};
  options.effort.tie_samples = 0;
  options.now = [] { return std::chrono::steady_clock::time_point(); };  // the budget is never spent
  // Two algorithms 3% apart, with noise that only many samples overcome: the n-th call of an algorithm has the same on
  // every rank, whichever is first.
  const auto run = [&](std::chrono::milliseconds budget, const char* file) {
    options.database = folder / file;
    options.budget = budget;
    std::mutex mutex;
    std::map<std::pair<std::thread::id, bool>, std::uint64_t> calls;
    return modelled_tune(options, [&](const CandidateSpec& spec, const Problem&) -> std::int64_t {
      const bool one_shot = spec.algorithm().starts_with("oneshot");
      const std::lock_guard lock(mutex);
      const std::uint64_t noise = hash_of(std::to_string(calls[{std::this_thread::get_id(), one_shot}]++)) >> 20;
      return (one_shot ? 10'000 : 10'300) + static_cast<std::int64_t>(noise % 3000);
    });
  };
  EXPECT_EQ(run(std::chrono::milliseconds(0), "none.db").measured_again, 0U);
  const TuneResult patient = run(std::chrono::seconds(30), "much.db");
  EXPECT_GT(patient.measured_again, 0U);
  EXPECT_FALSE(patient.budget_spent) << "it ends when there is nothing left to find out";
  std::size_t most = 0;
  WorkDatabase database = WorkDatabase::open(options.database);
  for (const Problem& problem : database.problems(database.environments().front())) {
    for (const Trial& trial : database.trials(database.environments().front(), problem)) {
      most = std::max(most, trial.samples_us.size());
    }
  }
  EXPECT_EQ(most, 40U);
}

TEST(TuneSearch, NearTiesAreSampledInTurnsUntilTheyCanBeToldApart) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "tune.db");
  options.families = {small_family(4, Mode::eager)};
  ASSERT_EQ(options.effort.final_samples, 10);
  options.effort.tie_samples = 150;
  // One-shot is 3% faster. A sample is the mean of a burst, which damps the noise of 15% of a call: 10 of them still
  // leave an interval well over 1%, 150 one about as wide as that.
  auto calls = std::make_shared<std::array<std::atomic<std::uint64_t>, 2>>();
  const CostOf cost = [calls](const CandidateSpec& spec, const Problem&) -> std::int64_t {
    const bool one_shot = spec.algorithm().starts_with("oneshot");
    const std::uint64_t noise = hash_of(std::to_string((*calls)[one_shot ? 0 : 1]++)) >> 20;
    return (one_shot ? 10'000 : 10'300) + static_cast<std::int64_t>(noise % 1500);
  };
  const TuneResult result = modelled_tune(options, cost);
  EXPECT_GT(result.near_ties, 0U);
  for (const Decision& decision : result.decisions) EXPECT_TRUE(decision.candidate.algorithm.starts_with("oneshot"));
  std::size_t most = 0;
  const WorkDatabase database = WorkDatabase::open(options.database);
  for (const Problem& problem : database.problems(database.environments().front())) {
    for (const Trial& trial : database.trials(database.environments().front(), problem)) {
      most = std::max(most, trial.samples_us.size());
    }
  }
  EXPECT_GT(most, 10U);
  EXPECT_LE(most, 150U);
}

/// Two tunes of a machine whose every replay differs by some percent, with candidates that differ by less: where they
/// decide differently, it hardly matters.
TEST(TuneSearch, ASecondTuneDecidesTheSame) {
  const TemporaryFolder folder;
  const CostOf near = [](const CandidateSpec& spec, const Problem& problem) {
    const auto tokens = static_cast<double>(problem.tokens);
    const double ns = spec.algorithm().starts_with("oneshot") ? 2000 + 100 * tokens : 6000 + 20 * tokens;
    return static_cast<std::int64_t>(ns * (1 + 0.004 * static_cast<double>(hash_of(spec.name()) % 12)));
  };
  int points = 0, differ = 0;
  for (std::uint64_t pair = 0; pair < 2; ++pair) {
    std::vector<Decision> decided[2];
    for (const std::uint64_t which : {0U, 1U}) {
      TuneOptions options = modelled_options(folder / (std::to_string(pair) + "-" + std::to_string(which) + ".db"));
      options.families = {small_family(64)};
      options.effort = SearchEffort();
      options.effort.anchor_candidates = options.effort.candidates = 8;
      options.effort.bisections = 3;
      decided[which] = modelled_tune(options, near, [&](Group& group, TuneOptions&) {
                         static_cast<ClockworkDevice&>(group.device())
                             .shake(0.04, 100 * pair + 10 * which + static_cast<std::uint64_t>(group.rank()));
                       }).decisions;
    }
    const auto cost_at = [&](const std::vector<Decision>& decisions, std::int64_t tokens) {
      for (const Decision& decision : decisions) {
        if (decision.tokens_max < tokens) continue;
        ProblemFamily family = small_family(64);
        const Catalogue& catalogue = Catalogue::builtin();
        return static_cast<double>(near(CandidateSpec::parse(catalogue, decision.candidate.name, family, 2),
                                        {family.pattern, family.dtype, family.hidden, tokens, 2, family.mode, false}));
      }
      return 0.0;
    };
    for (const std::int64_t tokens : token_grid(64)) {
      const double one = cost_at(decided[0], tokens), two = cost_at(decided[1], tokens);
      ++points;
      if (std::max(one, two) > 1.02 * std::min(one, two)) ++differ;
    }
  }
  EXPECT_LE(50 * differ, points) << differ << " of " << points << " differ by more than 2%";
}

/// Ties fall to a fixed order, so whoever ties must be there, also if another algorithm has the fastest few.
TEST(TuneSearch, EveryAlgorithmThatTiesIsAFinalist) {
  const TemporaryFolder folder;
  for (const double slower : {1.02, 1.05}) {
    const CostOf cost = [&](const CandidateSpec& spec, const Problem&) {
      const std::string algorithm = spec.algorithm();
      const double factor = algorithm == "oneshot_push"   ? 1 + 0.0005 * static_cast<double>(hash_of(spec.name()) % 10)
                            : algorithm == "twoshot_push" ? slower
                                                          : 2.0;
      return static_cast<std::int64_t>(10'000 * factor);
    };
    TuneOptions options = modelled_options(folder / (std::to_string(slower) + ".db"));
    options.families = {small_family(8)};
    options.tokens = {8};
    options.effort.anchor_candidates = 60;
    options.effort.finalists = 1;
    modelled_tune(options, cost);
    std::set<std::string> finalists;
    const Contents contents = read_contents(options.database);
    for (const auto& [key, trial] : contents.trials) {
      if (trial.status == TrialStatus::done) finalists.insert(contents.candidates.at(trial.candidate).algorithm);
    }
    std::set<std::string> expected{"oneshot_push"};
    if (slower < 1.03) expected.insert("twoshot_push");
    EXPECT_EQ(finalists, expected);
  }
}

TEST(TuneSearch, SizesThatDoNotFitTheMemoryOfARankAreLeftOut) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "tune.db");
  options.families = {{"allreduce", Dtype::bf16, 8192, 64, Mode::graph}};
  options.tokens = {1, 32, 64};
  options.effort.anchor_candidates = options.effort.candidates = 3;
  const TuneResult result = modelled_tune(options, two_lines(6), [&](Group& group, TuneOptions&) {
    // Input and output of 32 tokens (512 KiB each) with their guards, on one rank.
    if (group.rank() == 1) static_cast<ClockworkDevice&>(group.device()).limit(1200 << 10);
  });
  EXPECT_EQ(result.measured, 2U);
  ASSERT_EQ(result.notes.size(), 1U);
  EXPECT_NE(result.notes[0].find("tokens=64 world=2 graph was not measured: rank 1 could not reserve tensors to "
                                 "measure with: no memory for"),
            std::string::npos)
      << result.notes[0];
  EXPECT_EQ(result.decisions.front().tokens_min, 1);
  EXPECT_EQ(result.decisions.back().tokens_max, 32) << "nothing is known of what was left out";
}

TEST(TuneSearch, RanksThatDifferAreToldBeforeAnythingIsMeasured) {
  const TemporaryFolder folder;
  const auto refused = [&](const std::function<void(TuneOptions&)>& change, const std::string& what) {
    std::atomic<int> told{0};
    on_clockwork_ranks(2, [&](Group& group, Board& board) {
      TuneOptions mine = modelled_options(folder / "tune.db");
      mine.source = modelled_source(board, two_lines(8));
      if (group.rank() == 1) change(mine);
      try {
        tune(group, mine);
      } catch (const Disagreement& error) {
        EXPECT_NE(std::string(error.what()).find("\n  " + what), std::string::npos) << error.what();
        ++told;
      }
    });
    EXPECT_EQ(told, 2) << what;
    EXPECT_FALSE(std::filesystem::exists(folder / "tune.db"));
  };
  refused([](TuneOptions& options) { options.seed = 7; }, "options");
  refused([](TuneOptions& options) { options.rules.gain = 0.1; }, "options");
  refused([](TuneOptions& options) { options.families.push_back(small_family(8, Mode::eager)); }, "problems");
  refused(
      [](TuneOptions& options) {
        options.source.enumerate = [all = options.source.enumerate](Group& group, const ProblemFamily& family,
                                                                    std::span<const CandidateSpec> plain) {
          std::vector<CandidateSpec> specs = all(group, family, plain);
          specs.pop_back();
          return specs;
        };
      },
      "candidates of allreduce bf16 hidden=8");
}

TEST(TuneSearch, ASecondTunerOnOneDatabaseIsToldWhoHasIt) {
  const TemporaryFolder folder;
  const TuneOptions options = modelled_options(folder / "tune.db");
  bool tried = false;
  struct Second : ProgressSink {
    std::function<void()> once;
    void update(const Progress&) override {
      if (auto action = std::exchange(once, nullptr)) action();
    }
  } second;
  second.once = [&] {
    tried = true;
    try {
      modelled_tune(options, two_lines(8));
      ADD_FAILURE() << "two tuners wrote to one database";
    } catch (const DatabaseError& error) {
      EXPECT_NE(std::string(error.what()).find("process " + std::to_string(::getpid())), std::string::npos)
          << error.what();
    }
  };
  const TuneResult first = modelled_tune(options, two_lines(8), {}, &second);
  EXPECT_TRUE(tried);
  EXPECT_EQ(first.measured, first.problems) << "the first is not disturbed";
}

TEST(TuneSearch, ClocksAndPowerThatDropAreRecordedAndSaid) {
  const TemporaryFolder folder;
  const auto tune_with = [&](const char* file, std::vector<int> clocks, std::vector<int> watts = {}) {
    TuneOptions options = modelled_options(folder / file);
    options.families = {small_family(1)};
    auto next = std::make_shared<std::size_t>(0);
    options.clocks = [clocks = std::move(clocks), watts = std::move(watts), next] {
      const std::size_t at = (*next)++;
      const int clock = clocks[std::min(at, clocks.size() - 1)];
      return ClockSample{clock, 3201, watts.empty() ? 100 + clock / 10 : watts[std::min(at, watts.size() - 1)]};
    };
    const TuneResult result = modelled_tune(options, two_lines(8));
    const arbiter::Run run = WorkDatabase::open(options.database).runs().front();
    EXPECT_EQ(run.dropped().empty(), result.notes.empty());
    return std::make_pair(run, result.notes);
  };
  const auto [fell, said] = tune_with("fell.db", {1980, 1500});
  EXPECT_EQ(fell.sm_clock_start_mhz, 1980);
  EXPECT_EQ(fell.sm_clock_end_mhz, 1500);
  EXPECT_EQ(fell.power_end_watts, 250);
  ASSERT_EQ(said.size(), 1U);
  EXPECT_NE(said[0].find("from 1980 to 1500 MHz (power: 298 W at the start, 250 W at the end)"), std::string::npos)
      << said[0];
  EXPECT_TRUE(tune_with("rose.db", {345, 1980}).second.empty()) << "an idle GPU clocks low";
  EXPECT_TRUE(tune_with("steady.db", {1980, 1950}).second.empty());
  EXPECT_TRUE(tune_with("unknown.db", {0, 0}).second.empty());

  const auto [capped, what] = tune_with("capped.db", {1980, 1980}, {690, 500});
  EXPECT_FALSE(capped.clocks_dropped);
  EXPECT_TRUE(capped.power_dropped());
  ASSERT_EQ(what.size(), 1U);
  EXPECT_NE(what[0].find("from 690 W to 500 W"), std::string::npos) << what[0];
}

}  // namespace
}  // namespace arbiter
