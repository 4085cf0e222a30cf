// What changed between two databases.
#include "arbiter/db/diff.hpp"

#include "db/fixtures.hpp"

namespace arbiter::test {
namespace {

Decision decision(std::int64_t first, std::int64_t last, int candidate) {
  Decision decision;
  const Problem problem = example_problem();
  decision.pattern = problem.pattern;
  decision.dtype = problem.dtype;
  decision.hidden = problem.hidden;
  decision.world = problem.world;
  decision.mode = problem.mode;
  decision.tokens_min = first;
  decision.tokens_max = last;
  decision.candidate = example_candidate(candidate);
  decision.median_us = 1 + candidate;
  return decision;
}

const Environment environment = example_environment();
const std::string key = environment.key();

Contents decided(std::vector<Decision> decisions, const Environment& where = environment) {
  Contents contents;
  contents.environments.emplace(where.key(), where);
  contents.decisions.emplace(where.key(), std::move(decisions));
  return contents;
}

std::string text(const std::vector<DecisionChange>& changes) {
  std::string text;
  for (const DecisionChange& change : changes) {
    const auto number = [](const std::optional<Candidate>& c) { return c ? c->name.substr(c->name.size() - 1) : "-"; };
    text += std::to_string(change.decision.tokens_min) + ".." + std::to_string(change.decision.tokens_max) + ":" +
            number(change.before) + ">" + number(change.after) + " ";
  }
  return text;
}

TEST(Diff, ComparesEveryTokenCount) {
  const Contents old = decided({decision(1, 8, 1), decision(9, 64, 2)});
  EXPECT_EQ(text(diff(old, key, old, key)), "");
  EXPECT_EQ(text(diff(old, key, decided({decision(1, 4, 1), decision(5, 64, 2)}), key)), "5..8:1>2 ");
  EXPECT_EQ(text(diff(old, key, decided({decision(1, 16, 3), decision(17, 64, 2)}), key)), "1..8:1>3 9..16:2>3 ");
  EXPECT_EQ(text(diff(old, key, decided({decision(1, 8, 1), decision(9, 128, 2)}), key)), "65..128:->2 ");
  EXPECT_EQ(text(diff(old, key, decided({decision(4, 8, 1)}), key)), "1..3:1>- 9..64:2>- ");
  EXPECT_EQ(text(diff({}, key, old, key)), "1..8:->1 9..64:->2 ");
  EXPECT_EQ(text(diff(old, key, {}, key)), "1..8:1>- 9..64:2>- ");
}

TEST(Diff, FamiliesAreComparedApart) {
  Decision other = decision(1, 64, 5);
  other.world = 2;
  EXPECT_EQ(text(diff(decided({other, decision(1, 64, 1)}), key, decided({other, decision(1, 64, 2)}), key)),
            "1..64:1>2 ");
  EXPECT_EQ(text(diff(decided({decision(1, 64, 1)}), key, decided({other}), key)), "1..64:->5 1..64:1>- ");
}

TEST(Diff, EnvironmentsMayDiffer) {
  const Contents there = decided({decision(1, 64, 2)}, other_environment());
  EXPECT_EQ(text(diff(decided({decision(1, 64, 1)}), key, there, other_environment().key())), "1..64:1>2 ");
}

TEST(Diff, TimesAreThoseOfTheLargestSizeWhereBothWereMeasured) {
  const ScratchDirectory scratch;
  const auto measured = [&](const std::string& name, double factor, int winner) {
    WorkDatabase database = WorkDatabase::open(scratch / name);
    const std::string run = database.begin_run(environment, {});
    for (const std::int64_t tokens : {1, 8, 64}) {
      for (const int number : {1, 2}) {
        if (tokens == 64 && number == 1) continue;
        Trial trial = done_trial(tokens, number);
        trial.samples_us = {factor * (number + static_cast<double>(tokens))};
        database.begin_trial(run, environment, trial.problem, trial.candidate);
        database.finish_trial(run, environment, trial);
      }
    }
    database.replace_decisions(environment, {decision(1, 64, winner)});
    return database.contents();
  };
  const auto changes = diff(measured("old.db", 1, 2), key, measured("new.db", 10, 1), key);
  ASSERT_EQ(changes.size(), 1U);
  EXPECT_EQ(changes[0].tokens, 8);
  EXPECT_EQ(changes[0].before_us, 100);
  EXPECT_EQ(changes[0].after_us, 90);
  const auto unknown = diff(decided({decision(1, 64, 3)}), key, decided({decision(1, 64, 4)}), key);
  ASSERT_EQ(unknown.size(), 1U);
  EXPECT_EQ(unknown[0].tokens, 64) << "each database knows its own winner at the end of the interval";
  EXPECT_EQ(unknown[0].before_us, 4);
}

TEST(Diff, SnapshotsSayTheSizeThatTheirTimesBelongTo) {
  Decision was = decision(1, 90, 3), is = decision(1, 90, 4);
  was.measured_tokens = is.measured_tokens = 64;
  was.use = {64, 0};
  is.use = {40, 8};
  const auto changes = diff(decided({was}), key, decided({is}), key);
  ASSERT_EQ(changes.size(), 1U);
  EXPECT_EQ(changes[0].tokens, 64);
  EXPECT_EQ(changes[0].before_us, 4);
  EXPECT_EQ(changes[0].after_us, 5);
  EXPECT_EQ(changes[0].before_use, was.use);
  EXPECT_EQ(changes[0].after_use, is.use);
  is.measured_tokens = 32;
  EXPECT_EQ(diff(decided({was}), key, decided({is}), key)[0].tokens, 0) << "two sizes are not compared";
}

}  // namespace
}  // namespace arbiter::test
