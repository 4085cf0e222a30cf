// A tune when an engine starts: only what is missing, within its time, and into the communicator.
#include "arbiter/startup_tune.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <fstream>

#include "arbiter/error.hpp"
#include "arbiter/runtime/kernel_cache.hpp"
#include "arbiter/tuner/tune.hpp"
#include "tuner/ranks.hpp"

namespace arbiter {
namespace {

using testing::on_devices;
using testing::TemporaryFolder;

StartupTuneOptions startup(std::vector<ProblemFamily> families) {
  StartupTuneOptions options;
  options.families = std::move(families);
  options.budget = std::chrono::seconds(20);
  options.communicator.variables = testing::test_variables(std::chrono::seconds(20));
  options.communicator.nccl = false;
  // One candidate per algorithm is enough here: each costs a compilation.
  auto source = std::make_shared<CandidateSource>(CandidateSource::runtime());
  source->enumerate = [](Group& group, const ProblemFamily& family, std::span<const CandidateSpec> plain) {
    std::vector<CandidateSpec> specs = enumerate_candidates(group.capabilities(), family, plain);
    std::vector<CandidateSpec> few;
    for (const CandidateSpec& spec : specs) {
      const std::string algorithm = spec.algorithm();
      const bool known = std::any_of(few.begin(), few.end(), [&](const auto& o) { return o.algorithm() == algorithm; });
      if (!spec.epilogue && !known && algorithm.ends_with("_push")) few.push_back(spec);
    }
    return few;
  };
  options.source = std::move(source);
  return options;
}

/// Both ranks' results must be equal; rank 0's is returned.
StartupTuneResult run(const StartupTuneOptions& options, const std::function<void(Communicator&)>& then = {}) {
  StartupTuneResult results[2];
  on_devices(2, [&](const std::shared_ptr<Bootstrap>& bootstrap, const std::shared_ptr<Device>& device) {
    StartupTuneResult mine = tune_at_startup(bootstrap, device, options);
    if (then) {
      CommunicatorOptions with = options.communicator;
      with.decisions = mine.decisions;
      Communicator communicator(bootstrap, device, with);
      communicator.prepare(options.families);
      then(communicator);
    }
    results[bootstrap->rank()] = std::move(mine);
  });
  EXPECT_EQ(*results[0].decisions, *results[1].decisions);
  EXPECT_EQ(results[0].tuned, results[1].tuned);
  return results[0];
}

const ProblemFamily small{"allreduce", Dtype::bf16, 128, 2, Mode::graph};

TEST(StartupTune, WhatItFindsIsWhatTheCommunicatorUses) {
  const StartupTuneResult result = run(startup({small}), [](Communicator& communicator) {
    for (const std::int64_t tokens : {1, 2}) {
      const Explanation why = communicator.explain({"allreduce", Dtype::bf16, 128, tokens, 2, Mode::graph, false});
      EXPECT_EQ(why.rule, Rule::decision) << why.reason;
    }
  });
  EXPECT_EQ(result.tuned, std::vector<ProblemFamily>{small});
  ASSERT_EQ(result.decisions->size(), 1U);
  EXPECT_FALSE(result.decisions->front().decisions.empty());
  EXPECT_EQ(result.decisions->front().environment.device, "cpu");
}

TEST(StartupTune, OnlyWhatIsMissingIsTunedAndItIsKept) {
  const TemporaryFolder folder;
  StartupTuneOptions options = startup({small});
  options.database = folder / "kept.db";
  const StartupTuneResult first = run(options);
  ASSERT_EQ(first.tuned.size(), 1U);

  options.communicator.variables.db = (folder / "kept.db").string();
  const StartupTuneResult second = run(options);
  EXPECT_TRUE(second.tuned.empty()) << "the database has it";
  EXPECT_EQ(*second.decisions, *first.decisions);

  ProblemFamily nearby = small, larger = small, eager = small;
  nearby.hidden = 256;
  larger.max_tokens = 3;
  eager.mode = Mode::eager;
  options.communicator.variables.db.clear();
  options.communicator.decisions = first.decisions;
  options.families = {small, nearby};
  EXPECT_TRUE(run(options).tuned.empty()) << "auto takes the nearest hidden size";
  options.families = {small, larger};
  const StartupTuneResult grown = run(options);
  EXPECT_EQ(grown.tuned, std::vector<ProblemFamily>{larger});
  ASSERT_EQ(grown.decisions->size(), 1U);
  EXPECT_EQ(grown.decisions->front().decisions.back().tokens_max, 3);
  options.families = {eager};
  EXPECT_EQ(run(options).tuned, std::vector<ProblemFamily>{eager});
}

TEST(StartupTune, ADatabaseThatCannotBeUsedIsNoReasonNotToStart) {
  const TemporaryFolder folder;
  StartupTuneOptions options = startup({small});
  options.communicator.variables.db = (folder / "broken.db").string();
  std::ofstream(folder / "broken.db") << "not a database, but long enough to be looked at as if it were one";
  const StartupTuneResult unreadable = run(options);
  ASSERT_FALSE(unreadable.notes.empty());
  EXPECT_NE(unreadable.notes[0].find("broken.db"), std::string::npos) << unreadable.notes[0];
  EXPECT_EQ(unreadable.tuned.size(), 1U);

  options.communicator.variables.db.clear();
  options.database = folder / "no" / "such" / "folder.db";
  const StartupTuneResult unwritable = run(options);
  EXPECT_EQ(unwritable.tuned.size(), 1U);
  ASSERT_FALSE(unwritable.notes.empty());
  EXPECT_NE(unwritable.notes[0].find("what is measured is not kept: "), std::string::npos) << unwritable.notes[0];
  EXPECT_FALSE(unwritable.decisions->empty());
}

/// A clock that goes on by `step` whenever it is looked at; shared by nobody, since rank 0's is the one that counts.
std::function<std::chrono::steady_clock::time_point()> stepping(std::chrono::milliseconds step) {
  return [time = std::make_shared<std::atomic<std::int64_t>>(0), step] {
    return std::chrono::steady_clock::time_point(std::chrono::milliseconds(*time += step.count()));
  };
}

/// Counts what is loaded on rank 0.
StartupTuneOptions counted(StartupTuneOptions options, std::atomic<int>& loaded) {
  auto source = std::make_shared<CandidateSource>(*options.source);
  source->load = [&loaded, load = source->load](Group& group, const CandidateSpec& spec, const ProblemFamily& family) {
    if (group.rank() == 0) ++loaded;
    return load(group, spec, family);
  };
  options.source = std::move(source);
  return options;
}

TEST(StartupTune, ItsTimeIsABound) {
  std::atomic<int> all{0}, few{0}, none{0};
  StartupTuneOptions options = startup({small});
  options.families = {small, {"allreduce", Dtype::fp32, 128, 2, Mode::graph}};
  run(counted(options, all));
  options.budget = std::chrono::seconds(2);
  options.now = stepping(std::chrono::milliseconds(400));
  const StartupTuneResult cut = run(counted(options, few));
  EXPECT_LT(few, all);
  EXPECT_GE(cut.spent, options.budget);
  options.now = stepping(std::chrono::seconds(3));  // making the group took it all
  const StartupTuneResult late = run(counted(options, none));
  EXPECT_EQ(none, 0);
  EXPECT_TRUE(late.tuned.empty());
  ASSERT_EQ(late.notes.size(), 1U);
  EXPECT_NE(late.notes[0].find("time was spent"), std::string::npos) << late.notes[0];
}

/// Two starts of an engine on a machine that nobody has tuned.
TEST(StartupTune, ACommunicatorTunesOnceAndTheNextStartKnows) {
  const TemporaryFolder folder;
  const StartupTuneOptions settings = startup({});
  std::atomic<int> loaded{0};
  const auto start = [&](NumericsPolicy numerics) {
    std::string chosen[2];
    on_devices(2, [&](const std::shared_ptr<Bootstrap>& bootstrap, const std::shared_ptr<Device>& device) {
      CommunicatorOptions options = settings.communicator;
      options.variables.cache_dir = folder / "cache";
      options.variables.startup_tune = settings.budget;
      options.variables.numerics = numerics;
      options.variables.db.clear();
      options.cache = make_kernel_cache(settings.communicator.variables, false);
      options.startup_tuner = startup_tuner(counted(settings, loaded));
      Communicator communicator(bootstrap, device, options);
      const PreparedFamily handle = communicator.prepare(small);
      for (const std::int64_t tokens : {1, 2}) {
        const Explanation why = handle.explain(tokens);
        EXPECT_EQ(why.rule, Rule::decision) << why.reason;
        chosen[bootstrap->rank()] += why.candidate.name + "\n";
      }
    });
    EXPECT_EQ(chosen[0], chosen[1]);
    return chosen[0];
  };
  const std::string first = start(NumericsPolicy::any);
  EXPECT_GT(loaded, 0);
  const int before = loaded;
  EXPECT_EQ(start(NumericsPolicy::any), first);
  EXPECT_EQ(start(NumericsPolicy::strict), first) << "kernels that add in rank order won";
  EXPECT_EQ(loaded, before) << "a start that finds an answer measures nothing";
  EXPECT_EQ(read_history(folder / "cache" / "startup.db").size(), 1U);
}

TEST(StartupTune, ABudgetOfNothingIsRefused) {
  StartupTuneOptions options = startup({small});
  options.budget = std::chrono::milliseconds(0);
  EXPECT_THROW(run(options), InvalidArgument);
}

}  // namespace
}  // namespace arbiter
