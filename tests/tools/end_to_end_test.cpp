// tune, show and bench on the CPU device: what one stores, the others read, each in a process of its own.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <set>
#include <sstream>

#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

const std::vector<std::string> environment_keys{"key",
                                                "device",
                                                "gpu_name",
                                                "sm_count",
                                                "compute_capability",
                                                "driver_version",
                                                "cuda_runtime",
                                                "nccl_version",
                                                "compiler_version",
                                                "memory_clock_mhz",
                                                "topology",
                                                "symmetric_memory",
                                                "multicast",
                                                "nodes",
                                                "ranks_per_node",
                                                "nccl_variables",
                                                "arbiter_version",
                                                "catalogue_hash",
                                                "power_limit_watts"};

std::vector<std::string> with(std::vector<std::string> arguments, const std::vector<std::string>& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

/// One small tune, shared by the tests of this file.
class EndToEnd : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch = std::make_unique<ScratchDirectory>();
    tuned = std::make_unique<Outcome>(arbiter(
        "tune", {"--pattern", "allreduce,allreduce_residual_rmsnorm", "--ranks", "2,3", "--tokens", "1,4", "--json"}));
  }
  static void TearDownTestSuite() {
    tuned.reset();
    scratch.reset();
  }

  static std::string database() { return scratch->file("tuned.db"); }

  static Outcome arbiter(const std::string& command, const std::vector<std::string>& more) {
    return run_arbiter(with({command, "--device", "cpu", "--db", database(), "--hidden", "512"}, more),
                       {{"ARBITER_CACHE_DIR", scratch->file("cache")}});
  }
  static Outcome show(const std::vector<std::string>& more) {
    return run_arbiter(with({"show", "--db", database()}, more));
  }

  static std::unique_ptr<ScratchDirectory> scratch;
  static std::unique_ptr<Outcome> tuned;
};

std::unique_ptr<ScratchDirectory> EndToEnd::scratch;
std::unique_ptr<Outcome> EndToEnd::tuned;

TEST_F(EndToEnd, TuneReportsWhatItDid) {
  ASSERT_EQ(tuned->exit_code, 0) << tuned->err;
  EXPECT_EQ(tuned->err, "") << "progress belongs on terminals only";
  const llvm::json::Value document = parse_object(tuned->out);
  expect_keys(&document, {"schema", "environment", "database", "runs"});
  expect_keys(member(document, "environment"), environment_keys);
  EXPECT_EQ(member(document, "environment.device")->getAsString(), "cpu");
  ASSERT_EQ(member(document, "runs")->getAsArray()->size(), 2U);
  for (int run = 0; run < 2; ++run) {
    const std::string path = "runs[" + std::to_string(run) + "].";
    EXPECT_EQ(member(document, path + "world")->getAsInteger(), run + 2);
    EXPECT_EQ(member(document, path + "measured")->getAsInteger(), 4);
    EXPECT_GT(*member(document, path + "trials")->getAsInteger(), 4);
    EXPECT_EQ(member(document, path + "wrong")->getAsInteger(), 0);
    EXPECT_EQ(member(document, path + "failed")->getAsInteger(), 0);
  }
  const llvm::json::Value history = parse_object(run_arbiter({"history", "--db", database(), "--json"}).out);
  EXPECT_EQ(member(history, "runs[0].command")->getAsString()->str(),
            "arbiter tune --device cpu --db " + database() + " --hidden 512 --pattern allreduce," +
                "allreduce_residual_rmsnorm --ranks 2,3 --tokens 1,4 --json");
}

