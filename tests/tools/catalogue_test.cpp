// arbiter catalogue, compared with what `arbiter render --list` lists and with the catalogue itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "arbiter/generator/catalogue.hpp"
#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

using List = std::vector<std::string>;

llvm::json::Value catalogue(List arguments) {
  arguments.insert(arguments.begin(), "catalogue");
  arguments.emplace_back("--json");
  const Outcome outcome = run_arbiter(arguments);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  return parse_object(outcome.out);
}

const llvm::json::Object* algorithm(const llvm::json::Value& document, const char* backend, const char* name) {
  for (const llvm::json::Value& entry : *member(document, "algorithms")->getAsArray()) {
    const llvm::json::Object* object = entry.getAsObject();
    if (object->getString("backend") == backend && object->getString("algorithm") == name) return object;
  }
  return nullptr;
}

TEST(CatalogueCommand, HasEverythingThatTheCatalogueHas) {
  const llvm::json::Value document = catalogue({"--target", "sm_90a"});
  const Catalogue& builtin = Catalogue::builtin();
  expect_keys(&document, {"schema", "hash", "counted", "algorithms", "impossible", "parts", "usual_patterns"});
  expect_keys(member(document, "counted"), {"target", "with", "patterns", "dtypes", "worlds", "hiddens"});
  EXPECT_EQ(member(document, "hash")->getAsString(), builtin.hash());
  EXPECT_EQ(member(document, "parts")->getAsArray()->size(), builtin.parts().size());
  expect_keys(member(document, "parts[0]"),
              {"name", "kind", "summary", "parameter", "reads", "optional", "writes", "problem", "constraints"});
  EXPECT_EQ(member(document, "usual_patterns")->getAsArray()->size(), builtin.usual_patterns().size());
  ASSERT_EQ(member(document, "algorithms")->getAsArray()->size(), builtin.algorithms().size());
  for (const AlgorithmEntry& entry : builtin.algorithms()) {
    const llvm::json::Object* shown =
        algorithm(document, std::string(to_string(entry.backend)).c_str(), entry.name.c_str());
    ASSERT_NE(shown, nullptr) << entry.name;
    EXPECT_EQ(shown->getArray("axes")->size(), entry.axes.size()) << entry.name;
    EXPECT_EQ(shown->getArray("constraints")->size(), entry.constraints.size()) << entry.name;
    EXPECT_EQ(shown->getArray("worlds")->size(), entry.worlds.size()) << entry.name;
  }
}

TEST(CatalogueCommand, CountsWhatRenderLists) {
  const List problem{"--pattern", "allreduce_residual_rmsnorm",
                     "--dtype",   "bf16,fp32",
                     "--world",   "2,4",
                     "--hidden",  "4096,8192",
                     "--target",  "sm_90a"};
  List list{"render", "--list", "--json"};
  list.insert(list.end(), problem.begin(), problem.end());
  const llvm::json::Value variants = parse_object(run_arbiter(list).out);
  const auto count = [](const llvm::json::Value& document) {
    std::int64_t sum = 0;
    for (const llvm::json::Value& entry : *member(document, "algorithms")->getAsArray()) {
      sum += *entry.getAsObject()->getInteger("variants");
    }
    return sum;
  };
  const std::int64_t sum = count(catalogue(problem));
  List bare = problem;
  bare.insert(bare.end(), {"--with", "nothing"});
  const llvm::json::Value without = catalogue(bare);
  EXPECT_LT(count(without), sum);
  EXPECT_EQ(algorithm(without, "nvls", "multimem")->getInteger("variants"), 0);
  EXPECT_EQ(sum, static_cast<std::int64_t>(member(variants, "variants")->getAsArray()->size()));
  EXPECT_GT(sum, 0);
}

TEST(CatalogueCommand, ExplainsWhatIsNotAvailable) {
  const Outcome outcome = run_arbiter({"catalogue", "--explain", "--pattern", "allreduce_residual_rmsnorm", "--hidden",
                                       "16384", "--world", "4", "--target", "sm_90a"},
                                      {{"COLUMNS", "200"}});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("What is not available, and why"), std::string::npos);
  EXPECT_NE(outcome.out.find("a row does not fit in one block"), std::string::npos) << outcome.out;
  const Outcome world =
      run_arbiter({"catalogue", "--explain", "--world", "9", "--target", "sm_90a"}, {{"COLUMNS", "200"}});
  EXPECT_NE(world.out.find("world size 9 is not built"), std::string::npos) << world.out;
  const Outcome old = run_arbiter({"catalogue", "--explain", "--algorithm", "mnnvl/oneshot_push", "--pattern",
                                   "allreduce_residual_rmsnorm", "--target", "sm_80"});
  EXPECT_NE(old.out.find("trtllm"), 0U);
  EXPECT_NE(old.out.find("mnnvl/oneshot_push"), std::string::npos);
}

