// An algorithm from somebody else: a template and an entry in a folder of their own, nothing else in the program. It
// must be enumerated, proven, tuned, predicted and laid out as those that are built in.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>

#include "arbiter/db/database.hpp"
#include "arbiter/tuner/link_check.hpp"
#include "arbiter/tuner/tune.hpp"
#include "candidate/abi.hpp"
#include "communicator/heuristic.hpp"
#include "memory/workspace.hpp"
#include "tuner/ranks.hpp"

namespace arbiter {
namespace {

using std::chrono::milliseconds;

std::string read(const char* name) {
  std::ifstream file(std::string(ARBITER_STRANGER) + "/" + name);
  std::ostringstream text;
  text << file.rdbuf();
  EXPECT_FALSE(text.str().empty()) << name;
  return text.str();
}

/// What is built in, and the stranger's.
struct Extended {
  std::string algorithm = read("oneshot_mail.cuh");
  std::string json = extended_json();
  std::shared_ptr<TemplateMap> templates = extended_templates();
  std::shared_ptr<const Catalogue> catalogue = std::make_shared<const Catalogue>(Catalogue::parse(json, *templates));

  static std::string extended_json() {
    std::string text(builtin_templates().at("catalogue.json"));
    const auto append = [&](const char* end_of_list, const std::string& entry) {
      const std::size_t at = text.find(end_of_list);
      EXPECT_NE(at, std::string::npos) << end_of_list;
      if (at != std::string::npos) text.insert(at, ",\n" + entry);
    };
    append("\n  ],\n  \"constraints\"", read("protocol.json"));
    append("\n  ],\n  \"prologues\"", read("entry.json"));
    return text;
  }
  std::shared_ptr<TemplateMap> extended_templates() const {
    auto map = std::make_shared<TemplateMap>(builtin_templates());
    (*map)["algorithms/oneshot_mail.cuh"] = algorithm;
    (*map)["catalogue.json"] = json;
    return map;
  }
};

GroupOptions with(const Extended& extended) {
  GroupOptions options;
  options.variables = testing::test_variables(milliseconds(20'000));
  options.nccl = false;
  options.catalogue = extended.catalogue;
  options.templates = extended.templates;
  return options;
}

bool is_mail(const Candidate& candidate) { return candidate.algorithm == "oneshot_mail"; }

TEST(StrangersAlgorithm, IsTunedBesideTheOthers) {
  const Extended extended;
  const testing::TemporaryFolder folder;
  std::vector<Decision> decisions[2];
  std::string notes;
  const GroupOptions group_options = with(extended);
  testing::on_ranks_with(2, group_options, [&](Group& group) {
    TuneOptions options;
    options.families = {{"allreduce", Dtype::bf16, 128, 4, Mode::graph},
                        {"allreduce_residual_rmsnorm", Dtype::bf16, 128, 4, Mode::graph}};
    options.database = folder / "tune.db";
    options.effort = SearchEffort::for_device(DeviceKind::cpu);
    options.effort.final_samples = 4;
    options.measure = MeasureSettings::for_device(DeviceKind::cpu);
    options.measure.max_calls = 1;
    // Its own candidates and one-shot pushes, so that few kernels are compiled.
    options.source.enumerate = [](Group& g, const ProblemFamily& family, std::span<const CandidateSpec> plain) {
      std::vector<CandidateSpec> all = enumerate_candidates(g.capabilities(), family, plain);
      std::erase_if(all, [](const CandidateSpec& spec) {
        return !spec.kernel || spec.epilogue ||
               (spec.kernel->algorithm != "oneshot_mail" && spec.kernel->algorithm != "oneshot_push");
      });
      return all;
    };
    const TuneResult result = tune(group, options);
    decisions[group.rank()] = result.decisions;
    if (group.rank() == 0)
      for (const std::string& note : result.notes) notes += note + "\n";
  });
  EXPECT_EQ(notes, "");
  EXPECT_FALSE(decisions[0].empty());
  EXPECT_EQ(decisions[0], decisions[1]);

  WorkDatabase database = WorkDatabase::open(folder / "tune.db");
  std::set<std::string> measured;  // by pattern: timed, and so verified before
  for (const Environment& environment : database.environments())
    for (const Problem& problem : database.problems(environment))
      for (const Trial& trial : database.trials(environment, problem))
        if (is_mail(trial.candidate) && trial.status == TrialStatus::done) measured.insert(problem.pattern);
  EXPECT_EQ(measured, (std::set<std::string>{"allreduce", "allreduce_residual_rmsnorm"}));
}

TEST(StrangersAlgorithm, IsRightInEveryOrderOfArrival) {
  const Extended extended;
  LinkCheckOptions options;
  options.backend = Backend::custom;
  options.algorithm = "oneshot_mail";
  options.world = 3;
  options.variables = testing::test_variables(milliseconds(20'000));
  options.templates = extended.templates;
  options.catalogue = extended.catalogue;
  options.alone = true;
  LinkCheck check(options);
  for (std::uint64_t seed = 1; seed <= 100; ++seed) EXPECT_EQ(check.run(seed), "") << seed;
}

TEST(StrangersAlgorithm, HasControlWordsOfItsOwn) {
  const Extended extended;
  const AlgorithmEntry& entry = extended.catalogue->algorithm(Backend::custom, "oneshot_mail");
  EXPECT_EQ(entry.arrays_before, Catalogue::builtin().control_arrays());
  EXPECT_EQ(extended.catalogue->control_arrays(), entry.arrays_before + 1 + max_world);
  EXPECT_TRUE(entry.one_shot());  // the exports for engines go by this
  testing::on_ranks_with(2, with(extended), [&](Group& group) {
    group.reserve(0, 1024);
    EXPECT_GE(group.workspace().layout().push_offset,
              sizeof(arbiter_abi::Control) + static_cast<std::size_t>(extended.catalogue->control_arrays()) *
                                                 arbiter_abi::max_blocks * sizeof(unsigned));
  });
}

TEST(StrangersAlgorithm, IsChosenUntunedWhereTheCatalogueSaysThatItIsFast) {
  Extended extended;
  const auto chosen = [&] {
    std::string algorithm;
    testing::on_ranks_with(2, with(extended), [&](Group& group) {
      const ProblemFamily family{"allreduce", Dtype::bf16, 128, 4, Mode::graph};
      const std::string one = heuristic(group.capabilities(), family, 1).algorithm();
      if (group.rank() == 0) algorithm = one;
    });
    return algorithm;
  };
  EXPECT_EQ(chosen(), "oneshot_push");  // one step against three
  const auto replace_last = [&](std::string_view from, std::string_view to) {
    extended.json.replace(extended.json.rfind(from), from.size(), to);
  };
  replace_last("\"steps\": 3", "\"steps\": 1");
  replace_last("\"link_rows\": \"world * (world - 1)\"", "\"link_rows\": \"1\"");
  extended.catalogue = std::make_shared<const Catalogue>(Catalogue::parse(extended.json, *extended.templates));
  EXPECT_EQ(chosen(), "oneshot_mail");
}

TEST(StrangersAlgorithm, WhatIsPrunedIsACandidateOnlyIfAskedFor) {
  const Extended extended;
  testing::on_ranks_with(2, with(extended), [&](Group& group) {
    const ProblemFamily family{"allreduce", Dtype::bf16, 128, 4, Mode::graph};
    const auto threads = [&](bool exhaustive) {
      std::set<int> values;
      for (const CandidateSpec& spec : CandidateSource::runtime(exhaustive).enumerate(group, family, {}))
        if (spec.kernel && spec.kernel->algorithm == "oneshot_mail") values.insert(spec.kernel->parameter("threads"));
      return values;
    };
    EXPECT_EQ(threads(false), (std::set<int>{64, 256}));
    EXPECT_EQ(threads(true), (std::set<int>{64, 128, 256}));
  });
}

}  // namespace
}  // namespace arbiter