TEST_F(EndToEnd, ShowPrintsGaplessDecisionsInThePromisedShape) {
  const Outcome outcome = show({"--json"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const llvm::json::Value document = parse_object(outcome.out);
  EXPECT_EQ(member(document, "schema")->getAsInteger(), 1);
  expect_keys(member(document, "environment"), environment_keys);
  std::map<std::string, std::int64_t> covered;  // family -> last token count so far
  for (const llvm::json::Value& decision : *member(document, "decisions")->getAsArray()) {
    expect_keys(&decision, {"mode",       "world",       "dtype",           "pattern",        "hidden",    "tokens_min",
                            "tokens_max", "bytes_min",   "bytes_max",       "backend",        "algorithm", "candidate",
                            "numerics",   "median_us",   "measured_tokens", "measured_bytes", "nccl_us",   "times_nccl",
                            "registers",  "spill_bytes", "runner_up"});
    const llvm::json::Value* runner_up = member(decision, "runner_up");
    if (runner_up->getAsObject() != nullptr) expect_keys(runner_up, {"backend", "algorithm", "median_us"});
    const std::int64_t world = *member(decision, "world")->getAsInteger();
    const std::string family = member(decision, "pattern")->getAsString()->str() + " " + std::to_string(world);
    EXPECT_EQ(*member(decision, "tokens_min")->getAsInteger(), covered[family] + 1) << family;
    covered[family] = *member(decision, "tokens_max")->getAsInteger();
    EXPECT_EQ(*member(decision, "bytes_max")->getAsInteger(), covered[family] * 512 * 2);
    EXPECT_GT(*member(decision, "median_us")->getAsNumber(), 0);
  }
  EXPECT_EQ(covered.size(), 4U);  // two patterns, two numbers of ranks
  for (const auto& [family, last] : covered) EXPECT_EQ(last, 4) << family;
}

TEST_F(EndToEnd, ShowFilters) {
  const llvm::json::Value document = parse_object(show({"--json", "--world", "3", "--pattern", "allreduce"}).out);
  const llvm::json::Array& decisions = *member(document, "decisions")->getAsArray();
  ASSERT_FALSE(decisions.empty());
  for (const llvm::json::Value& decision : decisions) {
    EXPECT_EQ(member(decision, "world")->getAsInteger(), 3);
    EXPECT_EQ(member(decision, "pattern")->getAsString(), "allreduce");
  }
  EXPECT_EQ(show({"--device", "cuda"}).exit_code, 1);
  const Outcome nothing = show({"--hidden", "4096"});
  EXPECT_EQ(nothing.exit_code, 0);
  EXPECT_EQ(nothing.err,
            "nothing matches. There are decisions for pattern: allreduce, allreduce_residual_rmsnorm; dtype: bf16; "
            "hidden: 512; world: 2, 3; mode: graph\n");
  const Outcome missing = show({"--world", "8"});
  EXPECT_NE(missing.err.find("world: 2, 3;"), std::string::npos) << missing.err;
  const Outcome table = show({});
  EXPECT_EQ(table.exit_code, 0);
  EXPECT_NE(table.out.find("allreduce_residual_rmsnorm"), std::string::npos);
}

TEST_F(EndToEnd, BenchFollowsTheStoredDecisions) {
  const llvm::json::Value shown = parse_object(show({"--json", "--world", "2"}).out);
  std::map<std::pair<std::string, std::int64_t>, std::string> expected;
  for (const llvm::json::Value& decision : *member(shown, "decisions")->getAsArray()) {
    for (std::int64_t tokens = *member(decision, "tokens_min")->getAsInteger();
         tokens <= *member(decision, "tokens_max")->getAsInteger(); ++tokens) {
      expected[{member(decision, "pattern")->getAsString()->str(), tokens}] =
          member(decision, "candidate")->getAsString()->str();
    }
  }
  const Outcome outcome = arbiter("bench", {"--ranks", "2", "--tokens", "1,3,4", "--json", "--record"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const llvm::json::Value document = parse_object(outcome.out);
  expect_keys(&document, {"schema", "environment", "command", "rows"});
  expect_keys(member(document, "environment"), environment_keys);
  const llvm::json::Array& rows = *member(document, "rows")->getAsArray();
  ASSERT_EQ(rows.size(), 6U);
  for (const llvm::json::Value& row : rows) {
    expect_keys(&row, {"mode", "world", "dtype", "pattern", "hidden", "tokens", "bytes", "results"});
    expect_keys(member(row, "results.auto"), {"median_us", "ci_low_us", "ci_high_us", "chosen"});
    expect_keys(member(row, "results.nccl"), {"unavailable"});
    const auto key = std::pair(member(row, "pattern")->getAsString()->str(), *member(row, "tokens")->getAsInteger());
    EXPECT_EQ(member(row, "results.auto.chosen")->getAsString()->str(), expected.at(key));
    EXPECT_EQ(member(row, "results.auto.rule")->getAsString(), "decision");
    EXPECT_NE(member(row, "results")->getAsObject()->get("trtllm/oneshot_push"), nullptr);
  }
}

TEST_F(EndToEnd, BenchPrintsATable) {
  const Outcome outcome = arbiter("bench", {"--ranks", "2", "--tokens", "4", "--against", "trtllm/oneshot_push"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("allreduce bf16, hidden 512, 2 ranks, graph"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("vs oneshot_push"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("decision"), std::string::npos) << outcome.out;
}

TEST_F(EndToEnd, WhatIsNamedTwiceIsMeasuredOnce) {
  const Outcome outcome = arbiter("tune", {"--pattern", "allreduce,allreduce", "--mode", "graph,graph", "--dtype",
                                           "bf16,bf16", "--ranks", "2,2", "--tokens", "1,1", "--resume", "--json"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const llvm::json::Value document = parse_object(outcome.out);
  EXPECT_EQ(member(document, "runs")->getAsArray()->size(), 1U);
  EXPECT_EQ(member(document, "runs[0].problems")->getAsInteger(), 1);
}

TEST_F(EndToEnd, ATuneSaysFirstThatItTunesTheCpuDevice) {
  const Outcome outcome = arbiter("tune", {"--pattern", "allreduce", "--ranks", "2", "--tokens", "1", "--resume"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_TRUE(outcome.out.starts_with("tuning the CPU device, 2 ranks.")) << outcome.out;
}

TEST_F(EndToEnd, ADryRunSaysWhatWouldBeMeasuredAndMeasuresNothing) {
  const std::string file = scratch->file("dry.db");
  const std::vector<std::string> command{
      "tune", "--device", "cpu",     "--db",     file, "--model", "llama-70b,deepseek-v3",
      "--tp", "2,4",      "--quick", "--dry-run"};
  const Outcome outcome = run_arbiter(with(command, {"--json"}));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_FALSE(std::filesystem::exists(file));
  const llvm::json::Value document = parse_object(outcome.out);
  EXPECT_EQ(member(document, "device")->getAsString(), "the CPU device");
  std::set<std::int64_t> hiddens, worlds;
  for (const llvm::json::Value& problem : *member(document, "problems")->getAsArray()) {
    expect_keys(&problem, {"pattern", "dtype", "hidden", "world", "mode", "tokens", "kernels", "candidates"});
    hiddens.insert(*member(problem, "hidden")->getAsInteger());
    worlds.insert(*member(problem, "world")->getAsInteger());
    EXPECT_EQ(member(problem, "tokens")->getAsArray()->size(), 2U);
    EXPECT_GT(*member(problem, "kernels")->getAsInteger(), 0);
  }
  EXPECT_EQ(hiddens, (std::set<std::int64_t>{7168, 8192}));
  EXPECT_EQ(worlds, (std::set<std::int64_t>{2, 4}));
  EXPECT_GT(*member(document, "seconds")->getAsNumber(), 0);
  const Outcome table = run_arbiter(command);
  for (const char* expected : {"the CPU device", "kernels to compile", "estimated time", "8192", "7168"}) {
    EXPECT_NE(table.out.find(expected), std::string::npos) << table.out;
  }
  const auto kernels = [](const llvm::json::Value& plan) {
    std::int64_t sum = 0;
    for (const llvm::json::Value& problem : *member(plan, "problems")->getAsArray())
      sum += *member(problem, "kernels")->getAsInteger();
    return sum;
  };
  EXPECT_GT(kernels(parse_object(run_arbiter(with(command, {"--json", "--exhaustive"})).out)), kernels(document));
}

/// How long a machine takes for a kernel and for a candidate is its own matter; how many there are is not.
TEST_F(EndToEnd, ATuneDoesAboutWhatItsDryRunSaid) {
  const llvm::json::Value said =
      parse_object(arbiter("tune", {"--pattern", "allreduce,allreduce_residual_rmsnorm", "--ranks", "2,3", "--tokens",
                                    "1,4", "--dry-run", "--json"})
                       .out);
  const llvm::json::Value did = parse_object(tuned->out);
  const auto within_a_factor_of_two = [&](const char* estimate, const char* count) {
    std::int64_t sum = 0;
    for (const llvm::json::Value& run : *member(did, "runs")->getAsArray()) sum += *member(run, count)->getAsInteger();
    const std::int64_t expected = *member(said, estimate)->getAsInteger();
    EXPECT_LE(expected, 2 * sum) << estimate;
    EXPECT_GE(2 * expected, sum) << estimate;
  };
  within_a_factor_of_two("kernels", "kernels_loaded");
  within_a_factor_of_two("candidates", "trials");
  const double seconds = *member(said, "seconds")->getAsNumber();
  EXPECT_DOUBLE_EQ(*member(said, "seconds_high")->getAsNumber(), 2 * seconds);
  EXPECT_DOUBLE_EQ(*member(said, "seconds_low")->getAsNumber(), seconds / 2);
}

TEST_F(EndToEnd, ADatabaseMayBeNamedWithoutAnOption) {
  EXPECT_EQ(run_arbiter({"show", database()}).out, show({}).out);
  EXPECT_EQ(run_arbiter({"history", database()}).exit_code, 0);
  EXPECT_EQ(run_arbiter({"inspect", database(), "allreduce", "tokens=4", "world=2"}).exit_code, 0);
  EXPECT_EQ(run_arbiter({"snapshot", database(), scratch->file("named.db")}).exit_code, 0);
  EXPECT_EQ(run_arbiter({"export", scratch->file("named.db"), "--format", "csv"}).exit_code, 0);
  EXPECT_EQ(run_arbiter({"show", scratch->file("named.db"), "--json"}).exit_code, 0);
}

TEST_F(EndToEnd, ResumeMeasuresNothingTwice) {
  const Outcome outcome = arbiter("tune", {"--pattern", "allreduce,allreduce_residual_rmsnorm", "--ranks", "2",
                                           "--tokens", "1,4", "--resume", "--json"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const llvm::json::Value document = parse_object(outcome.out);
  EXPECT_EQ(member(document, "runs[0].measured")->getAsInteger(), 0);
  EXPECT_EQ(member(document, "runs[0].resumed")->getAsInteger(), 4);
}

TEST_F(EndToEnd, StartupIsMeasuredWithAnEmptyAndAWarmCache) {
  const Outcome outcome = arbiter("bench", {"--ranks", "2", "--tokens", "1,4", "--startup", "--json"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const llvm::json::Value document = parse_object(outcome.out);
  expect_keys(member(document, "environment"), environment_keys);
  EXPECT_EQ(member(document, "startup[0].world")->getAsInteger(), 2);
  const double empty = *member(document, "startup[0].empty_cache_s")->getAsNumber();
  const double warm = *member(document, "startup[0].warm_cache_s")->getAsNumber();
  EXPECT_GT(warm, 0);
  EXPECT_GT(empty, warm) << "kernels were not compiled with the empty cache, or compiled again with the warm one";
  for (const auto& [name, total] : {std::pair<std::string, double>{"empty_cache", empty}, {"warm_cache", warm}}) {
    const llvm::json::Object* steps = member(document, "startup[0]." + name)->getAsObject();
    ASSERT_NE(steps, nullptr);
    double sum = 0;
    for (const auto& [step, seconds] : *steps) sum += *seconds.getAsNumber();
    EXPECT_NEAR(sum, total, 0.01) << "the steps are not the whole of " << name;
    const auto step = [&](const char* member) { return steps->getNumber(member).value_or(-1); };
    for (const char* nothing : {"driver_s", "meeting_s", "nccl_s", "measure_s"}) EXPECT_EQ(step(nothing), 0) << nothing;
    for (const char* something : {"decisions_s", "memory_s", "load_s", "rest_s"})
      EXPECT_GT(step(something), 0) << something;
    EXPECT_EQ(step("compile_s") > 0, name == "empty_cache");
  }
}

// Families for which nothing was measured, and time to do it: the second start finds what the first one kept.
TEST_F(EndToEnd, WhatAStartMeasuresIsAStepOfItsTime) {
  const Outcome outcome = run_arbiter({"bench", "--device", "cpu", "--ranks", "2", "--tokens", "1", "--hidden", "64",
                                       "--pattern", "allreduce", "--startup", "--json"},
                                      {{"ARBITER_STARTUP_TUNE_MS", "2000"}});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.err.find("nothing is measured at start"), std::string::npos) << outcome.err;
  const llvm::json::Value document = parse_object(outcome.out);
  EXPECT_GT(*member(document, "startup[0].empty_cache.measure_s")->getAsNumber(), 0);
  EXPECT_EQ(*member(document, "startup[0].warm_cache.measure_s")->getAsNumber(), 0);
}

TEST_F(EndToEnd, WhereAStartSpendsItsTimeFitsATerminal) {
  const Outcome outcome = arbiter("bench", {"--ranks", "2", "--tokens", "1,4", "--startup"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  for (const char* part : {"2 ranks", "empty cache", "warm cache", "CUDA driver", "sharing memory", "in all"}) {
    EXPECT_NE(outcome.out.find(part), std::string::npos) << part << " is not in:\n" << outcome.out;
  }
  std::istringstream lines(outcome.out);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 80U) << line;
}

TEST_F(EndToEnd, ADatabaseThatWasAskedForMustExist) {
  const Outcome outcome = run_arbiter({"bench", "--device", "cpu", "--quick", "--db", scratch->file("none.db")});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(outcome.err.find("none.db"), std::string::npos) << outcome.err;
}

TEST_F(EndToEnd, AnInterruptedVerifyIsNoSuccess) {
  const std::string err = scratch->file("verify.err");
  const std::string cache = scratch->file("cache");
  const std::string program = arbiter_program();
  int said[2];
  ASSERT_EQ(pipe(said), 0);
  const pid_t process = fork();
  if (process == 0) {
    dup2(open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
    dup2(said[1], STDOUT_FILENO);
    close(said[0]);
    close(said[1]);
    setenv("ARBITER_CACHE_DIR", cache.c_str(), 1);
    execl(program.c_str(), "arbiter", "verify", "--device", "cpu", "--ranks", "2", nullptr);
    _exit(127);
  }
  close(said[1]);
  // It has begun when the first kernel of its own is in the cache; then there are minutes of cases left.
  const auto kernels = [&] {
    const auto begin = std::filesystem::recursive_directory_iterator(cache);
    return std::distance(begin, std::filesystem::recursive_directory_iterator());
  };
  const auto before = kernels();
  for (int i = 0; i < 600 && kernels() == before; ++i) usleep(50'000);
  kill(process, SIGINT);
  std::string out;
  char part[4096];
  for (ssize_t count = 0; (count = read(said[0], part, sizeof part)) > 0;)
    out.append(part, static_cast<std::size_t>(count));
  close(said[0]);
  int status = 0;
  ASSERT_EQ(waitpid(process, &status, 0), process);
  ASSERT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 130) << read_text(err);
  EXPECT_NE(out.find("cancelled"), std::string::npos) << out;
  EXPECT_NE(read_text(err).find("interrupted; the cases that were not reached are skipped"), std::string::npos);
}

/// Starts a tune that would take long, interrupts it once it has begun, and returns its exit status.
TEST_F(EndToEnd, AnInterruptedTuneSaysHowToGoOn) {
  const std::string err = scratch->file("interrupted.err");
  const std::string file = scratch->file("interrupted.db");
  const std::string cache = scratch->file("cache");
  const std::string program = arbiter_program();
  const pid_t process = fork();
  if (process == 0) {
    const int log = open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(log, STDERR_FILENO);
    dup2(log, STDOUT_FILENO);
    setenv("ARBITER_CACHE_DIR", cache.c_str(), 1);
    execl(program.c_str(), "arbiter", "tune", "--device", "cpu", "--ranks", "4", "--max-tokens", "64", "--db",
          file.c_str(), nullptr);
    _exit(127);
  }
  for (int i = 0; i < 100 && !std::filesystem::exists(file); ++i) usleep(50'000);
  ASSERT_TRUE(std::filesystem::exists(file));
  kill(process, SIGINT);
  int status = 0;
  ASSERT_EQ(waitpid(process, &status, 0), process);
  ASSERT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 130);
  const std::string said = read_text(err);
  EXPECT_NE(said.find("interrupted; what is finished is kept in " + file), std::string::npos) << said;
  EXPECT_NE(said.find("--resume"), std::string::npos) << said;
}

}  // namespace
}  // namespace arbiter::testing