TEST(CatalogueCommand, AProblemThatNoDeviceCanDoIsExplained) {
  const Outcome outcome = run_arbiter(
      {"catalogue", "--explain", "--pattern", "allreduce,allreduce_nvfp4_linear", "--dtype", "fp32", "--target", "cpu"},
      {{"COLUMNS", "200"}});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("allreduce_nvfp4_linear fp32, hidden 8192"), std::string::npos) << outcome.out;
  const llvm::json::Value document =
      catalogue({"--pattern", "allreduce,allreduce_nvfp4_linear", "--dtype", "fp32", "--target", "cpu"});
  ASSERT_EQ(member(document, "impossible")->getAsArray()->size(), 1U);
  EXPECT_NE(member(document, "impossible[0].reason")->getAsString(), "");
}

TEST(CatalogueCommand, ExplainsOneVariant) {
  const Outcome list = run_arbiter({"render", "--list", "--json", "--algorithm", "trtllm/oneshot_push"});
  const std::string name = member(parse_object(list.out), "variants[0].name")->getAsString()->str();
  const llvm::json::Value one = catalogue({"--variant", name, "--target", "sm_90a"});
  EXPECT_EQ(algorithm(one, "trtllm", "oneshot_push")->getInteger("variants"), 1);
  const Outcome none = run_arbiter({"catalogue", "--variant", name + "0", "--target", "sm_90a"});
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_NE(none.err.find("no variant"), std::string::npos) << none.err;
}

TEST(CatalogueCommand, DetailsOfAnAlgorithm) {
  const Outcome outcome = run_arbiter({"catalogue", "--algorithm", "trtllm/oneshot_push", "--target", "sm_90a"});
  for (const char* expected : {"Axes of trtllm/oneshot_push", "threads", "compiled", "launched",
                               "Constraints of trtllm/oneshot_push", "threads <= max_threads"}) {
    EXPECT_NE(outcome.out.find(expected), std::string::npos) << expected << "\n" << outcome.out;
  }
}

TEST(CatalogueCommand, FiltersByBackend) {
  const llvm::json::Value document = catalogue({"--backend", "mnnvl", "--target", "sm_90a"});
  ASSERT_FALSE(member(document, "algorithms")->getAsArray()->empty());
  for (const llvm::json::Value& entry : *member(document, "algorithms")->getAsArray()) {
    EXPECT_EQ(entry.getAsObject()->getString("backend"), "mnnvl");
  }
  EXPECT_EQ(run_arbiter({"catalogue", "--backend", "nccl", "--target", "cpu"}).exit_code, 2);
  EXPECT_EQ(run_arbiter({"catalogue", "--backend", "mnvl", "--target", "cpu"}).exit_code, 2);
  EXPECT_EQ(run_arbiter({"catalogue", "--with", "mulitcast", "--target", "cpu"}).exit_code, 2);
  EXPECT_EQ(run_arbiter({"catalogue", "--target", "sm_90b"}).exit_code, 2);
}

/// Of a product of patterns and dtypes, what no device can do is left out; if nothing is left, the reason is the
/// answer.
TEST(Render, ListsWhatIsPossible) {
  const Outcome both = run_arbiter(
      {"render", "--list", "--json", "--pattern", "allreduce_nvfp4_128x4,allreduce_residual", "--dtype", "bf16,fp32"});
  ASSERT_EQ(both.exit_code, 0) << both.err;
  std::set<std::string> seen;
  const llvm::json::Value document = parse_object(both.out);
  for (const llvm::json::Value& variant : *member(document, "variants")->getAsArray()) {
    seen.insert(member(variant, "pattern")->getAsString()->str() + " " +
                member(variant, "dtype")->getAsString()->str());
  }
  EXPECT_EQ(seen, (std::set<std::string>{"allreduce_nvfp4_128x4 bf16", "allreduce_residual bf16",
                                         "allreduce_residual fp32"}));
  const Outcome none = run_arbiter({"render", "--list", "--pattern", "allreduce_nvfp4_128x4", "--dtype", "fp32"});
  EXPECT_NE(none.exit_code, 0);
  EXPECT_NE(none.err.find("NVFP4 is made from bf16 and fp16 only"), std::string::npos) << none.err;
}

/// A rendered source says what it is, whatever is asked for.
TEST(Render, EverySourceHasAHeader) {
  for (const std::string& pattern : Catalogue::builtin().usual_patterns()) {
    const llvm::json::Value list =
        parse_object(run_arbiter({"render", "--list", "--json", "--pattern", pattern, "--world", "4"}).out);
    std::vector<std::string> seen;
    for (const llvm::json::Value& variant : *member(list, "variants")->getAsArray()) {
      const std::string name = member(variant, "name")->getAsString()->str();
      const std::string family = name.substr(0, name.find(':'));
      if (std::find(seen.begin(), seen.end(), family) != seen.end()) continue;
      seen.push_back(family);
      const Outcome outcome = run_arbiter({"render", "--variant", name, "--pattern", pattern, "--world", "4"});
      EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
      const std::string head = outcome.out.substr(0, 1000);
      EXPECT_TRUE(head.starts_with("//")) << head;
      EXPECT_NE(head.find(name), std::string::npos) << head;
      EXPECT_NE(head.find(pattern), std::string::npos) << head;
    }
    EXPECT_FALSE(seen.empty()) << pattern;
  }
}

}  // namespace
}  // namespace arbiter::testing
