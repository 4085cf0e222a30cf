// Measuring at start: when prepare() asks for it, what it does with the answer, and which file it believes.
#include "communicator/startup_tune.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <mutex>

#include "arbiter/error.hpp"
#include "candidate/loaded_kernel.hpp"
#include "runtime/communicator_fixture.hpp"

namespace arbiter {
namespace {

using namespace std::chrono_literals;
using test::message_of;
using test::quiet_options;
using test::RankContext;
using test::run_ranks;
using Orders = std::vector<StartupTuneOrder>;

const ProblemFamily small{"allreduce", Dtype::fp32, 64, 4, Mode::graph};
const ProblemFamily other{"allreduce", Dtype::bf16, 64, 4, Mode::graph};
const ProblemFamily third{"allreduce", Dtype::fp16, 64, 4, Mode::graph};

/// A folder of the test, which only its user may write to.
class StartupTuneTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "arbiter-startup-XXXXXX").string();
    folder = ::mkdtemp(pattern.data());
  }
  void TearDown() override { std::filesystem::remove_all(folder); }

  /// With a tuner that measures nothing, notes what it is asked, and says that it took `takes`.
  CommunicatorOptions options(Orders& orders, std::chrono::milliseconds takes = 0ms) {
    CommunicatorOptions options = quiet_options();
    options.cache = make_cache();
    options.variables.cache_dir = folder;
    options.variables.startup_tune = 2000ms;
    options.startup_tuner = [&orders, takes](const StartupTuneOrder& order) {
      if (order.bootstrap->rank() == 0) orders.push_back(order);
      return StartupTuneAnswer{nullptr, {}, takes};
    };
    return options;
  }
  static std::shared_ptr<KernelCache> make_cache() {
    CacheOptions cache;
    cache.directory = test::kernels_folder();
    return std::make_shared<KernelCache>(cache);
  }

  std::filesystem::path folder;
};

/// A oneshot_push for one family, as a tune on this machine would decide it.
StartupTuneAnswer decided(const StartupTuneOrder& order) {
  GroupOptions options = test::quiet_group_options();
  options.cache = order.options.cache;
  const std::unique_ptr<Group> group = make_group(order.bootstrap, order.device, options);
  const ProblemFamily& family = order.families.front();
  Decision decision;
  decision.pattern = family.pattern;
  decision.dtype = family.dtype;
  decision.hidden = family.hidden;
  decision.world = group->size();
  decision.mode = family.mode;
  decision.tokens_min = 1;
  decision.tokens_max = family.max_tokens;
  for (const CandidateSpec& spec : enumerate_candidates(group->capabilities(), family, {})) {
    if (spec.algorithm() != "twoshot_barrier") continue;
    decision.candidate = {spec.backend(), spec.algorithm(), spec.name(), Numerics::rank_order_fp32,
                          candidate_source_hash(group->capabilities(), spec)};
  }
  return {share_decisions({{group->environment(), {decision}}}), {"a note"}, 100ms};
}

TEST_F(StartupTuneTest, AsksForWhatNobodyMeasuredUntilTheTimeIsSpent) {
  Orders orders;
  run_ranks(2, [&](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, options(orders, 1500ms));
    communicator.prepare(small);
    communicator.prepare(small);                                           // prepared already
    communicator.prepare({"allreduce", Dtype::fp32, 63, 4, Mode::graph});  // no kernel takes such rows
    communicator.prepare(other);
    communicator.prepare(third);
  });
  ASSERT_EQ(orders.size(), 2U);
  EXPECT_EQ(orders[0].families, std::vector<ProblemFamily>{small});
  EXPECT_EQ(orders[0].budget, 2000ms);
  EXPECT_EQ(orders[0].database, folder / "startup.db");
  EXPECT_EQ(orders[1].families, std::vector<ProblemFamily>{other});
  EXPECT_EQ(orders[1].budget, 500ms) << "what the first one left";
}

TEST_F(StartupTuneTest, WhatItFindsServesAndIsNotAskedForAgain) {
  Orders orders;
  std::mutex mutex;
  std::string said;
  run_ranks(2, [&](RankContext& context) {
    CommunicatorOptions with = options(orders);
    with.variables.log = "info";
    with.log = [&](LogLevel, std::string_view text) {
      const std::lock_guard lock(mutex);
      said += std::string(text) + "\n";
    };
    with.startup_tuner = [&](const StartupTuneOrder& order) {
      if (order.bootstrap->rank() == 0) orders.push_back(order);
      return decided(order);
    };
    Communicator communicator(context.bootstrap, context.device, with);
    const PreparedFamily handle = communicator.prepare(small);
    for (const std::int64_t tokens : {1, 4}) {
      EXPECT_EQ(handle.explain(tokens).rule, Rule::decision) << handle.explain(tokens).reason;
      EXPECT_EQ(handle.explain(tokens).candidate.algorithm, "twoshot_barrier");
    }
    // The nearest hidden size is an answer, too.
    EXPECT_EQ(communicator.prepare({"allreduce", Dtype::fp32, 128, 2, Mode::graph}).explain(1).rule,
              Rule::nearest_hidden);
  });
  EXPECT_EQ(orders.size(), 1U);
  EXPECT_NE(said.find("measuring for 2000 ms at most"), std::string::npos) << said;
  EXPECT_NE(said.find("1 decisions were measured in 100 ms and are kept in"), std::string::npos) << said;
  EXPECT_NE(said.find("measuring at start: a note"), std::string::npos) << said;
  EXPECT_EQ(said.find("rank 1]"), std::string::npos) << "one rank speaks for all\n" << said;
}

