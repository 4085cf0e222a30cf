// The front door, on the CPU device: right answers for every kind of call.
#include "arbiter/communicator.hpp"

#include <filesystem>
#include <fstream>

#include "arbiter/error.hpp"
#include "runtime/communicator_fixture.hpp"

namespace arbiter {
namespace {

using test::message_of;
using test::quiet_options;
using test::RankContext;
using test::run_ranks;
using test::small_integer;
using test::small_integer_sum;
using test::Tensor;

ProblemFamily plain(int hidden, std::int64_t max_tokens) {
  return {"allreduce", Dtype::fp32, hidden, max_tokens, Mode::graph};
}

Communicator make(RankContext& context) { return Communicator(context.bootstrap, context.device, quiet_options()); }

/// All-reduces `count` small integers that begin `offset` elements into an allocation; checks the sum and the guards.
void check_plain(Communicator& communicator, RankContext& context, std::size_t count, std::size_t offset,
                 bool in_place) {
  constexpr float guard = 12345.0F;
  const Tensor<float> input(*context.device, count + offset + 8);
  const Tensor<float> output(*context.device, count + offset + 8);
  input.fill([&](std::size_t i) {
    return i < offset || i >= offset + count ? guard : small_integer(context.rank, i - offset);
  });
  output.fill([&](std::size_t) { return guard; });
  const Tensor<float>& result = in_place ? input : output;
  communicator.all_reduce(input.data() + offset, result.data() + offset, static_cast<std::int64_t>(count), Dtype::fp32,
                          nullptr);
  for (std::size_t i = 0; i < count; ++i) {
    ASSERT_EQ(result[offset + i], small_integer_sum(context.size, i))
        << "element " << i << " of " << count << ", offset " << offset << ", rank " << context.rank;
  }
  for (std::size_t i = 0; i < offset; ++i) ASSERT_EQ(result[i], guard);
  for (std::size_t i = offset + count; i < result.size(); ++i) ASSERT_EQ(result[i], guard) << "written past the end";
}

TEST(Communicator, PlainServesEveryCountAlignmentAndPlace) {
  for (const int size : {2, 3}) {
    run_ranks(size, [](RankContext& context) {
      Communicator communicator = make(context);
      const std::vector<ProblemFamily> families = {plain(256, 16)};
      communicator.prepare(families);
      EXPECT_GT(communicator.workspace_bytes(), 0U);
      EXPECT_EQ(communicator.symmetric_provider(), SymmetricProvider::shared_memory);
      for (const std::size_t count : {1U, 3U, 4U, 7U, 8U, 511U, 512U, 1000U, 4095U, 4096U}) {
        for (const std::size_t offset : {0U, 1U, 4U}) {
          for (const bool in_place : {false, true}) check_plain(communicator, context, count, offset, in_place);
        }
      }
      communicator.all_reduce(nullptr, nullptr, 0, Dtype::fp32, nullptr);  // nothing to do is done
      communicator.check();
    });
  }
}

TEST(Communicator, AHandleServesMessagesOfAnyCountItCovers) {
  run_ranks(2, [](RankContext& context) {
    Communicator communicator = make(context);
    const PreparedFamily family = communicator.prepare(plain(64, 4));
    for (const std::size_t count : {1U, 65U, 256U}) {
      const Tensor<float> data(*context.device, count);
      data.fill([&](std::size_t i) { return small_integer(context.rank, i); });
      EXPECT_TRUE(family.runs_kernel(static_cast<std::int64_t>(count)));
      family.all_reduce(data.data(), data.data(), static_cast<std::int64_t>(count), nullptr, Mode::eager);
      for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(data[i], small_integer_sum(2, i));
    }
    family.all_reduce(nullptr, nullptr, 0, nullptr, Mode::eager);
    const Tensor<float> data(*context.device, 257);
    EXPECT_THROW(family.all_reduce(data.data(), data.data(), 257, nullptr, Mode::eager), Unsupported);
    EXPECT_THROW(family.all_reduce(data.data(), data.data(), -1, nullptr, Mode::eager), InvalidArgument);
    for (const std::int64_t count : {-1, 0, 257}) EXPECT_FALSE(family.runs_kernel(count)) << count;
    const PreparedFamily fused = communicator.prepare({"allreduce_residual_rmsnorm", Dtype::fp32, 64, 4, Mode::graph});
    EXPECT_THROW(fused.all_reduce(data.data(), data.data(), 64, nullptr, Mode::eager), InvalidArgument);
    EXPECT_FALSE(fused.runs_kernel(64));
  });
}

TEST(Communicator, WhatNeedsMoreThanTheLimitIsRefusedAndWhatIsThereStays) {
  run_ranks(2, [](RankContext& context) {
    std::size_t needed = 0;
    {
      Communicator communicator = make(context);
      communicator.prepare(plain(64, 4));
      needed = communicator.workspace_bytes() + communicator.scratch_bytes();
    }
    CommunicatorOptions options = quiet_options();
    options.workspace_limit = needed;
    Communicator communicator(context.bootstrap, context.device, options);
    const std::string message = message_of<WorkspaceLimit>([&] { communicator.prepare(plain(64, 400)); });
    EXPECT_NE(message.find("more than the limit of " + std::to_string(needed)), std::string::npos) << message;
    EXPECT_EQ(communicator.workspace_bytes() + communicator.scratch_bytes(), 0U);
    communicator.prepare(plain(64, 4));
    EXPECT_EQ(communicator.workspace_bytes() + communicator.scratch_bytes(), needed);
    EXPECT_THROW(communicator.prepare(plain(64, 400)), WorkspaceLimit);
    check_plain(communicator, context, 256, 0, false);
  });
}

TEST(Communicator, RunAndAllReduceServeTheSameFamilies) {
  run_ranks(2, [](RankContext& context) {
    Communicator communicator = make(context);
    // A row of 7 elements: no row is a whole number of vectors.
    const std::vector<ProblemFamily> families = {plain(7, 5)};
    communicator.prepare(families);
    for (const std::int64_t tokens : {1, 2, 4, 5}) {
      const auto count = static_cast<std::size_t>(tokens) * 7;
      const Tensor<float> input(*context.device, count);
      const Tensor<float> output(*context.device, count);
      input.fill([&](std::size_t i) { return small_integer(context.rank, i); });
      Call call;
      call.dtype = Dtype::fp32;
      call.hidden = 7;
      call.tokens = tokens;
      call.input = input.data();
      call.output = output.data();
      communicator.run(call, nullptr);
      for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(output[i], small_integer_sum(2, i));
      Problem problem{"allreduce", Dtype::fp32, 7, tokens, 2, Mode::graph, false};
      EXPECT_TRUE(communicator.can_use(problem));
    }
    const Explanation odd = communicator.explain({"allreduce", Dtype::fp32, 7, 3, 2, Mode::graph, false});
    EXPECT_EQ(odd.rule, Rule::fallback);
    EXPECT_NE(odd.reason.find("84 bytes are not a multiple of 16"), std::string::npos) << odd.reason;
    EXPECT_EQ(communicator.explain({"allreduce", Dtype::fp32, 7, 4, 2, Mode::graph, false}).rule, Rule::heuristic);
  });
}

TEST(Communicator, ACapturedGraphReplaysBetweenEagerCallsOfOtherSizes) {
  run_ranks(2, [](RankContext& context) {
    Communicator communicator = make(context);
    const std::vector<ProblemFamily> families = {plain(64, 64)};
    communicator.prepare(families);
    constexpr std::size_t count = 64 * 9;
    const Tensor<float> input(*context.device, count);
    const Tensor<float> output(*context.device, count);
    const StreamHandle stream = context.device->create_stream();
    context.device->begin_capture(stream);
    communicator.all_reduce(input.data(), output.data(), count, Dtype::fp32, stream);
    communicator.all_reduce(output.data(), output.data(), count, Dtype::fp32, stream);
    const std::unique_ptr<Graph> graph = context.device->end_capture(stream);
    for (int replay = 0; replay < 5; ++replay) {
      input.fill([&](std::size_t i) { return small_integer(context.rank, i) + static_cast<float>(replay); });
      graph->launch(stream);
      context.device->synchronize(stream);
      for (std::size_t i = 0; i < count; ++i) {
        ASSERT_EQ(output[i], 2 * (small_integer_sum(2, i) + 2 * static_cast<float>(replay)));
      }
      check_plain(communicator, context, 64 * static_cast<std::size_t>(1 + replay * 13), 0, true);
    }

    // What fits may still be prepared; what would move the workspace under the graph may not.
    const std::vector<ProblemFamily> smaller = {plain(32, 8)};
    communicator.prepare(smaller);
    const std::vector<ProblemFamily> larger = {plain(64, 6400)};
    const std::string message = test::message_of<Unsupported>([&] { communicator.prepare(larger); });
    EXPECT_NE(message.find("before the first capture"), std::string::npos) << message;
    graph->launch(stream);
    for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(output[i], 2 * (small_integer_sum(2, i) + 8));
    context.device->destroy_stream(stream);
  });
}

TEST(Communicator, SeveralFamiliesAndGrowthBeforeCapture) {
  run_ranks(2, [](RankContext& context) {
    Communicator communicator = make(context);
    const std::vector<ProblemFamily> first = {plain(64, 4)};
    communicator.prepare(first);
    check_plain(communicator, context, 256, 0, false);
    const std::size_t before = communicator.workspace_bytes();
    const std::vector<ProblemFamily> second = {plain(64, 4), plain(1024, 400)};
    communicator.prepare(second);
    EXPECT_GT(communicator.workspace_bytes(), before);
    check_plain(communicator, context, 1024 * 400, 0, false);
    check_plain(communicator, context, 256, 0, false);
    check_plain(communicator, context, 1024 * 399 + 5, 1, true);
  });
}

TEST(Communicator, ASingleRankCopiesAndRunsTheEpilogueAlone) {
  run_ranks(1, [](RankContext& context) {
    Communicator communicator = make(context);
    EXPECT_EQ(communicator.size(), 1);
    EXPECT_THROW(communicator.symmetric_provider(), Unsupported);
    const std::vector<ProblemFamily> families = {plain(64, 4),
                                                 {"allreduce_residual_rmsnorm", Dtype::fp32, 64, 4, Mode::graph}};
    communicator.prepare(families);
    EXPECT_EQ(communicator.workspace_bytes(), 0U);
    check_plain(communicator, context, 255, 1, false);
    check_plain(communicator, context, 100000, 0, true);  // a copy needs no preparation

    constexpr std::size_t count = 4 * 64;
    const Tensor<float> input(*context.device, count);
    const Tensor<float> residual(*context.device, count);
    const Tensor<float> gamma(*context.device, 64);
    const Tensor<float> norm(*context.device, count);
    input.fill([](std::size_t i) { return static_cast<float>(i % 7); });
    residual.fill([](std::size_t i) { return static_cast<float>(i % 3); });
    gamma.fill([](std::size_t) { return 2.0F; });
    Call call;
    call.dtype = Dtype::fp32;
    call.hidden = 64;
    call.tokens = 4;
    call.input = input.data();
    call.residual_in = residual.data();
    call.residual_out = residual.data();
    call.gamma = gamma.data();
    call.norm_out = norm.data();
    communicator.all_reduce_residual_rmsnorm(call, nullptr);
    for (std::size_t row = 0; row < 4; ++row) {
      double squares = 0;
      for (std::size_t i = row * 64; i < row * 64 + 64; ++i) {
        ASSERT_EQ(residual[i], static_cast<float>(i % 7 + i % 3));
        squares += static_cast<double>(residual[i]) * residual[i];
      }
      const double scale = 2.0 / std::sqrt(squares / 64 + 1e-6);
      for (std::size_t i = row * 64; i < row * 64 + 64; ++i) ASSERT_NEAR(norm[i], residual[i] * scale, 1e-5);
    }
    EXPECT_EQ(communicator.explain({"allreduce", Dtype::fp32, 64, 4, 1, Mode::graph, false}).candidate.name,
              "auto/copy");
  });
}

TEST(Communicator, TwoInterleavedCommunicatorsOnOverlappingGroups) {
  // One communicator over all three ranks, one over ranks 0 and 1 only.
  std::vector<std::unique_ptr<Bootstrap>> pair = make_in_process_bootstraps(2);
  run_ranks(3, [&](RankContext& context) {
    Communicator all = make(context);
    const std::vector<ProblemFamily> families = {plain(64, 32)};
    all.prepare(families);
    if (context.rank == 2) {
      for (std::size_t round = 1; round <= 8; ++round) check_plain(all, context, 64 * round, 0, false);
      return;
    }
    RankContext inner = context;
    inner.size = 2;
    inner.bootstrap = std::move(pair[static_cast<std::size_t>(context.rank)]);
    Communicator two = make(inner);
    two.prepare(families);
    for (std::size_t round = 1; round <= 8; ++round) {
      check_plain(all, context, 64 * round, 0, false);
      check_plain(two, inner, 64 * (9 - round), 0, false);
    }
  });
}

std::size_t entries(const char* directory) {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory)) ++count;
  return count;
}

