// The decisions that are built in: measured, unaltered, and applied to the hardware that they name.
#include <llvm/Support/JSON.h>

#include <fstream>
#include <set>

#include "arbiter/db/contents.hpp"
#include "db/fixtures.hpp"

namespace arbiter::test {
namespace {

std::filesystem::path root() { return ARBITER_SOURCE_ROOT; }

llvm::json::Value parse(const std::filesystem::path& path) {
  auto value = llvm::json::parse(read_file(path));
  if (!value) throw DatabaseError(path.string() + ": " + llvm::toString(value.takeError()));
  return std::move(*value);
}

const DecisionSet& shipped_for(const std::string& key) {
  for (const DecisionSet& set : shipped_decisions()) {
    if (set.environment.key() == key) return set;
  }
  throw DatabaseError("nothing is shipped for " + key);
}

TEST(Shipped, IsWhatTheFilesHoldAndNothingElse) {
  std::size_t files = 0, decisions = 0;
  for (const auto& entry : std::filesystem::directory_iterator(root() / "db" / "defaults")) {
    if (entry.path().extension() != ".jsonl") continue;
    ++files;
    std::ifstream text(entry.path());
    const Contents contents = parse_jsonl(text, entry.path().string());
    EXPECT_TRUE(contents.trials.empty() && contents.runs.empty()) << "export a snapshot, not a work database";
    for (const auto& [key, list] : contents.decisions) {
      EXPECT_EQ(shipped_for(key).decisions, list);
      decisions += list.size();
    }
  }
  EXPECT_GT(files, 0U);
  std::size_t built_in = 0;
  std::set<std::string> environments;
  for (const DecisionSet& set : shipped_decisions()) {
    built_in += set.decisions.size();
    EXPECT_EQ(set.environment.device, "cuda") << "a processor's times are nobody's default";
    EXPECT_TRUE(environments.insert(set.environment.key()).second) << "two files hold one environment";
  }
  EXPECT_EQ(built_in, decisions);
}

class ShippedRows : public testing::TestWithParam<const char*> {};

TEST_P(ShippedRows, AreThoseThatWereRecorded) {
  const auto file = parse(root() / "bench" / "results" / GetParam());
  const auto& recorded = *file.getAsObject();
  const DecisionSet& set = shipped_for(recorded.getObject("environment")->getString("key")->str());
  const auto& rows = *recorded.getArray("decisions");
  ASSERT_EQ(set.decisions.size(), rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& row = *rows[i].getAsObject();
    const Decision& decision = set.decisions[i];
    EXPECT_EQ(decision.pattern, row.getString("pattern")->str());
    EXPECT_EQ(decision.world, row.getInteger("world"));
    EXPECT_EQ(decision.hidden, row.getInteger("hidden"));
    EXPECT_EQ(decision.tokens_min, row.getInteger("tokens_min"));
    EXPECT_EQ(decision.tokens_max, row.getInteger("tokens_max"));
    EXPECT_EQ(decision.candidate.name, row.getString("candidate")->str());
    EXPECT_EQ(decision.median_us, row.getNumber("median_us"));
    if (decision.runner_up) {
      EXPECT_EQ(decision.runner_up->algorithm, row.getObject("runner_up")->getString("algorithm")->str());
      EXPECT_EQ(decision.runner_up_median_us, row.getObject("runner_up")->getNumber("median_us"));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Results, ShippedRows,
                         testing::Values("2026-11-27-decisions-2xh200.json",
                                         "2026-11-27-decisions-other-hidden-2xh200.json",
                                         "2026-11-28-decisions-4xh200.json"));

TEST(Shipped, EveryFileIsRecorded) { EXPECT_EQ(shipped_decisions().size(), 3U); }

TEST(Shipped, AppliesToTheSameGpusWithAnotherDriverAndMoreOfThem) {
  Environment here = example_environment();  // 4 H200s, another driver, other NCCL variables
  here.symmetric_memory = "cuda_ipc";
  here.multicast = true;
  std::size_t found = 0;
  for (const DecisionSet& set : shipped_decisions()) {
    found += same_hardware(here, set.environment).verdict != Compatibility::incompatible ? 1 : 0;
  }
  EXPECT_GT(found, 0U);
  here.gpu_name = "NVIDIA H100 80GB HBM3";
  for (const DecisionSet& set : shipped_decisions()) {
    if (set.environment.gpu_name == here.gpu_name) continue;
    EXPECT_EQ(same_hardware(here, set.environment).verdict, Compatibility::incompatible);
  }
}

}  // namespace
}  // namespace arbiter::test