TEST_F(StartupTuneTest, IsNotAskedWhereTheChoiceIsMadeOrNobodyAllowsIt) {
  Orders orders;
  const auto starts = [&](const std::function<void(CommunicatorOptions&)>& change) {
    run_ranks(2, [&](RankContext& context) {
      CommunicatorOptions with = options(orders);
      change(with);
      Communicator communicator(context.bootstrap, context.device, with);
      communicator.prepare(small);
    });
    return orders.size();
  };
  EXPECT_EQ(starts([](CommunicatorOptions& o) { o.variables.startup_tune = 0ms; }), 0U);
  EXPECT_EQ(starts([](CommunicatorOptions& o) { o.variables.backend = Backend::trtllm; }), 0U);
  EXPECT_EQ(starts([](CommunicatorOptions& o) { o.candidate = "oneshot"; }), 0U);
  EXPECT_EQ(starts([](CommunicatorOptions& o) { o.variables.off = true; }), 0U);
  EXPECT_FALSE(std::filesystem::exists(folder / "startup.db"));
  EXPECT_EQ(starts([](CommunicatorOptions&) {}), 1U);
}

TEST_F(StartupTuneTest, NothingIsMeasuredBesideACapturedGraph) {
  Orders orders;
  run_ranks(2, [&](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, options(orders));
    const PreparedFamily handle = communicator.prepare(small);
    const test::Tensor<float> data(*context.device, 64);
    CallTensors tensors;
    tensors.input = tensors.output = data.data();
    const StreamHandle stream = context.device->create_stream();
    context.device->begin_capture(stream);
    handle.run(tensors, 1, stream);
    const std::unique_ptr<Graph> graph = context.device->end_capture(stream);
    communicator.prepare({"allreduce", Dtype::fp32, 32, 4, Mode::graph});
    context.device->destroy_stream(stream);
  });
  EXPECT_EQ(orders.size(), 1U);
}

TEST_F(StartupTuneTest, RanksThatDifferInItDisagree) {
  Orders orders;
  for (const bool without_tuner : {false, true}) {
    run_ranks(2, [&](RankContext& context) {
      const std::string message = message_of<Disagreement>([&] {
        CommunicatorOptions with = options(orders);
        if (context.rank == 1 && without_tuner) with.startup_tuner = {};
        if (context.rank == 1 && !without_tuner) with.variables.startup_tune = 1999ms;
        Communicator communicator(context.bootstrap, context.device, with);
      });
      EXPECT_NE(message.find("startup tune (ARBITER_STARTUP_TUNE_MS)"), std::string::npos) << message;
    });
  }
}

TEST_F(StartupTuneTest, AFileIsBelievedAsACompiledKernelIs) {
  EnvironmentVariables variables;
  variables.cache_dir = folder / "made" / "here";
  KeptDecisions kept = kept_decisions(variables);
  EXPECT_EQ(kept.problem, "");
  EXPECT_EQ(kept.database, variables.cache_dir / "startup.db");
  EXPECT_EQ(std::filesystem::status(variables.cache_dir).permissions(), std::filesystem::perms::owner_all);

  const auto refused = [&](const std::string& reason) {
    kept = kept_decisions(variables);
    EXPECT_TRUE(kept.database.empty());
    EXPECT_TRUE(kept.bytes.empty());
    EXPECT_NE(kept.problem.find(reason), std::string::npos) << kept.problem;
    EXPECT_NE(kept.problem.find("startup.db"), std::string::npos) << kept.problem;
  };
  const std::string file = variables.cache_dir / "startup.db";
  std::ofstream(file) << "not a database, but long enough to be looked at as if it were one";
  refused("database");
  ASSERT_EQ(::chmod(file.c_str(), 0666), 0);
  refused("write");  // others may
  std::filesystem::remove(file);
  std::filesystem::create_symlink("/etc/passwd", file);
  refused("no regular file");
  std::filesystem::remove(file);
  ASSERT_EQ(::chmod(variables.cache_dir.c_str(), 0777), 0);
  refused("write");
  variables.cache_dir = "/proc/no/such/cache";
  refused("kept");
  variables.cache_dir.clear();
  refused("ARBITER_CACHE_DIR");
}

TEST_F(StartupTuneTest, WithoutAPlaceForItItIsSaidOnceAndMeasuredAllTheSame) {
  Orders orders;
  std::mutex mutex;
  std::string said;
  run_ranks(2, [&](RankContext& context) {
    CommunicatorOptions with = options(orders);
    with.variables.cache_dir = "/proc/no/such/cache";
    with.variables.log = "warn";
    with.log = [&](LogLevel, std::string_view text) {
      const std::lock_guard lock(mutex);
      said += std::string(text) + "\n";
    };
    Communicator communicator(context.bootstrap, context.device, with);
    communicator.prepare(small);
    communicator.prepare(other);
  });
  ASSERT_EQ(orders.size(), 2U);
  EXPECT_TRUE(orders[0].database.empty());
  const std::string text = "is not kept in '/proc/no/such/cache/startup.db'";
  EXPECT_NE(said.find(text), std::string::npos) << said;
  EXPECT_EQ(said.find(text), said.rfind(text)) << said;
}

}  // namespace
}  // namespace arbiter
