// A second tune of the same file: it adds to what is known, and takes nothing away.
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <iterator>

#include "arbiter/db/contents.hpp"
#include "arbiter/db/database.hpp"
#include "arbiter/tuner/recompute.hpp"
#include "tuner/modelled_tune.hpp"

namespace arbiter {
namespace {

using namespace testing;

/// "1-8 oneshot_push; 9-16 twoshot_push", as the file has it.
std::string stored(const std::filesystem::path& path) {
  std::string text;
  for (const DecisionSet& set : read_decisions(path)) {
    for (const Decision& decision : set.decisions) {
      text += (text.empty() ? "" : "; ") + std::to_string(decision.tokens_min) + "-" +
              std::to_string(decision.tokens_max) + " " + decision.candidate.name;
    }
  }
  return text;
}

TEST(TuneAgain, AFewSizesKeepTheDecisionsOfAllOthers) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "q.db");
  const TuneResult first = modelled_tune(options, two_lines(8));
  ASSERT_GE(first.decisions.size(), 2U);
  const std::string before = stored(options.database);
  ASSERT_NE(before.find("-16 "), std::string::npos) << before;

  TuneOptions one = options;
  one.families = {small_family(1)};
  one.tokens = {1};
  const TuneResult second = modelled_tune(one, two_lines(8));
  EXPECT_EQ(second.measured, 1U);
  EXPECT_EQ(stored(options.database), before);
  EXPECT_EQ(second.decisions, first.decisions);

  TuneOptions fewer = options;
  fewer.families = {small_family(4)};
  modelled_tune(fewer, two_lines(8));
  EXPECT_EQ(stored(options.database), before) << "a smaller max_tokens";
}

TEST(TuneAgain, DecisionsEndWhereMeasuringEndedAndGrowWithIt) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "q.db");
  options.families = {small_family(8192)};
  options.tokens = {1};
  EXPECT_EQ(modelled_tune(options, two_lines(4)).decisions.back().tokens_max, 1) << "nothing is known of 8192";
  options.tokens = {8, 100};
  const TuneResult grown = modelled_tune(options, two_lines(4));
  EXPECT_EQ(grown.decisions.front().tokens_min, 1);
  EXPECT_EQ(grown.decisions.back().tokens_max, 100);
  // What an earlier version stored beyond that goes.
  {
    WorkDatabase database = WorkDatabase::open(options.database);
    std::vector<Decision> decisions = grown.decisions;
    decisions.back().tokens_max = 8192;
    database.replace_decisions(database.environments().front(), decisions);
  }
  options.families = {small_family(1)};
  options.tokens = {1};
  EXPECT_EQ(modelled_tune(options, two_lines(4)).decisions, grown.decisions);
}

TEST(TuneAgain, WhatWasCutOffDecidesOnlyWhatItMeasured) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "q.db");
  options.families = {small_family(8192)};
  options.effort.bisections = 0;
  std::atomic<bool> stop{false};
  struct Stopper : ProgressSink {
    explicit Stopper(std::atomic<bool>& the_stop) : stop(the_stop) {}
    void update(const Progress& progress) override {
      if (progress.done == 1) stop = true;
    }
    std::atomic<bool>& stop;
  } stopper(stop);
  options.cancel = &stop;
  // One-shot is best at the first size, and the worst there is at the last.
  const TuneResult cut = modelled_tune(options, two_lines(64), {}, &stopper);
  ASSERT_TRUE(cut.cancelled);
  ASSERT_FALSE(cut.decisions.empty());
  std::int64_t last = 0;
  const WorkDatabase database = WorkDatabase::open(options.database);
  for (const Problem& problem : database.problems(database.environments().front())) {
    last = database.deciding_trials(database.environments().front(), problem).empty() ? last : problem.tokens;
  }
  ASSERT_LT(last, 8192);
  EXPECT_EQ(cut.decisions.back().tokens_max, last);
}

TEST(TuneAgain, MergingATuneChangesNoneOfItsIntervals) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "q.db");
  options.families = {small_family(300)};
  options.tokens = {1, 8, 100};
  const std::vector<Decision> tuned = modelled_tune(options, two_lines(30)).decisions;
  ASSERT_GE(tuned.size(), 2U);
  merge(folder / "merged.db", {options.database},
        [](WorkDatabase& file, const Environment& environment) { recompute_decisions(file, environment); });
  EXPECT_EQ(read_decisions(folder / "merged.db").front().decisions, tuned);
}

TEST(TuneAgain, WhatIsMeasuredAgainIsDecidedAnew) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "q.db");
  options.tokens = {1, 2, 16};
  const TuneResult first = modelled_tune(options, two_lines(8));
  options.tokens = {16};
  // From now on one-shot wins everywhere; only the size that was measured again can know.
  const TuneResult second = modelled_tune(options, two_lines(100));
  ASSERT_FALSE(first.decisions.empty());
  EXPECT_NE(first.decisions.back().candidate.algorithm, "oneshot_push");
  for (const Decision& decision : second.decisions) EXPECT_EQ(decision.candidate.algorithm, "oneshot_push");
  EXPECT_EQ(second.decisions.front().tokens_min, 1);
  EXPECT_EQ(second.decisions.back().tokens_max, 16);
}

TEST(TuneAgain, ScreeningSaysNothingAgainstWhatWasMeasuredInFull) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "q.db");
  const TuneResult first = modelled_tune(options, two_lines(8));
  const std::string before = stored(options.database);
  // A second tune that is stopped as soon as it has screened something.
  std::atomic<bool> stop{false};
  struct Stopper : ProgressSink {
    explicit Stopper(std::atomic<bool>& the_stop) : stop(the_stop) {}
    void update(const Progress& progress) override {
      if (!progress.best.empty()) stop = true;
    }
    std::atomic<bool>& stop;
  } stopper(stop);
  options.cancel = &stop;
  const TuneResult second = modelled_tune(options, two_lines(8), {}, &stopper);
  ASSERT_TRUE(second.cancelled);
  EXPECT_EQ(stored(options.database), before);
}

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(TuneAgain, ASnapshotIsNotMeasuredInto) {
  const TemporaryFolder folder;
  TuneOptions options = modelled_options(folder / "q.db");
  options.families = {small_family(2)};
  modelled_tune(options, two_lines(8));
  const std::filesystem::path snapshot = folder / "snapshot.db";
  write_snapshot(snapshot, read_decisions(options.database));
  const std::string before = bytes_of(snapshot);
  options.database = snapshot;
  try {
    modelled_tune(options, two_lines(8));
    FAIL() << "it was tuned into";
  } catch (const DatabaseError& error) {
    EXPECT_NE(std::string(error.what()).find("it is a snapshot"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("--db"), std::string::npos) << error.what();
  }
  EXPECT_EQ(bytes_of(snapshot), before);
  EXPECT_FALSE(std::filesystem::exists(snapshot.string() + "-wal"));
  EXPECT_FALSE(std::filesystem::exists(snapshot.string() + ".lock"));
}

}  // namespace
}  // namespace arbiter
