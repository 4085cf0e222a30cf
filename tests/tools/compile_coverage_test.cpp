// The plan of what continuous integration compiles.
#include "compile/coverage.hpp"

#include <gtest/gtest.h>

#include <set>

#include "arbiter/error.hpp"
#include "compile/variant_options.hpp"

namespace arbiter::cli {
namespace {

const std::vector<CompileTask>& plan() {
  static const std::vector<CompileTask> tasks =
      covering_tasks(Catalogue::builtin(), {gpu_targets.begin(), gpu_targets.end()});
  return tasks;
}

std::string algorithm_of(const Variant& variant) {
  return std::string(to_string(variant.backend)) + "/" + variant.algorithm;
}

TEST(Coverage, EveryAlgorithmMeetsEveryTargetThatCanRunIt) {
  std::set<std::string> planned;
  for (const CompileTask& task : plan()) planned.insert(algorithm_of(task.variant) + " " + task.target);
  for (const std::string_view target : gpu_targets) {
    const TargetLimits limits = limits_of(std::string(target));
    const char* pattern = "allreduce_residual_rmsnorm";
    std::vector<Variant> variants = enumerate(Catalogue::builtin(), pattern, Dtype::bf16, 4, 8192, limits).variants;
    for (Variant& alone : enumerate_standalone(Catalogue::builtin(), pattern, Dtype::bf16, 8192, limits).variants)
      variants.push_back(std::move(alone));
    EXPECT_FALSE(variants.empty()) << target;
    for (const Variant& variant : variants) {
      const std::string wanted = algorithm_of(variant) + " " + std::string(target);
      EXPECT_TRUE(planned.contains(wanted)) << wanted;
    }
  }
}

TEST(Coverage, EveryParameterCombinationThatExistsIsPlannedForEveryFamily) {
  // What is enumerated for problems of every size that one may have, not those that the plan drew by chance.
  std::set<std::string> planned;
  for (const CompileTask& task : plan()) {
    planned.insert(std::to_string(limits_of(task.target).sm / 10) + "x " + task.variant.name());
  }
  std::set<std::string> wanted;
  for (const std::string target : {"sm_80", "sm_90a", "sm_100a", "sm_120a"}) {
    const TargetLimits limits = limits_of(target);
    const std::string family = std::to_string(limits.sm / 10) + "x ";
    for (const char* pattern : {"allreduce", "allreduce_residual_rmsnorm"}) {
      for (const Dtype dtype : {Dtype::bf16, Dtype::fp32}) {
        for (const int hidden : {512, 1000, 1024, 2048, 4096, 6144, 8192, 12288, 16384}) {
          for (const int world : {2, 3, 4, 5, 6, 7, 8, 16}) {
            for (const Variant& variant :
                 enumerate(Catalogue::builtin(), pattern, dtype, world, hidden, limits).variants)
              wanted.insert(family + variant.name());
          }
        }
      }
    }
  }
  EXPECT_GT(wanted.size(), 500U);
  for (const std::string& name : wanted) EXPECT_TRUE(planned.contains(name)) << name;
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
  EXPECT_LT(again.size(), 1000U);  // each takes a third of a second
  std::set<std::string> seen;
  for (std::size_t i = 0; i < again.size(); ++i) {
    EXPECT_EQ(again[i].variant, plan()[i].variant);
    EXPECT_EQ(again[i].target, plan()[i].target);
    EXPECT_EQ(again[i].rank, plan()[i].rank);
    // Whatever the rank: the record has one line for it.
    EXPECT_TRUE(seen.insert(again[i].target + " " + again[i].variant.full_name()).second)
        << again[i].variant.full_name();
  }
}

}  // namespace
}  // namespace arbiter::cli
