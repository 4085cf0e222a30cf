// What is timed is what is verified: graphs that do nothing are fast, and must not win.
#include <gtest/gtest.h>

#include "arbiter/db/database.hpp"
#include "tuner/modelled_tune.hpp"

namespace arbiter {
namespace {

using testing::TemporaryFolder;

TEST(TuneVerified, GraphsThatDoNothingNeverWin) {
  const TemporaryFolder folder;
  const TuneOptions options = testing::modelled_options(folder / "q.db");
  const TuneResult result = testing::modelled_tune(options, testing::two_lines(8), [](Group& group, TuneOptions&) {
    static_cast<testing::ClockworkDevice&>(group.device()).lose_every_second_graph();
  });
  EXPECT_GT(result.wrong, 0U);
  for (const Decision& decision : result.decisions) EXPECT_GE(decision.median_us, 2) << decision.candidate.name;
  // Nor is such a time kept anywhere: an empty replay takes 30 ns, the fastest real call 2 us.
  const WorkDatabase database = WorkDatabase::open(options.database);
  std::size_t samples = 0;
  for (const Environment& environment : database.environments()) {
    for (const Problem& problem : database.problems(environment)) {
      for (const Trial& trial : database.trials(environment, problem)) {
        if (trial.status == TrialStatus::wrong) {
          EXPECT_NE(trial.reason.find("the captured graph"), std::string::npos) << trial.reason;
          EXPECT_TRUE(trial.samples_us.empty());
        }
        for (const double us : trial.samples_us) EXPECT_GE(us, 2) << trial.candidate.name << problem.name();
        samples += trial.samples_us.size();
      }
    }
  }
  EXPECT_GT(samples, 0U);
}

TEST(TuneVerified, EagerTunesAreVerifiedToo) {
  const TemporaryFolder folder;
  TuneOptions options = testing::modelled_options(folder / "q.db");
  options.families = {testing::small_family(4, Mode::eager)};
  const TuneResult result = testing::modelled_tune(options, testing::two_lines(8));
  EXPECT_EQ(result.wrong, 0U);
  EXPECT_FALSE(result.decisions.empty());
}

}  // namespace
}  // namespace arbiter