std::size_t mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) ++count;
  return count;
}

TEST(Communicator, CreatedAndDestroyed100TimesLeavesNothingBehind) {
  std::size_t descriptors = 0;
  std::size_t mapped = 0;
  run_ranks(2, [&](RankContext& context) {
    for (int round = 0; round < 100; ++round) {
      {
        Communicator communicator = make(context);
        const std::vector<ProblemFamily> families = {plain(64, 8)};
        communicator.prepare(families);
        check_plain(communicator, context, 512, 0, round % 2 == 0);
      }
      context.bootstrap->barrier();
      if (context.rank == 0 && round == 9) {
        descriptors = entries("/proc/self/fd");
        mapped = mappings();
      }
      if (context.rank == 0 && round == 99) {
        EXPECT_LE(entries("/proc/self/fd"), descriptors);
        EXPECT_LE(mappings(), mapped + 8);  // the allocator's own arenas may move a little
      }
      context.bootstrap->barrier();
    }
  });
}

TEST(Communicator, AMovedFromCommunicatorRefusesCalls) {
  run_ranks(1, [](RankContext& context) {
    Communicator first = make(context);
    Communicator second = std::move(first);
    float x = 1;
    const auto call = [&] { first.all_reduce(&x, &x, 1, Dtype::fp32, nullptr); };  // NOLINT(bugprone-use-after-move)
    const std::string message = test::message_of<InvalidArgument>(call);
    EXPECT_NE(message.find("moved from"), std::string::npos);
    EXPECT_EQ(second.size(), 1);
  });
}

