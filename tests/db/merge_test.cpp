// Merging: any order, any grouping, any number of times.
#include <iostream>
#include <map>

#include "db/random_contents.hpp"

namespace arbiter::test {
namespace {

/// Some decision that depends on the trials of an environment and nothing else: the candidate with the lowest sample.
void lowest_sample(WorkDatabase& database, const Environment& environment) {
  std::map<std::string, Decision> decisions;
  for (const Problem& problem : database.problems(environment)) {
    if (problem.in_place) continue;
    for (const Trial& trial : database.trials(environment, problem)) {
      if (trial.status != TrialStatus::done) continue;
      Decision& decision = decisions[problem.pattern + std::to_string(problem.tokens)];
      const double low = *std::min_element(trial.samples_us.begin(), trial.samples_us.end());
      if (decision.tokens_min != 0 && decision.median_us <= low) continue;
      decision = {.pattern = problem.pattern,
                  .dtype = problem.dtype,
                  .hidden = problem.hidden,
                  .world = problem.world,
                  .mode = problem.mode,
                  .tokens_min = problem.tokens,
                  .tokens_max = problem.tokens,
                  .candidate = trial.candidate,
                  .median_us = low,
                  .runner_up = std::nullopt};
    }
  }
  std::vector<Decision> list;
  for (const auto& [key, decision] : decisions) list.push_back(decision);
  database.replace_decisions(environment, list);
}

/// A file with these contents and the decisions that follow from them.
std::filesystem::path make(const ScratchDirectory& scratch, const std::string& name, const Contents& contents) {
  std::filesystem::path path = scratch / name;
  WorkDatabase::open(path).merge(contents, lowest_sample);
  return path;
}

Contents with_decisions_removed(Contents contents) {
  contents.decisions.clear();
  return contents;
}

TEST(Unite, IsIdempotentCommutativeAndAssociative) {
  for (std::uint64_t seed = 1; seed <= 1500; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    RandomContents random(seed);
    const Contents a = random.next(), b = random.next(), c = random.next();
    ASSERT_EQ(unite(a, a), a);
    const Contents ab = unite(a, b);
    ASSERT_EQ(ab, unite(b, a));
    ASSERT_EQ(unite(ab, b), ab);
    ASSERT_EQ(unite(ab, c), unite(a, unite(b, c)));
    ASSERT_GE(ab.trials.size(), a.trials.size());
  }
}

TEST(Merge, FilesMergeAlikeInAnyOrderAndGrouping) {
  std::size_t decisions = 0, updated = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const ScratchDirectory scratch;
    RandomContents random(seed);
    const auto a = make(scratch, "a.db", random.next());
    const auto b = make(scratch, "b.db", random.next());
    const auto c = make(scratch, "c.db", random.next());
    updated += merge(scratch / "abc.db", {a, b, c}, lowest_sample).updated;
    updated += merge(scratch / "cba.db", {c}, lowest_sample).updated;
    updated += merge(scratch / "cba.db", {b}, lowest_sample).updated;
    updated += merge(scratch / "cba.db", {a}, lowest_sample).updated;
    merge(scratch / "bc.db", {b, c}, lowest_sample);
    merge(a, {scratch / "bc.db"}, lowest_sample);
    const Contents all = read_contents(scratch / "abc.db");
    ASSERT_EQ(all, read_contents(scratch / "cba.db"));
    ASSERT_EQ(all, read_contents(a));
    ASSERT_EQ(merge(scratch / "abc.db", {c, b, a, b}, lowest_sample), MergeReport{}) << "there was nothing to add";
    ASSERT_EQ(all, read_contents(scratch / "abc.db"));
    for (const auto& [key, list] : all.decisions) decisions += list.size();
  }
  std::cout << "decisions compared: " << decisions << ", rows that were here at an earlier stage: " << updated << "\n";
  EXPECT_GT(decisions, 100U);
  EXPECT_GT(updated, 10U);
}

TEST(Merge, ReportsWhatItAdded) {
  const ScratchDirectory scratch;
  RandomContents random(3);
  const Contents a = random.next();
  const MergeReport report = WorkDatabase::open(scratch / "new.db").merge(a, lowest_sample);
  EXPECT_EQ(report.environments, a.environments.size());
  EXPECT_EQ(report.runs, a.runs.size());
  EXPECT_EQ(report.trials, a.trials.size());
  EXPECT_EQ(report.updated, 0U);
  EXPECT_EQ(with_decisions_removed(read_contents(scratch / "new.db")), a);
}

TEST(Merge, TheLaterStageOfATrialAndOfARunIsKept) {
  RandomContents random(1);
  Contents late;
  while (late.trials.empty() || late.trials.begin()->second.status != TrialStatus::done) late = random.next();
  const std::string trial = late.trials.begin()->first;
  const std::string run = late.trials.begin()->second.run;
  late.runs.at(run).run.finished = 2'000'000'000;
  for (const TrialStatus stage :
       {TrialStatus::running, TrialStatus::crashed, TrialStatus::failed, TrialStatus::wrong, TrialStatus::pruned}) {
    Contents early = late;
    early.trials.at(trial).status = stage;
    early.trials.at(trial).samples_us.clear();
    early.runs.at(run).run.finished = 0;
    EXPECT_EQ(unite(early, late), late) << to_string(stage);
    EXPECT_EQ(unite(late, early), late) << to_string(stage);
  }
}

TEST(Merge, ContradictionsAreRefusedAndNothingIsWritten) {
  const ScratchDirectory scratch;
  RandomContents random(1);
  Contents original;
  while (original.trials.empty() || original.trials.begin()->second.status != TrialStatus::done) {
    original = random.next();
  }
  const auto path = make(scratch, "here.db", original);
  const Contents before = read_contents(path);

  Contents edited = original;
  edited.trials.begin()->second.samples_us.front() += 0.125;
  const auto other = make(scratch, "edited.db", edited);
  EXPECT_CONTAINS(message_of([&] { merge(path, {other}, lowest_sample); }), "with different samples");

  edited = original;
  edited.runs.begin()->second.run.host = "elsewhere";
  const auto moved = make(scratch, "moved.db", edited);
  EXPECT_CONTAINS(message_of([&] { merge(path, {moved}, lowest_sample); }), "has another environment, host");

  edited = original;
  edited.candidates.begin()->second.numerics = Numerics::multimem;
  const auto numerics = make(scratch, "numerics.db", edited);
  EXPECT_CONTAINS(message_of([&] { merge(path, {numerics}, lowest_sample); }), "numerics class");
  EXPECT_CONTAINS(message_of([&] { merge(scratch / "none.db", {path, other}, lowest_sample); }), "edited.db");
  EXPECT_FALSE(std::filesystem::exists(scratch / "none.db")) << "a destination was made for nothing";

  EXPECT_THROW(
      WorkDatabase::open(path).merge(
          random.next(), [](WorkDatabase&, const Environment&) { throw std::runtime_error("the choice failed"); }),
      std::runtime_error);
  EXPECT_EQ(read_contents(path), before);
}

TEST(Merge, DecisionsWithoutMeasurementsAreNotLostSilently) {
  const ScratchDirectory scratch;
  WorkDatabase::open(scratch / "work.db").replace_decisions(example_environment(), example_decisions(3));
  WorkDatabase::open(scratch / "work.db").write_snapshot(scratch / "snapshot.db");
  EXPECT_CONTAINS(message_of([&] { merge(scratch / "new.db", {scratch / "snapshot.db"}, lowest_sample); }),
                  "it is a snapshot");
  RandomContents random(2);
  EXPECT_CONTAINS(message_of([&] { WorkDatabase::open(scratch / "work.db").merge(random.next(), lowest_sample); }),
                  "without the measurements");
  EXPECT_EQ(read_decisions(scratch / "work.db").front().decisions.size(), 3U);
  EXPECT_CONTAINS(message_of([&] { merge(scratch / "new.db", {scratch / "missing.db"}, lowest_sample); }),
                  "missing.db");
}

TEST(Forget, UndoesAMerge) {
  std::size_t forgotten = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const ScratchDirectory scratch;
    RandomContents random(seed);
    const auto path = make(scratch, "here.db", random.next());
    // What nothing refers to any more goes with it, so compare with what has no such rows to begin with.
    std::string kept;
    {
      Contents contents = read_contents(path);
      while (contents.runs.size() > 1) {
        WorkDatabase::open(path).forget(contents.runs.rbegin()->first, lowest_sample);
        contents = read_contents(path);
      }
      kept = contents.runs.begin()->first;
    }
    const Contents before = read_contents(path);
    RandomContents others(seed + 1000);
    Contents more = others.next();
    while (more.runs.contains(kept)) more = others.next();
    WorkDatabase database = WorkDatabase::open(path);
    database.merge(more, lowest_sample);
    for (const auto& [id, run] : more.runs) {
      database.forget(id, lowest_sample);
      ++forgotten;
    }
    EXPECT_EQ(database.contents(), before);
  }
  EXPECT_GT(forgotten, 40U);
}

TEST(Forget, AnUnknownRunIsNamed) {
  const ScratchDirectory scratch;
  RandomContents random(1);
  const auto path = make(scratch, "here.db", random.next());
  const Contents before = read_contents(path);
  EXPECT_CONTAINS(message_of([&] { WorkDatabase::open(path).forget("run-9", lowest_sample); }), "'run-9'");
  EXPECT_EQ(read_contents(path), before);
}

TEST(History, CountsWhatEachRunLeft) {
  const ScratchDirectory scratch;
  RandomContents random(5);
  const Contents contents = random.next();
  const auto path = make(scratch, "here.db", contents);
  std::size_t trials = 0;
  std::int64_t started = 0;
  const std::vector<RunHistory> history = read_history(path);
  EXPECT_EQ(history.size(), contents.runs.size());
  for (const RunHistory& run : history) {
    EXPECT_GE(run.run.started, started);
    started = run.run.started;
    EXPECT_EQ(run.environment.key(), contents.runs.at(run.run.id).environment);
    trials += run.trials;
  }
  EXPECT_EQ(trials, contents.trials.size());
}

}  // namespace
}  // namespace arbiter::test
