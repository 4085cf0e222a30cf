// A snapshot with kernels runs where nothing can be compiled.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>

#include "arbiter/error.hpp"
#include "arbiter/runtime/decision_kernels.hpp"
#include "candidate/loaded_kernel.hpp"
#include "runtime/communicator_fixture.hpp"
#include "runtime/stored_decision.hpp"

namespace arbiter {
namespace {

using test::quiet_group_options;
using test::quiet_options;
using test::RankContext;
using test::run_ranks;
using test::Tensor;

constexpr int ranks = 2;
constexpr int hidden = 256;
constexpr std::int64_t max_tokens = 8;

/// No host compiler can be found while it lives.
class WithoutCompiler {
 public:
  WithoutCompiler() {
    if (const char* cxx = std::getenv("CXX")) before_ = cxx;
    ::setenv("CXX", "no-such-compiler", 1);
  }
  ~WithoutCompiler() {
    if (before_) {
      ::setenv("CXX", before_->c_str(), 1);
    } else {
      ::unsetenv("CXX");
    }
  }

 private:
  std::optional<std::string> before_;
};

class StoredKernels : public ::testing::Test {
 protected:
  StoredKernels() {
    std::string pattern = (std::filesystem::temp_directory_path() / "arbiter-stored-kernels-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    folder = pattern;
    run_ranks(ranks, [&](RankContext& context) {
      const auto group = make_group(context.bootstrap, context.device, quiet_group_options());
      if (context.rank == 0) sets = {{group->environment(), decisions(*group)}};
    });
  }
  ~StoredKernels() override { std::filesystem::remove_all(folder); }

  /// Every token count of a plain and of a fused family, each by an algorithm that the heuristic does not choose.
  static std::vector<Decision> decisions(const Group& group) {
    std::vector<Decision> all;
    for (const char* pattern : {"allreduce", "allreduce_residual_rmsnorm"}) {
      const ProblemFamily family{pattern, Dtype::bf16, hidden, max_tokens, Mode::graph};
      all.push_back(test::stored_decision(group.capabilities(), family, 1, max_tokens, "twoshot_push"));
    }
    return all;
  }

  std::vector<StoredKernel> compiled() {
    CacheOptions options;
    options.directory = test::kernels_folder();
    KernelCache cache(options);
    const DecisionKernels made = compile_decision_kernels(sets, cache);
    EXPECT_TRUE(made.skipped.empty());
    return made.kernels;
  }

  CommunicatorOptions without_jit() const {
    CommunicatorOptions options = quiet_options();
    options.decisions.reset();
    options.variables.db = (folder / "snapshot.db").string();
    options.variables.cache_dir = folder / "empty-cache";
    options.variables.jit = false;
    options.variables.kernels = true;
    return options;
  }

  std::filesystem::path folder;
  std::vector<DecisionSet> sets;
};

TEST_F(StoredKernels, RunWithoutACompilerAndWithoutACache) {
  const std::vector<StoredKernel> kernels = compiled();
  ASSERT_EQ(kernels.size(), 2U) << "one image for both ranks, plain and fused";
  write_snapshot(folder / "snapshot.db", sets, kernels);
  const WithoutCompiler none;
  ASSERT_THROW(make_host_compiler(), Unavailable);
  run_ranks(ranks, [&](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, without_jit());
    EXPECT_EQ(communicator.environment().compiler_version, "");
    const std::vector<ProblemFamily> families = {
        {"allreduce", Dtype::bf16, hidden, max_tokens, Mode::graph},
        {"allreduce_residual_rmsnorm", Dtype::bf16, hidden, max_tokens, Mode::graph}};
    communicator.prepare(families);
    for (const ProblemFamily& family : families) {
      const Explanation why =
          communicator.explain({family.pattern, Dtype::bf16, hidden, max_tokens, ranks, Mode::graph, false});
      EXPECT_EQ(why.rule, Rule::nearest_environment);
      EXPECT_NE(why.reason.find("compiler_version: none here"), std::string::npos) << why.reason;
      EXPECT_EQ(why.candidate.algorithm, "twoshot_push");
    }
    const std::size_t count = static_cast<std::size_t>(hidden) * max_tokens;
    Tensor<std::uint16_t> input(*context.device, count), output(*context.device, count);
    // bf16 of 1 + rank: the upper half of the float.
    input.fill([&](std::size_t) { return static_cast<std::uint16_t>(context.rank == 0 ? 0x3f80 : 0x4000); });
    communicator.all_reduce(input.data(), output.data(), static_cast<std::int64_t>(count), Dtype::bf16, nullptr);
    for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(output[i], 0x4040) << "1 + 2 is 3, element " << i;
  });
}

TEST_F(StoredKernels, ASnapshotWithoutThemCannotRunThere) {
  write_snapshot(folder / "snapshot.db", sets);
  const WithoutCompiler none;
  run_ranks(ranks, [&](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, without_jit());
    const std::vector<ProblemFamily> families = {{"allreduce", Dtype::bf16, hidden, max_tokens, Mode::graph}};
    EXPECT_THROW(communicator.prepare(families), Unsupported);
  });
}

/// Bytes have no owner: that kernels of files may run says nothing about them.
TEST_F(StoredKernels, OfBytesInMemoryAreRunOnlyIfTheCallerTrustsThem) {
  write_snapshot(folder / "snapshot.db", sets, compiled());
  const std::string bytes = read_for_broadcast(folder / "snapshot.db");
  const WithoutCompiler none;
  for (const bool trusted : {false, true}) {
    run_ranks(ranks, [&](RankContext& context) {
      CommunicatorOptions options = without_jit();
      options.variables.db.clear();
      options.decisions_data = bytes;
      options.trust_decisions_data = trusted;
      Communicator communicator(context.bootstrap, context.device, options);
      const std::vector<ProblemFamily> families = {{"allreduce", Dtype::bf16, hidden, max_tokens, Mode::graph}};
      if (trusted) {
        EXPECT_NO_THROW(communicator.prepare(families));
      } else {
        EXPECT_THROW(communicator.prepare(families), Unsupported);
      }
    });
  }
}

TEST_F(StoredKernels, AreNotRunUnlessAskedForAndTrusted) {
  const std::filesystem::path file = folder / "snapshot.db";
  write_snapshot(file, sets, compiled());
  const WithoutCompiler none;
  const auto can_run = [&](bool kernels) {
    std::atomic<int> prepared{0};
    run_ranks(ranks, [&](RankContext& context) {
      CommunicatorOptions options = without_jit();
      options.variables.kernels = kernels;
      Communicator communicator(context.bootstrap, context.device, options);
      const std::vector<ProblemFamily> families = {{"allreduce", Dtype::bf16, hidden, max_tokens, Mode::graph}};
      try {
        communicator.prepare(families);
        ++prepared;
      } catch (const Unsupported&) {
      }
    });
    return prepared == ranks;
  };
  EXPECT_TRUE(can_run(true));
  EXPECT_FALSE(can_run(false)) << "kernels are opt-in";
  ASSERT_EQ(::chmod(file.c_str(), 0666), 0);
  EXPECT_FALSE(can_run(true)) << "others could have written them";
  ASSERT_EQ(::chmod(file.c_str(), 0644), 0);
  EXPECT_TRUE(can_run(true));
  const std::string bytes = read_for_broadcast(file);
  EXPECT_EQ(carried_kernels_in_bytes(bytes, "snapshot").count, 2U);
  EXPECT_NE(untrusted_kernels(file, bytes + "x"), "");
  if (::geteuid() != 0) return;
  ASSERT_EQ(::chown(file.c_str(), 65534, 65534), 0);
  EXPECT_FALSE(can_run(true)) << "another user wrote them";
}

TEST_F(StoredKernels, AnImageThatIsShorterThanItsHeadersIsAnError) {
  const std::vector<StoredKernel> whole = compiled();
  const std::string& image = whole.front().kernel.image;
  for (const std::size_t bytes :
       {std::size_t{1}, std::size_t{63}, std::size_t{64}, image.size() / 2, image.size() - 1}) {
    std::vector<StoredKernel> cut = whole;
    cut.front().kernel.image.resize(bytes);
    write_snapshot(folder / "cut.db", sets, cut);  // with a digest that fits
    const std::string message = test::message_of<DatabaseError>(
        [&] { read_kernels_from_bytes(read_for_broadcast(folder / "cut.db"), "cut.db"); });
    EXPECT_NE(message.find("cannot be loaded"), std::string::npos) << message;
  }
}

TEST_F(StoredKernels, ADamagedKernelSpoilsTheSnapshot) {
  std::vector<StoredKernel> kernels = compiled();
  write_snapshot(folder / "snapshot.db", sets, kernels);
  std::string bytes = read_for_broadcast(folder / "snapshot.db");
  const std::size_t at = bytes.find("ELF");
  ASSERT_NE(at, std::string::npos);
  bytes[at + 100] = static_cast<char>(~bytes[at + 100]);
  const std::string message = test::message_of<DatabaseError>([&] { read_kernels_from_bytes(bytes, "damaged.db"); });
  EXPECT_NE(message.find("damaged.db"), std::string::npos) << message;
  EXPECT_NE(message.find("does not match its digest"), std::string::npos) << message;
}

TEST_F(StoredKernels, TheSameDecisionsAndKernelsGiveTheSameBytes) {
  const std::vector<StoredKernel> kernels = compiled();
  write_snapshot(folder / "a.db", sets, kernels);
  std::vector<StoredKernel> reversed(kernels.rbegin(), kernels.rend());
  write_snapshot(folder / "b.db", sets, reversed);
  EXPECT_EQ(read_for_broadcast(folder / "a.db"), read_for_broadcast(folder / "b.db"));
  const std::vector<StoredKernel> read = read_kernels_from_bytes(read_for_broadcast(folder / "a.db"), "a.db");
  ASSERT_EQ(read.size(), kernels.size());
  for (std::size_t i = 0; i < read.size(); ++i) {
    EXPECT_EQ(read[i].key, kernels[i].key);
    EXPECT_EQ(read[i].source_hash, kernels[i].source_hash);
    EXPECT_EQ(read[i].kernel.image, kernels[i].kernel.image);
    EXPECT_EQ(read[i].kernel.resources, kernels[i].kernel.resources);
  }
  EXPECT_EQ(read_decisions(folder / "a.db"), sets);
}

TEST_F(StoredKernels, DecisionsOfAnotherSourceAreSkippedAndNamed) {
  sets[0].decisions[0].candidate.source_hash[0] = sets[0].decisions[0].candidate.source_hash[0] == '0' ? '1' : '0';
  sets[0].decisions[1].candidate.name = "mnnvl/threeshot:threads=256";
  CacheOptions options;
  options.directory = test::kernels_folder();
  KernelCache cache(options);
  const DecisionKernels made = compile_decision_kernels(sets, cache);
  EXPECT_TRUE(made.kernels.empty());
  ASSERT_EQ(made.skipped.size(), 2U);
  EXPECT_NE(made.skipped[0].find("source of its kernel has changed"), std::string::npos) << made.skipped[0];
  EXPECT_NE(made.skipped[1].find("threeshot"), std::string::npos) << made.skipped[1];
}

/// The runtime would not use them either.
TEST_F(StoredKernels, OfADecisionThatWasTimedWithFewerRegistersAreSkippedAndNamed) {
  if (nvrtc_version().starts_with("(")) GTEST_SKIP() << "needs NVRTC";
  Environment& environment = sets[0].environment;
  environment.device = "cuda";
  environment.compute_capability = 90;
  sets[0].decisions.resize(1);
  Decision& decision = sets[0].decisions[0];
  const ProblemFamily family{decision.pattern, decision.dtype, hidden, max_tokens, decision.mode};
  const CandidateSpec spec = CandidateSpec::parse(Catalogue::builtin(), decision.candidate.name, family, ranks);
  decision.candidate.source_hash = candidate_source_hash(Catalogue::builtin(), Dialect::cuda, spec);
  CacheOptions options;
  options.directory = test::kernels_folder();
  KernelCache cache(options);
  decision.use = {255, 1 << 20};
  const DecisionKernels made = compile_decision_kernels(sets, cache);
  ASSERT_EQ(made.kernels.size(), 2U);
  const int registers = made.kernels[0].kernel.resources.registers;
  ASSERT_GT(registers, 1);
  decision.use = {registers - 1, 1 << 20};
  const DecisionKernels none = compile_decision_kernels(sets, cache);
  EXPECT_TRUE(none.kernels.empty());
  ASSERT_EQ(none.skipped.size(), 1U);
  EXPECT_NE(none.skipped[0].find(fmt::format("{} registers, measured with {}", registers, registers - 1)),
            std::string::npos)
      << none.skipped[0];
}

TEST_F(StoredKernels, AreCompiledForEveryRankOfAGpuEnvironment) {
  if (nvrtc_version().starts_with("(")) GTEST_SKIP() << "needs NVRTC";
  Environment& environment = sets[0].environment;
  environment.device = "cuda";
  environment.compute_capability = 90;
  for (Decision& decision : sets[0].decisions) {
    const ProblemFamily family{decision.pattern, decision.dtype, hidden, max_tokens, decision.mode};
    const CandidateSpec spec = CandidateSpec::parse(Catalogue::builtin(), decision.candidate.name, family, ranks);
    decision.candidate.source_hash = candidate_source_hash(Catalogue::builtin(), Dialect::cuda, spec);
  }
  const std::vector<StoredKernel> kernels = compiled();
  ASSERT_EQ(kernels.size(), 4U) << "plain and fused, rank 0 and rank 1";
  const KernelSet found(kernels);
  EXPECT_EQ(found.size(), 4U);
  for (const StoredKernel& kernel : kernels) {
    EXPECT_EQ(kernel.kernel.target, "sm_90a");
    EXPECT_NE(found.find({"", kernel.kernel.entry, kernel.source_hash}, "sm_90a"), nullptr);
    EXPECT_EQ(found.find({"", kernel.kernel.entry, kernel.source_hash}, "sm_80"), nullptr);
  }
}

}  // namespace
}  // namespace arbiter
