// The real kernels under the link model: every algorithm, whole graphs of calls in which ranks run ahead of each other,
// many seeds. A failure names the seed that repeats it. ARBITER_LINK_SEEDS sets how many.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <set>

#include "arbiter/runtime/cpu_link.hpp"
#include "communicator_fixture.hpp"

namespace arbiter {
namespace {

using test::quiet_group_options;
using test::RankContext;
using test::small_integer;
using test::small_integer_sum;
using test::Tensor;

constexpr int hidden = 512;
constexpr std::array<std::int64_t, 7> calls = {1, 9, 2, 5, 1, 8, 3};  // tokens; grids shrink and grow
constexpr std::int64_t most_tokens = 9;

std::uint64_t seeds() {
  const char* value = std::getenv("ARBITER_LINK_SEEDS");
  return value == nullptr ? 8 : std::strtoull(value, nullptr, 10);
}

/// The tensors of one call. Inputs differ from call to call, so that data of another call is a wrong result.
struct CallTensors {
  Tensor<float> input, output, residual, residual_out, gamma, norm;
  std::int64_t tokens;
  std::size_t index;
  CallTensors(Device& device, int rank, std::size_t call)
      : input(device, count(call)),
        output(device, count(call)),
        residual(device, count(call)),
        residual_out(device, count(call)),
        gamma(device, hidden),
        norm(device, count(call)),
        tokens(calls[call]),
        index(call) {
    input.fill([&](std::size_t i) { return small_integer(rank, i + index * 7); });
    residual.fill([&](std::size_t i) { return static_cast<float>(i % 9); });
    gamma.fill([](std::size_t) { return 2.0F; });
  }
  static std::size_t count(std::size_t call) { return static_cast<std::size_t>(calls[call]) * hidden; }