/// Rank 1 passes pointers that are aligned to their elements and no more; the others are aligned to vectors.
TEST(PreparedFamily, OneRankWithUnalignedPointersTakesTheSameExchangeAndGetsTheSameBits) {
  for (const Backend backend : {Backend::trtllm, Backend::mnnvl, Backend::custom}) {
    run_ranks(3, [&](RankContext& context) {
      CommunicatorOptions options = quiet_options();
      options.variables.backend = backend;
      Communicator communicator(context.bootstrap, context.device, options);
      const PreparedFamily family = communicator.prepare({"allreduce", Dtype::fp32, 64, 8, Mode::graph});
      const std::size_t count = 8 * 64;
      const Tensor<float> input(*context.device, count + 4), output(*context.device, count + 4);
      const std::size_t shift = context.rank == 1 ? 1 : 0;
      for (std::size_t i = 0; i < count; ++i) input[i + shift] = small_integer(context.rank, i);
      for (int repeat = 0; repeat < 3; ++repeat) {
        for (std::size_t i = 0; i < output.size(); ++i) output[i] = -1;
        CallTensors tensors;
        tensors.input = input.data() + shift;
        tensors.output = output.data() + shift;
        family.run(tensors, 8, nullptr);
        EXPECT_NE(family.explain(8).candidate.backend, Backend::nccl);
        for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(output[i + shift], small_integer_sum(3, i)) << i;
        for (std::size_t i = count + shift; i < output.size(); ++i) ASSERT_EQ(output[i], -1) << "behind the message";
        EXPECT_EQ(output[0], shift != 0 ? -1 : small_integer_sum(3, 0)) << "in front of the message";
      }
      // In place on rank 1 alone, not aligned either.
      CallTensors tensors;
      tensors.input = input.data() + shift;
      tensors.output = context.rank == 1 ? input.data() + shift : output.data();
      family.run(tensors, 8, nullptr);
      const float* sums = static_cast<const float*>(tensors.output);
      for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(sums[i], small_integer_sum(3, i)) << i;
    });
  }
}

