// Keys, names, bytes, spellings and compatibility of the records.
#include "arbiter/db/records.hpp"
#include "arbiter/db/fields.hpp"

#include <functional>
#include <limits>
#include <set>

#include "db/fixtures.hpp"

namespace arbiter::test {
namespace {

/// One environment for every field, each different from the example in that field only.
std::vector<Environment> one_field_changed() {
  std::vector<Environment> all;
  const Environment example = example_environment();
  int fields = 0;
  for_each_field(example, [&](const char*, const auto&) { ++fields; });
  for (int changed = 0; changed < fields; ++changed) {
    Environment& other = all.emplace_back(example);
    int at = 0;
    for_each_field(other, [&]<typename Field>(const char*, Field& field) {
      if (at++ != changed) return;
      if constexpr (std::is_same_v<Field, std::string>) {
        field += "1";
      } else if constexpr (std::is_same_v<Field, bool>) {
        field = !field;
      } else if constexpr (std::is_same_v<Field, int>) {
        ++field;
      } else {
        field["NCCL_ALGO"] = "changed";
      }
    });
  }
  return all;
}

TEST(RecordsTest, EveryFieldOfAnEnvironmentIsInItsKey) {
  EXPECT_EQ(example_environment().key(), example_environment().key());
  EXPECT_EQ(example_environment().key().size(), 64U);
  std::set<std::string> keys = {example_environment().key()};
  for (const Environment& environment : one_field_changed()) {
    EXPECT_TRUE(keys.insert(environment.key()).second) << "two environments share a key";
  }
}

TEST(RecordsTest, TextCannotMoveBetweenFieldsUnnoticed) {
  Environment a;
  a.device = "ab";
  a.gpu_name = "c";
  Environment b;
  b.device = "a";
  b.gpu_name = "bc";
  EXPECT_NE(a.key(), b.key());
  Candidate c;
  c.name = "x";
  c.source_hash = "yz";
  Candidate d;
  d.name = "xy";
  d.source_hash = "z";
  EXPECT_NE(c.key(), d.key());
}

TEST(RecordsTest, KeysNeverChange) {
  // Databases in the field hold these: a change here needs a migration.
  EXPECT_EQ(example_environment().key(), "ca06d6e0000ffe4c6ee244ac209aa351304f72b69f57910c73de1df60966372f");
  Environment of_version_1 = example_environment();
  of_version_1.nvlink_domains.clear();
  EXPECT_EQ(of_version_1.key(), "d36d064de9d6969ba6bc46f98afce11ac1d5f58b90e5addf95ad2e42deca2bc6");
  EXPECT_EQ(example_problem().key(), "e0752a3134395b4800c1a277607b55da789a78409e19df74dd7b99d3587c9d69");
  EXPECT_EQ(example_candidate().key(), "9a12b644a0e1f62de203fc240810914ef3b51335d7cf44849b78330a0ef738ad");
}

TEST(RecordsTest, EveryFieldOfAProblemIsInItsKey) {
  std::set<std::string> keys = {example_problem().key()};
  const auto differs = [&](auto&& spoil) {
    Problem problem = example_problem();
    spoil(problem);
    EXPECT_TRUE(keys.insert(problem.key()).second);
  };
  differs([](Problem& p) { p.pattern = "allreduce"; });
  differs([](Problem& p) { p.dtype = Dtype::fp16; });
  differs([](Problem& p) { p.hidden++; });
  differs([](Problem& p) { p.tokens++; });
  differs([](Problem& p) { p.world++; });
  differs([](Problem& p) { p.mode = Mode::eager; });
  differs([](Problem& p) { p.in_place = true; });
}

TEST(RecordsTest, ARunSaysWhatDropped) {
  const auto dropped = [](int start_watts, int end_watts, bool clocks) {
    arbiter::Run run;
    run.power_start_watts = start_watts;
    run.power_end_watts = end_watts;
    run.clocks_dropped = clocks;
    EXPECT_EQ(run.power_dropped(), run.dropped().ends_with("power"));
    return run.dropped();
  };
  EXPECT_EQ(dropped(500, 399, false), "power");
  EXPECT_EQ(dropped(500, 400, false), "") << "by no more than a fifth";
  EXPECT_EQ(dropped(110, 650, false), "") << "an idle GPU draws little";
  EXPECT_EQ(dropped(500, 0, false), "") << "not known, or the run was killed";
  EXPECT_EQ(dropped(0, 100, false), "");
  EXPECT_EQ(dropped(500, 490, true), "clocks");
  EXPECT_EQ(dropped(500, 200, true), "clocks and power");
}

TEST(RecordsTest, ProblemNameAndBytes) {
  Problem problem = example_problem();
  EXPECT_EQ(problem.name(), "allreduce_residual_rmsnorm bf16 hidden=8192 tokens=64 world=4 graph");
  EXPECT_EQ(problem.bytes(), 64 * 8192 * 2);
  problem.in_place = true;
  problem.dtype = Dtype::fp32;
  problem.mode = Mode::eager;
  EXPECT_EQ(problem.name(), "allreduce_residual_rmsnorm fp32 hidden=8192 tokens=64 world=4 eager in_place");
  EXPECT_EQ(problem.bytes(), 64 * 8192 * 4);
}

TEST(RecordsTest, BytesOfAnOpenEndedIntervalSaturate) {
  Decision decision = example_decisions(1)[0];
  EXPECT_EQ(decision.bytes_min(), 8192 * 2);
  EXPECT_EQ(decision.bytes_max(), 100 * 8192 * 2);
  decision.tokens_max = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(decision.bytes_max(), std::numeric_limits<std::int64_t>::max());
}

TEST(RecordsTest, TrialStatusSpellings) {
  for (const char* word : {"running", "done", "wrong", "failed", "crashed", "pruned"}) {
    EXPECT_EQ(to_string(parse_trial_status(word)), word);
  }
  try {
    parse_trial_status("dnoe");
    FAIL() << "accepted";
  } catch (const InvalidArgument& error) {
    EXPECT_CONTAINS(error.what(), "'done'");
  }
  EXPECT_THROW(parse_trial_status(""), InvalidArgument);
}

Candidate nccl_with_epilogue() {
  Candidate candidate = nccl_candidate();
  candidate.name += "+epilogue:threads=512";
  candidate.source_hash = "beef";
  return candidate;
}

Candidate multicast_candidate() {
  Candidate candidate = example_candidate();
  candidate.name += ",multicast=1";
  return candidate;
}

TEST(CompatibilityTest, EqualIsEqual) {
  for (const Candidate& candidate : {example_candidate(), nccl_candidate(), nccl_with_epilogue()}) {
    const auto report = compatibility(example_environment(), example_environment(), candidate);
    EXPECT_EQ(report.verdict, Compatibility::equal);
    EXPECT_TRUE(report.differences.empty());
  }
  EXPECT_EQ(environment_distance(example_environment(), example_environment()), 0);
}

/// The table of docs/database.md: what a difference means to our own kernel, to NCCL, and to NCCL with our epilogue.
TEST(CompatibilityTest, ADifferenceCountsForTheCandidatesThatItTouches) {
  constexpr auto eq = Compatibility::equal, ok = Compatibility::compatible, no = Compatibility::incompatible;
  struct Row {
    const char* what;
    std::function<void(Environment&)> measured;
    Compatibility kernel, nccl, both;
  };
  const std::vector<Row> table = {
      {"another GPU", [](auto& e) { e.gpu_name = "NVIDIA H100"; }, no, no, no},
      {"fewer SMs", [](auto& e) { e.sm_count = 114; }, no, no, no},
      {"another compute capability", [](auto& e) { e.compute_capability = 100; }, no, no, no},
      {"another memory clock", [](auto& e) { e.memory_clock_mhz = 2619; }, no, no, no},
      {"an unknown memory clock", [](auto& e) { e.memory_clock_mhz = 0; }, ok, ok, ok},
      {"another power limit", [](auto& e) { e.power_limit_watts = 600; }, ok, ok, ok},
      {"another driver of the branch", [](auto& e) { e.driver_version = "580.82"; }, ok, ok, ok},
      {"more of the driver's version", [](auto& e) { e.driver_version = "580.95.05"; }, ok, ok, ok},
      {"another driver branch", [](auto& e) { e.driver_version = "575.95"; }, no, no, no},
      {"a driver seen without NVML", [](auto& e) { e.driver_version = "CUDA 13.0"; }, ok, ok, ok},
      {"a driver of unknown version", [](auto& e) { e.driver_version = ""; }, ok, ok, ok},
      {"a patch of the CUDA runtime", [](auto& e) { e.cuda_runtime = "13.0.48"; }, ok, ok, ok},
      {"a minor release of the CUDA runtime", [](auto& e) { e.cuda_runtime = "13.1"; }, ok, ok, ok},
      {"a major release of the CUDA runtime", [](auto& e) { e.cuda_runtime = "12.9"; }, no, no, no},
      {"a patch of the compiler", [](auto& e) { e.compiler_version = "13.0.1"; }, ok, eq, ok},
      {"a minor release of the compiler", [](auto& e) { e.compiler_version = "13.1"; }, ok, eq, ok},
      {"a major release of the compiler", [](auto& e) { e.compiler_version = "12.9"; }, no, eq, no},
      {"a patch of NCCL", [](auto& e) { e.nccl_version = "2.28.7"; }, eq, ok, ok},
      {"a minor release of NCCL", [](auto& e) { e.nccl_version = "2.27.3"; }, eq, no, no},
      {"2.2 is not 2.28", [](auto& e) { e.nccl_version = "2.2.3"; }, eq, no, no},
      {"no NCCL", [](auto& e) { e.nccl_version = ""; }, eq, no, no},
      {"a variable of NCCL", [](auto& e) { e.nccl_variables["NCCL_CUMEM_ENABLE"] = "0"; }, eq, no, no},
      {"a node with more GPUs", [](auto& e) { e.ranks_per_node = 8; }, ok, ok, ok},
      {"two nodes", [](auto& e) { e.nodes = 2; }, no, no, no},
      {"other links", [](auto& e) { e.topology = "pcie"; }, no, no, no},
      {"links seen without NVML", [](auto& e) { e.topology = "unknown", e.nvlink_domains = "none"; }, ok, ok, ok},
      {"other NVLink domains", [](auto& e) { e.nvlink_domains = "1+1"; }, no, no, no},
      {"domains from before they were recorded", [](auto& e) { e.nvlink_domains = ""; }, ok, ok, ok},
      {"another provider of symmetric memory", [](auto& e) { e.symmetric_memory = "cuda_ipc"; }, no, eq, eq},
      {"multicast, which it does not use", [](auto& e) { e.multicast = true; }, ok, ok, ok},
      {"another Arbiter", [](auto& e) { e.arbiter_version = "9.0"; }, ok, ok, ok},
      {"another catalogue", [](auto& e) { e.catalogue_hash = "0"; }, ok, ok, ok},
  };
  for (const Row& row : table) {
    Environment measured = example_environment();
    row.measured(measured);
    const auto verdict = [&](const Candidate& candidate) {
      const auto report = compatibility(example_environment(), measured, candidate);
      // Whatever counts is said, and nothing else.
      EXPECT_EQ(report.differences.empty(), report.verdict == eq) << row.what;
      return report.verdict;
    };
    EXPECT_EQ(verdict(example_candidate()), row.kernel) << row.what;
    EXPECT_EQ(verdict(nccl_candidate()), row.nccl) << row.what;
    EXPECT_EQ(verdict(nccl_with_epilogue()), row.both) << row.what;
    EXPECT_GE(environment_distance(example_environment(), measured), 1) << row.what;
  }
}

TEST(CompatibilityTest, WhereTheUseOfRegistersIsRecordedItDecidesInsteadOfTheRelease) {
  Environment measured = example_environment();
  measured.compiler_version = "12.9";
  const auto report = compatibility(example_environment(), measured, example_candidate(), {64, 0});
  EXPECT_EQ(report.verdict, Compatibility::compatible);
  EXPECT_EQ(report.differences, std::vector<std::string>{"compiler_version: 13.0 here, 12.9 measured"});
  EXPECT_EQ(compatibility(example_environment(), measured, nccl_with_epilogue(), {64, 0}).verdict,
            Compatibility::compatible);
  EXPECT_EQ(compatibility(example_environment(), measured, example_candidate(), {}).verdict,
            Compatibility::incompatible);
}

TEST(CompatibilityTest, MoreRegistersOrANewSpillAreOtherKernels) {
  EXPECT_EQ(exceeds({64, 0}, {64, 0}), "");
  EXPECT_EQ(exceeds({60, 0}, {64, 8}), "");
  EXPECT_EQ(exceeds({72, 0}, {64, 0}), "this compiler gives it 72 registers, measured with 64");
  EXPECT_EQ(exceeds({64, 16}, {64, 8}), "this compiler spills 16 bytes, measured with 8");
  EXPECT_EQ(exceeds({72, 16}, {64, 0}),
            "this compiler gives it 72 registers, measured with 64; it spills 16 bytes, measured with 0");
  for (const KernelUse& unknown : {KernelUse{}, KernelUse{-1, 0}}) {
    EXPECT_EQ(exceeds({72, 0}, unknown), "");
    EXPECT_EQ(exceeds(unknown, {64, 0}), "");
  }
  EXPECT_EQ(most_of({64, 8}, {72, 0}), (KernelUse{72, 8}));
  EXPECT_EQ(most_of({64, -1}, {-1, 0}), KernelUse{});
}

TEST(CompatibilityTest, OnSeveralNodesTheirSizeSaysHowTheGroupIsSpread) {
  Environment here = example_environment();
  here.nodes = 2;
  Environment measured = here;
  measured.ranks_per_node = 8;
  EXPECT_EQ(compatibility(here, measured, example_candidate()).verdict, Compatibility::incompatible);
}

TEST(CompatibilityTest, MulticastCountsForKernelsThatUseIt) {
  Environment measured = example_environment();
  measured.multicast = true;
  EXPECT_EQ(compatibility(example_environment(), measured, multicast_candidate()).verdict, Compatibility::incompatible);
}

TEST(CompatibilityTest, AFieldThatWasNotRecordedIsCompatibleAndSaid) {
  Environment measured = example_environment();
  measured.nvlink_domains.clear();
  for (const auto& report : {compatibility(example_environment(), measured, example_candidate()),
                             same_hardware(example_environment(), measured)}) {
    EXPECT_EQ(report.verdict, Compatibility::compatible);
    EXPECT_EQ(report.differences, std::vector<std::string>{"nvlink_domains: 1 here, not recorded measured"});
  }
}

TEST(CompatibilityTest, TheDistanceCountsFieldsFirstAndThenHowFarTheyAreApart) {
  const auto distance = [](auto&& spoil) {
    Environment measured = example_environment();
    spoil(measured);
    return compatibility(example_environment(), measured, nccl_candidate()).distance;
  };
  EXPECT_EQ(distance([](auto&) {}), 0);
  const double near = distance([](auto& e) { e.driver_version = "580.94"; });
  const double far = distance([](auto& e) { e.driver_version = "580.20"; });
  const double patch = distance([](auto& e) { e.driver_version = "580.95.05"; });
  EXPECT_LT(near, far);
  EXPECT_LT(patch, near);
  EXPECT_LT(far, distance([](auto& e) {
              e.driver_version = "580.94";
              e.nccl_version = "2.28.4";
            }));
  EXPECT_LT(distance([](auto& e) { e.power_limit_watts = 650; }), distance([](auto& e) { e.power_limit_watts = 300; }));
}

TEST(CompatibilityTest, TheSameHardwareIsWhatIsSoldUnderOneName) {
  const std::set<std::string> hardware = {"device",           "gpu_name",       "sm_count", "compute_capability",
                                          "memory_clock_mhz", "nvlink_domains", "topology", "nodes"};
  const std::set<std::string> silent = {"arbiter_version", "catalogue_hash"};
  std::size_t seen = 0;
  for (const Environment& measured : one_field_changed()) {
    const auto report = same_hardware(example_environment(), measured);
    auto all = compatibility(example_environment(), measured, nccl_with_epilogue());
    if (all.differences.empty()) all = compatibility(example_environment(), measured, example_candidate());
    const std::string field = all.differences.at(0).substr(0, all.differences[0].find(':'));
    EXPECT_EQ(report.verdict, hardware.count(field) != 0 ? Compatibility::incompatible
                              : silent.count(field) != 0 ? Compatibility::equal
                                                         : Compatibility::compatible)
        << field;
    seen += hardware.count(field);
  }
  EXPECT_EQ(seen, hardware.size());
}

TEST(CompatibilityTest, WithoutACompilerTheKernelsAreThoseOfAnotherMachine) {
  Environment here = example_environment();
  here.compiler_version.clear();
  const auto report = compatibility(here, example_environment(), example_candidate());
  EXPECT_EQ(report.verdict, Compatibility::compatible);
  EXPECT_EQ(report.differences, std::vector<std::string>{"compiler_version: none here, 13.0 measured"});
  EXPECT_EQ(compatibility(example_environment(), here, example_candidate()).verdict, Compatibility::incompatible);
}

TEST(CompatibilityTest, HostCompilersAreComparedByName) {
  Environment here = example_environment();
  Environment measured = here;
  here.compiler_version = "g++ (Debian 12.2.0-14) 12.2.0";
  measured.compiler_version = "g++ (Debian 12.2.1-1) 12.2.1";
  EXPECT_EQ(compatibility(here, measured, example_candidate()).verdict, Compatibility::compatible);
  measured.compiler_version = "clang 12.2.0";
  EXPECT_EQ(compatibility(here, measured, example_candidate()).verdict, Compatibility::incompatible);
}

// A bound of multiprocessors (ARBITER_MAX_SMS) makes a smaller GPU for our kernels, and nothing for NCCL.
TEST(CompatibilityTest, FewerMultiprocessorsHereAreNothingToNccl) {
  Environment here = example_environment();
  here.sm_count = 16;
  Candidate nccl = nccl_with_epilogue();
  nccl.source_hash.clear();
  EXPECT_EQ(compatibility(here, example_environment(), nccl).verdict, Compatibility::compatible);
  EXPECT_EQ(compatibility(here, example_environment(), nccl).differences,
            (std::vector<std::string>{"sm_count: 16 here, 132 measured"}));
  EXPECT_EQ(compatibility(example_environment(), here, nccl).verdict, Compatibility::incompatible);
  EXPECT_EQ(compatibility(here, example_environment(), nccl_with_epilogue()).verdict, Compatibility::incompatible);
  EXPECT_EQ(compatibility(here, example_environment(), example_candidate()).verdict, Compatibility::incompatible);
}

TEST(CompatibilityTest, TheWorstDifferenceDecides) {
  Environment measured = example_environment();
  measured.driver_version = "580.82";
  measured.sm_count = 100;
  measured.power_limit_watts = 1;
  const auto report = compatibility(example_environment(), measured, example_candidate());
  EXPECT_EQ(report.verdict, Compatibility::incompatible);
  EXPECT_EQ(report.differences,
            (std::vector<std::string>{"sm_count: 132 here, 100 measured", "power_limit_watts: 700 here, 1 measured",
                                      "driver_version: 580.95 here, 580.82 measured"}));
}

}  // namespace
}  // namespace arbiter::test
