// The plan of what continuous integration compiles, and the record of registers and spills.
#include "compile_coverage.hpp"

#include <gtest/gtest.h>

#include <set>

#include "arbiter/error.hpp"
#include "variant_options.hpp"

namespace arbiter::cli {
namespace {

const std::vector<CompileTask>& plan() {
  static const std::vector<CompileTask> tasks =
      covering_tasks(Catalogue::builtin(), {gpu_targets.begin(), gpu_targets.end()});
  return tasks;
}

TEST(Coverage, EveryAlgorithmMeetsEveryTargetThatCanRunIt) {
  std::set<std::string> planned;
  for (const CompileTask& task : plan()) {
    planned.insert(std::string(to_string(task.variant.backend)) + "/" + task.variant.algorithm + " " + task.target);
  }
  for (const AlgorithmEntry& algorithm : Catalogue::builtin().algorithms()) {
    const std::string name = std::string(to_string(algorithm.backend)) + "/" + algorithm.name;
    EXPECT_TRUE(planned.contains(name + " sm_90a")) << name;
    EXPECT_TRUE(planned.contains(name + " sm_100a")) << name;
  }
  EXPECT_TRUE(planned.contains("trtllm/oneshot_push sm_80"));
}

TEST(Coverage, EveryParameterCombinationOfAnOrdinaryProblemIsPlanned) {
  // What a tune of one model enumerates, for another number of ranks and another pattern than drawn by chance.
  std::set<std::string> planned;
  for (const CompileTask& task : plan()) planned.insert(task.variant.name() + " " + task.target);
  for (const char* pattern : {"allreduce", "allreduce_residual_rmsnorm"}) {
    for (const std::string target : {"sm_90a", "sm_100a"}) {
      for (const Variant& variant :
           enumerate(Catalogue::builtin(), pattern, Dtype::bf16, 4, 8192, limits_of(target)).variants) {
        EXPECT_TRUE(planned.contains(variant.name() + " " + target)) << variant.name() << " for " << target;
      }
    }
  }
}

/// Without the number that a pattern's name may hold.
std::string kind_of(const PartEntry& part) {
  return part.template_name + " " + std::string(to_string(part.scale_layout));
}

TEST(Coverage, EveryPartMeetsEveryTargetAndDtype) {
  std::set<std::string> planned;
  for (const CompileTask& task : plan()) {
    for (const PartEntry& part : Catalogue::builtin().pattern(task.variant.pattern).parts) {
      planned.insert(kind_of(part) + " " + task.target);
      planned.insert(kind_of(part) + " " + std::string(to_string(task.variant.dtype)));
    }
  }
  for (const PartEntry& part : Catalogue::builtin().parts()) {
    for (const std::string_view target : gpu_targets) {
      EXPECT_TRUE(planned.contains(kind_of(part) + " " + std::string(target))) << part.name << " for " << target;
    }
    EXPECT_TRUE(planned.contains(kind_of(part) + " bf16")) << part.name;
    EXPECT_TRUE(planned.contains(kind_of(part) + " fp16")) << part.name;
  }
}

TEST(Coverage, IsTheSameEveryTimeAndHasNoTaskTwice) {
  const std::vector<CompileTask> again = covering_tasks(Catalogue::builtin(), {gpu_targets.begin(), gpu_targets.end()});
  ASSERT_EQ(again.size(), plan().size());
  EXPECT_LT(again.size(), 1500U);  // each takes a quarter of a second
  std::set<std::string> seen;
  for (std::size_t i = 0; i < again.size(); ++i) {
    EXPECT_EQ(again[i].variant, plan()[i].variant);
    EXPECT_EQ(again[i].target, plan()[i].target);
    EXPECT_EQ(again[i].rank, plan()[i].rank);
    EXPECT_TRUE(
        seen.insert(again[i].target + " " + again[i].variant.full_name() + std::to_string(again[i].rank)).second)
        << again[i].variant.full_name();
  }
}

RecordedKernel kernel(const std::string& target, const std::string& variant, int registers, int spills) {
  return {target, variant, {registers, 0, spills, -1}};
}

TEST(Record, IsReadAsItWasWritten) {
  const std::vector<RecordedKernel> kernels{kernel("sm_90a", "b allreduce", 40, 0), kernel("sm_80", "a x", 255, 16)};
  const ResourceRecord record = read_record(write_record("13.0", kernels));
  EXPECT_EQ(record.nvrtc, "13.0");
  ASSERT_EQ(record.kernels.size(), 2U);
  EXPECT_EQ(record.kernels[0], kernels[1]);  // sorted
  EXPECT_EQ(record.kernels[1], kernels[0]);
}

TEST(Record, ABrokenLineIsNamed) {
  const std::string good = write_record("13.0", {kernel("sm_90a", "b", 40, 0)});
  for (const std::string& bad : {std::string(), std::string("nonsense\n"), good + "sm_90a\t1\t2\n",
                                 good + "sm_90a\tmany\t0\t0\tb\n", good + "sm_90a\t1\t0\t-5\tb\n"}) {
    EXPECT_THROW(read_record(bad), Error) << bad;
  }
  try {
    read_record(good + "sm_90a\t1\t2\n");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("line 3"), std::string::npos) << error.what();
  }
}

TEST(Record, OnlyASpillThatWasNotThereIsNew) {
  ResourceRecord before;
  before.kernels = {kernel("sm_90a", "clean", 40, 0), kernel("sm_90a", "spilling", 255, 8)};
  EXPECT_TRUE(new_spills(before, {kernel("sm_90a", "clean", 60, 0), kernel("sm_90a", "spilling", 255, 64)}).empty());
  EXPECT_EQ(new_spills(before, {kernel("sm_90a", "clean", 255, 4)}).size(), 1U);
  EXPECT_EQ(new_spills(before, {kernel("sm_100a", "spilling", 255, 4)}).size(),
            1U);  // another target is another kernel
  const std::vector<std::string> unknown = new_spills(before, {kernel("sm_90a", "unheard of", 255, 4)});
  ASSERT_EQ(unknown.size(), 1U);
  EXPECT_NE(unknown[0].find("not in the record"), std::string::npos) << unknown[0];
}

}  // namespace
}  // namespace arbiter::cli
