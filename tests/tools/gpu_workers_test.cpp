// One worker process per GPU, started by the program itself. Skipped where there are fewer than two GPUs.
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

int visible_gpus() {
  const llvm::json::Value document = parse_object(run_arbiter({"doctor", "--json"}).out);
  for (const llvm::json::Value& capability : *member(document, "capabilities")->getAsArray()) {
    if (member(capability, "name")->getAsString() != "cuda_devices") continue;
    return std::atoi(member(capability, "value")->getAsString()->str().c_str());
  }
  return 0;
}

/// Process ids whose command line has all of `words`.
std::vector<pid_t> processes_with(const std::vector<std::string>& words) {
  std::vector<pid_t> found;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    const int id = std::atoi(entry.path().filename().c_str());
    if (id <= 0) continue;
    const std::string command = read_text((entry.path() / "cmdline").string());
    bool all = true;
    for (const std::string& word : words) all = all && command.find(word) != std::string::npos;
    if (all) found.push_back(id);
  }
  return found;
}

class GpuWorkers : public ::testing::Test {
 protected:
  void SetUp() override {
    if (visible_gpus() < 2) GTEST_SKIP() << "needs 2 GPUs";
  }
  std::vector<std::string> tune() const {
    return {"tune",  "--gpus", "0-1", "--world", "2", "--pattern", "allreduce", "--db", scratch_.file("gpu.db"),
            "--json"};
  }
  std::map<std::string, std::string> variables() const { return {{"ARBITER_CACHE_DIR", scratch_.file("cache")}}; }

  ScratchDirectory scratch_;
};

TEST_F(GpuWorkers, TuneStoresDecisions) {
  std::vector<std::string> arguments = tune();
  arguments.insert(arguments.end(), {"--tokens", "1,64"});
  const Outcome outcome = run_arbiter(arguments, variables());
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const llvm::json::Value document = parse_object(outcome.out);
  EXPECT_EQ(member(document, "environment.device")->getAsString(), "cuda");
  EXPECT_EQ(member(document, "runs[0].measured")->getAsInteger(), 2);
  EXPECT_EQ(run_arbiter({"show", "--db", scratch_.file("gpu.db")}).exit_code, 0);
}

TEST_F(GpuWorkers, AWorkerThatIsKilledDoesNotEndTheTune) {
  std::atomic<bool> killed{false};
  std::thread killer([&] {
    for (int i = 0; i < 600 && !killed; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      // Once the database is there, measuring has begun.
      if (!std::filesystem::exists(scratch_.file("gpu.db"))) continue;
      const std::vector<pid_t> workers = processes_with({scratch_.file("gpu.db"), "--worker"});
      if (workers.size() != 2) continue;
      killed = kill(workers.back(), SIGKILL) == 0;
    }
  });
  const Outcome outcome = run_arbiter(tune(), variables());
  killer.join();
  ASSERT_TRUE(killed);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("ended by signal 9"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("starting the workers again"), std::string::npos) << outcome.err;
  EXPECT_TRUE(processes_with({scratch_.file("gpu.db"), "--worker"}).empty());
}

}  // namespace
}  // namespace arbiter::testing