TEST(PreparedFamily, RunsWhatRunDoesAndExplainsIt) {
  run_ranks(2, [](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, quiet_options());
    const PreparedFamily family = communicator.prepare({"allreduce", Dtype::fp32, 7, 9, Mode::graph});
    EXPECT_EQ(family.family().hidden, 7);
    const Tensor<float> data(*context.device, 63);
    for (std::int64_t tokens = 0; tokens <= 9; ++tokens) {
      data.fill([&](std::size_t i) { return small_integer(context.rank, i); });
      CallTensors tensors;
      tensors.input = data.data();
      tensors.output = data.data();
      family.run(tensors, tokens, nullptr);
      for (std::size_t i = 0; i < data.size(); ++i) {
        const bool summed = i < static_cast<std::size_t>(tokens) * 7;
        ASSERT_EQ(data[i], summed ? small_integer_sum(2, i) : small_integer(context.rank, i)) << tokens << " " << i;
      }
      if (tokens == 0) continue;
      const Explanation by_handle = family.explain(tokens);
      const Explanation by_name = communicator.explain({"allreduce", Dtype::fp32, 7, tokens, 2, Mode::graph, false});
      EXPECT_EQ(by_handle.rule, by_name.rule);
      EXPECT_EQ(by_handle.reason, by_name.reason);
      EXPECT_EQ(by_handle.candidate.name, by_name.candidate.name);
    }
    EXPECT_NE(message_of<Unsupported>([&] { family.run({}, 10, nullptr); }).find("up to 9 tokens"), std::string::npos);
    message_of<InvalidArgument>([&] { family.run({}, -1, nullptr); });
    message_of<InvalidArgument>([&] { (void)family.explain(0); });
    // More tokens later: the handle that is there serves them.
    communicator.prepare({"allreduce", Dtype::fp32, 7, 20, Mode::graph});
    EXPECT_EQ(family.family().max_tokens, 20);
  });
}

}  // namespace
}  // namespace arbiter
