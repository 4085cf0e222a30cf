// Ranks that pass messages of different lengths to one call: all of them are told which and how long, and nobody reads
// on where a peer's message ends.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "arbiter/error.hpp"
#include "runtime/communicator_fixture.hpp"

namespace arbiter {
namespace {

using test::message_of;
using test::quiet_options;
using test::RankContext;
using test::run_ranks;

constexpr int hidden = 64;
constexpr std::int64_t most = 512;

/// One kernel of every algorithm whose ranks meet at a barrier, by its name.
std::vector<std::string> kernels(const std::string& pattern) {
  std::vector<std::string> names;
  run_ranks(2, [&](RankContext& context) {
    GroupOptions options = test::quiet_group_options();
    options.variables.multicast = true;
    const auto group = make_group(context.bootstrap, context.device, options);
    std::map<std::string, std::string> first;
    for (const CandidateSpec& spec :
         enumerate_candidates(group->capabilities(), {pattern, Dtype::fp32, hidden, most}, {})) {
      if (!spec.kernel || !spec.fused()) continue;
      const std::string algorithm = spec.algorithm();
      if (algorithm.find("pull") == std::string::npos && algorithm != "twoshot_barrier" && algorithm != "multimem")
        continue;
      first.emplace(algorithm, spec.name());
    }
    if (context.rank != 0) return;
    for (const auto& [algorithm, name] : first) names.push_back(name);
  });
  return names;
}

struct Case {
  std::string candidate;
  std::string pattern = "allreduce";
  std::int64_t usual = 1;  ///< tokens of every rank but one
  std::int64_t odd = 2;    ///< tokens of rank 1
  int ranks = 2;
  bool shared = false;
};

void expect_told(const Case& what) {
  SCOPED_TRACE(what.candidate + ": " + std::to_string(what.usual) + " and " + std::to_string(what.odd) + " tokens" +
               (what.shared ? ", shared" : ""));
  std::vector<std::string> messages(static_cast<std::size_t>(what.ranks));
  run_ranks(what.ranks, [&](RankContext& context) {
    CommunicatorOptions options = quiet_options();
    options.variables.multicast = true;
    options.candidate = what.candidate;
    Communicator communicator(context.bootstrap, context.device, options);
    const PreparedFamily family = communicator.prepare({what.pattern, Dtype::fp32, hidden, most, Mode::graph});
    ASSERT_EQ(family.explain(what.usual).candidate.name, what.candidate);
    // Behind each message lies what would spoil every sum.
    constexpr std::size_t elements = static_cast<std::size_t>(most) * hidden;
    std::vector<test::Tensor<float>> own;
    for (int i = 0; i < 4; ++i) own.emplace_back(*context.device, elements);
    auto* input = own[0].data();
    if (what.shared) input = static_cast<float*>(communicator.allocate_symmetric(elements * sizeof(float)));
    const std::int64_t tokens = context.rank == 1 ? what.odd : what.usual;
    const auto count = static_cast<std::size_t>(tokens) * hidden;
    for (std::size_t i = 0; i < elements; ++i) input[i] = i < count ? 1.0F : std::numeric_limits<float>::quiet_NaN();
    CallTensors tensors;
    tensors.input = input;
    tensors.output = own[1].data();
    if (what.pattern != "allreduce") {
      own[3].fill([](std::size_t) { return 1.0F; });
      tensors.residual_in = own[3].data();
      tensors.residual_out = own[1].data();
      tensors.gamma = own[3].data();
      tensors.norm_out = own[2].data();
      tensors.output = nullptr;
    }
    context.bootstrap->barrier();
    messages[static_cast<std::size_t>(context.rank)] =
        message_of<Poisoned>([&] { family.run(tensors, tokens, nullptr); });
    if (what.shared) {
      for (std::size_t i = 0; i < count; ++i) ASSERT_FALSE(std::isnan(own[1][i])) << "read past a message";
    }
    EXPECT_THROW(family.run(tensors, tokens, nullptr), Poisoned);
    EXPECT_THROW(communicator.check(), Poisoned);
    context.bootstrap->barrier();  // nobody's memory goes while a peer may still look at it
  });
  const auto said = [&](int rank, std::int64_t tokens) {
    return "rank " + std::to_string(rank) + " " + std::to_string(tokens * hidden * 4) + " bytes";
  };
  for (const std::string& message : messages) {
    EXPECT_NE(message.find("messages of different sizes"), std::string::npos) << message;
    EXPECT_NE(message.find(said(1, what.odd)), std::string::npos) << message;
    EXPECT_NE(message.find(" " + std::to_string(what.usual * hidden * 4) + " bytes"), std::string::npos) << message;
  }
}

TEST(Lengths, OfDifferentRanksMayDifferInNoCall) {
  const std::vector<std::string> names = kernels("allreduce");
  ASSERT_GE(names.size(), 4U);
  for (const std::string& name : names) {
    const bool shared = name.find("barrier") == std::string::npos;
    expect_told({.candidate = name, .usual = 2, .odd = 1, .shared = shared});
    expect_told({.candidate = name, .usual = 1, .odd = 2, .shared = shared});
    expect_told({.candidate = name, .usual = 3, .odd = 2, .ranks = 3});
    // Grids of different sizes too: blocks that have no partner wait until they are told.
    expect_told({.candidate = name, .usual = 1, .odd = most});
    expect_told({.candidate = name, .usual = most, .odd = 1, .shared = shared});
    if (HasFailure()) return;
  }
}

TEST(Lengths, OfFusedCallsNeither) {
  const std::vector<std::string> names = kernels("allreduce_residual_rmsnorm");
  ASSERT_GE(names.size(), 3U);
  for (const std::string& name : names) {
    expect_told({.candidate = name, .pattern = "allreduce_residual_rmsnorm", .usual = 2, .odd = 1});
    expect_told({.candidate = name, .pattern = "allreduce_residual_rmsnorm", .usual = 1, .odd = 7});
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace arbiter