  void spoil() const {
    for (const auto* tensor : {&output, &residual_out, &norm}) tensor->fill([](std::size_t) { return 12345.0F; });
  }
  Call call(const std::string& pattern) const {
    Call call;
    call.pattern = pattern;
    call.dtype = Dtype::fp32;
    call.hidden = hidden;
    call.tokens = tokens;
    call.input = input.data();
    call.output = output.data();
    call.residual_in = residual.data();
    call.residual_out = residual_out.data();
    call.gamma = gamma.data();
    call.norm_out = norm.data();
    return call;
  }
  /// Elements that are wrong.
  std::size_t wrong(const std::string& pattern, int ranks) const {
    std::size_t bad = 0;
    for (std::size_t row = 0; row < static_cast<std::size_t>(tokens); ++row) {
      double squares = 0;
      for (std::size_t i = row * hidden; i < (row + 1) * hidden; ++i) {
        const float sum = small_integer_sum_at(ranks, i);
        if (pattern == "allreduce") {
          bad += output[i] != sum ? 1 : 0;
        } else {
          bad += residual_out[i] != sum + residual[i] ? 1 : 0;
          squares += static_cast<double>(sum + residual[i]) * static_cast<double>(sum + residual[i]);
        }
      }
      if (pattern == "allreduce") continue;
      const double scale = 2.0 / std::sqrt(squares / hidden + 1e-6);
      for (std::size_t i = row * hidden; i < (row + 1) * hidden; ++i) {
        const double expected = static_cast<double>(small_integer_sum_at(ranks, i) + residual[i]) * scale;
        bad += std::abs(static_cast<double>(norm[i]) - expected) > 1e-4 * (1 + std::abs(expected)) ? 1 : 0;
      }
    }
    return bad;
  }
  float small_integer_sum_at(int ranks, std::size_t i) const { return small_integer_sum(ranks, i + index * 7); }
};

/// The first candidate of every algorithm with a kernel, of its form with multicast, and of every size of chunks.
std::vector<CandidateSpec> one_of_each(const std::vector<CandidateSpec>& all) {
  std::vector<CandidateSpec> chosen;
  std::set<std::string> seen;
  for (const CandidateSpec& spec : all) {
    if (!spec.kernel) continue;
    std::string name = std::string(to_string(spec.backend())) + "/" + spec.algorithm();
    for (const char* axis : {"multicast", "chunk"}) {
      const auto value = spec.kernel->parameters.find(axis);
      if (value != spec.kernel->parameters.end() && value->second < 8) name += " " + std::to_string(value->second);
    }
    if (seen.insert(name).second) chosen.push_back(spec);
  }
  return chosen;
}

class LinkProtocols : public ::testing::TestWithParam<std::tuple<int, std::string>> {};

TEST_P(LinkProtocols, EveryAlgorithmIsRightForEverySeed) {
  const auto [ranks, pattern] = GetParam();
  CpuDeviceOptions options;
  options.sm_count = 2;
  options.max_threads_per_block = pattern == "allreduce" ? 256 : 128;  // the smallest that every algorithm has
  options.link = make_cpu_link_model(ranks);
  const auto run = [&, &world = ranks, &name = pattern](RankContext& context) {
    GroupOptions group_options = quiet_group_options();
    group_options.first_epoch = 0xfffffffcU;  // every counter wraps around on the way
    group_options.variables.multicast = true;
    // One iteration in a rotating buffer, so that every long launch changes buffers; for 3 ranks several side by side.
    if (world != 3) group_options.push_buffer_bytes = 1;
    const auto group = make_group(context.bootstrap, context.device, group_options);
    const ProblemFamily family{name, Dtype::fp32, hidden, most_tokens, Mode::graph};
    const std::vector<CandidateSpec> specs = one_of_each(enumerate_candidates(*group, family, {}));
    ASSERT_GE(specs.size(), 10U);
    std::vector<LoadRequest> requests;
    for (const CandidateSpec& spec : specs) requests.push_back({spec, family});
    std::vector<LoadResult> loaded = load_on_all_ranks(*group, requests);
    for (LoadResult& result : loaded) {
      ASSERT_TRUE(result.candidate) << result.reason;
      const WorkspaceNeeds needs = result.candidate->needs(most_tokens);
      group->reserve(needs.push_bytes, needs.staging_bytes);
    }
    std::vector<std::unique_ptr<CallTensors>> tensors;
    for (std::size_t c = 0; c < calls.size(); ++c) {
      tensors.push_back(std::make_unique<CallTensors>(*context.device, context.rank, c));
    }
    const StreamHandle stream = context.device->create_stream();
    for (LoadResult& result : loaded) {
      const std::string candidate = result.candidate->spec().name();
      context.device->begin_capture(stream);
      for (const auto& call : tensors) result.candidate->enqueue(call->call(name), stream);
      const std::unique_ptr<Graph> graph = context.device->end_capture(stream);
      for (std::uint64_t seed = 1; seed <= seeds(); ++seed) {
        for (const auto& call : tensors) call->spoil();
        context.bootstrap->barrier();
        if (context.rank == 0) options.link->restart(seed);
        context.bootstrap->barrier();
        graph->launch(stream);
        std::size_t wrong = 0;
        for (const auto& call : tensors) wrong += call->wrong(name, world);
        EXPECT_EQ(wrong, 0U) << candidate << ", seed " << seed << ", rank " << context.rank;
        EXPECT_NO_THROW(group->check()) << candidate << ", seed " << seed;
        if (!context.bootstrap->all(wrong == 0)) return;
      }
    }
  };
  test::run_ranks(ranks, run, std::chrono::seconds(90), options);
  const CpuLinkStatistics statistics = options.link->statistics();
  EXPECT_GT(statistics.stores, 0U);
  EXPECT_GT(statistics.torn, 0U);
  EXPECT_GT(statistics.overtaken, 0U);
}

INSTANTIATE_TEST_SUITE_P(Worlds, LinkProtocols,
                         ::testing::Combine(::testing::Values(2, 3, 4),
                                            ::testing::Values("allreduce", "allreduce_residual_rmsnorm")));

}  // namespace
}  // namespace arbiter
