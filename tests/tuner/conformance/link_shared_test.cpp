// Kernels that read inputs and write outputs where they lie, under the link model: whatever mixture of shared and
// private tensors the ranks pass, call after call, in place or not. ARBITER_LINK_SEEDS sets how many seeds.
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>

#include "arbiter/error.hpp"
#include "arbiter/runtime/cpu_link.hpp"
#include "candidate/abi.hpp"
#include "memory/shared_buffers.hpp"
#include "memory/workspace.hpp"
#include "runtime/communicator_fixture.hpp"

namespace arbiter {
namespace {

using test::message_of;
using test::quiet_group_options;
using test::quiet_options;
using test::RankContext;
using test::run_ranks;
using test::small_integer;
using test::small_integer_sum;
using test::Tensor;

constexpr int hidden = 512;
constexpr std::int64_t most_tokens = 9;
constexpr std::size_t most_elements = most_tokens * hidden;

std::uint64_t seeds() {
  const char* value = std::getenv("ARBITER_LINK_SEEDS");
  return value == nullptr ? 4 : std::strtoull(value, nullptr, 10);
}

enum class Where : std::uint8_t { own, shared, registered };

/// Where the tensors of one call lie on a rank.
struct Placement {
  Where input = Where::own;
  Where output = Where::own;
  bool in_place = false;
  std::int64_t tokens = 1;
};

/// Calls that follow each other in one graph.
std::vector<Placement> placements(int rank) {
  const Where on_even = rank % 2 == 0 ? Where::shared : Where::own;
  const Where alternating = rank % 2 == 0 ? Where::shared : Where::registered;
  return {{Where::own, Where::own, false, 3},      {Where::shared, Where::shared, false, 9},
          {on_even, Where::own, false, 2},         {Where::shared, Where::shared, true, 8},
          {alternating, alternating, false, 5},    {on_even, on_even, true, 1},
          {Where::own, Where::shared, false, 9},   {Where::registered, on_even, false, 4},
          {Where::shared, Where::shared, true, 6}, {Where::own, Where::own, true, 7}};
}

/// The memory of one call. Every rank may have its own offsets.
class CallMemory {
 public:
  CallMemory(Device& device, SharedBuffers& buffers, std::size_t offset)
      : own_(device, 2 * room), mine_(device, 2 * room), offset_(offset) {
    shared_ = static_cast<float*>(buffers.allocate(2 * room * sizeof(float)));
    buffers.add(mine_.data(), 2 * room * sizeof(float));
  }
  float* input(Where where) const { return base(where) + offset_; }
  float* output(Where where) const { return base(where) + room + offset_; }

 private:
  static constexpr std::size_t room = most_elements + 128;
  float* base(Where where) const {
    return where == Where::own ? own_.data() : where == Where::shared ? shared_ : mine_.data();
  }
  Tensor<float> own_;
  Tensor<float> mine_;
  float* shared_ = nullptr;
  std::size_t offset_;
};

struct PlacedCall {
  Placement placement;
  float* input = nullptr;
  float* output = nullptr;
  std::size_t index = 0;

  std::size_t elements() const { return static_cast<std::size_t>(placement.tokens) * hidden; }
  void fill(int rank) const {
    for (std::size_t i = 0; i < elements(); ++i) output[i] = 12345.0F;
    for (std::size_t i = 0; i < elements(); ++i) input[i] = small_integer(rank, i + index * 7);
  }
  std::size_t wrong(int ranks, int rank) const {
    std::size_t bad = 0;
    for (std::size_t i = 0; i < elements(); ++i) {
      bad += output[i] != small_integer_sum(ranks, i + index * 7) ? 1 : 0;
      if (!placement.in_place) bad += input[i] != small_integer(rank, i + index * 7) ? 1 : 0;
    }
    return bad;
  }
  Call call() const {
    Call call;
    call.dtype = Dtype::fp32;
    call.hidden = hidden;
    call.tokens = placement.tokens;
    call.input = input;
    call.output = output;
    return call;
  }
};

std::vector<CandidateSpec> pulling(const std::vector<CandidateSpec>& all) {
  std::vector<CandidateSpec> chosen;
  for (const char* algorithm : {"oneshot_pull", "twoshot_pull", "multimem", "twoshot_chunked"}) {
    for (const CandidateSpec& spec : all) {
      if (!spec.kernel || spec.kernel->algorithm != algorithm) continue;
      const auto chunk = spec.kernel->parameters.find("chunk");
      if (chunk != spec.kernel->parameters.end() && chunk->second != 1) continue;
      chosen.push_back(spec);
      break;
    }
  }
  return chosen;
}

class LinkShared : public ::testing::TestWithParam<int> {};

TEST_P(LinkShared, EveryMixtureOfSharedAndPrivateTensorsIsRightForEverySeed) {
  const int ranks = GetParam();
  CpuDeviceOptions options;
  options.sm_count = 2;
  options.max_threads_per_block = 128;
  options.link = make_cpu_link_model(ranks);
  run_ranks(
      ranks,
      [&](RankContext& context) {
        GroupOptions group_options = quiet_group_options();
        group_options.first_epoch = 0xfffffffcU;  // every counter wraps around on the way
        group_options.variables.multicast = true;
        const auto group = make_group(context.bootstrap, context.device, group_options);
        const ProblemFamily family{"allreduce", Dtype::fp32, hidden, most_tokens, Mode::graph};
        std::vector<LoadRequest> requests;
        for (const CandidateSpec& spec : pulling(enumerate_candidates(group->capabilities(), family, {}))) {
          requests.push_back({spec, family});
        }
        ASSERT_EQ(requests.size(), 4U);
        std::vector<LoadResult> loaded = load_on_all_ranks(*group, requests);
        for (const LoadResult& result : loaded) {
          ASSERT_TRUE(result.candidate) << result.reason;
          const WorkspaceNeeds needs = result.candidate->needs(most_tokens);
          group->reserve(needs.push_bytes, needs.staging_bytes);
        }
        std::vector<std::unique_ptr<CallMemory>> memory;
        std::vector<PlacedCall> calls;
        const std::vector<Placement> places = placements(context.rank);
        while (calls.size() < places.size() * loaded.size()) {
          // The same offset on all ranks in three calls out of four.
          const std::size_t offset = calls.size() % 4 == 0 ? static_cast<std::size_t>(context.rank) * 4 : 16;
          memory.push_back(std::make_unique<CallMemory>(*context.device, group->shared_buffers(), offset));
          const Placement placement = places[calls.size() % places.size()];
          PlacedCall call;
          call.placement = placement;
          call.index = calls.size();
          call.input = memory.back()->input(placement.input);
          call.output = placement.in_place ? call.input : memory.back()->output(placement.output);
          calls.push_back(call);
        }
        const StreamHandle stream = context.device->create_stream();
        // All algorithms take turns, so that each follows each in the same staging area.
        context.device->begin_capture(stream);
        for (std::size_t c = 0; c < calls.size(); ++c) {
          loaded[(c + c / places.size()) % loaded.size()].candidate->enqueue(calls[c].call(), stream);
        }
        const std::unique_ptr<Graph> graph = context.device->end_capture(stream);
        for (std::uint64_t seed = 1; seed <= seeds(); ++seed) {
          for (const PlacedCall& call : calls) call.fill(context.rank);
          context.bootstrap->barrier();
          if (context.rank == 0) options.link->restart(seed);
          context.bootstrap->barrier();
          graph->launch(stream);
          std::size_t wrong = 0;
          for (const PlacedCall& call : calls) {
            const std::size_t bad = call.wrong(ranks, context.rank);
            EXPECT_EQ(bad, 0U) << "call " << call.index << ", seed " << seed << ", rank " << context.rank;
            wrong += bad;
          }
          EXPECT_NO_THROW(group->check()) << "seed " << seed;
          if (!context.bootstrap->all(wrong == 0)) return;
        }
      },
      std::chrono::seconds(90), options);
}

INSTANTIATE_TEST_SUITE_P(Worlds, LinkShared, ::testing::Values(2, 3, 4));

/// What a call with shared tensors leaves in the staging area.
void expect_staging(const char* algorithm, Where input, Where output, bool same_offset, bool untouched) {
  run_ranks(2, [&](RankContext& context) {
    GroupOptions group_options = quiet_group_options();
    group_options.variables.multicast = true;
    const auto group = make_group(context.bootstrap, context.device, group_options);
    const ProblemFamily family{"allreduce", Dtype::fp32, hidden, most_tokens, Mode::graph};
    CandidateSpec spec;
    for (const CandidateSpec& one : enumerate_candidates(group->capabilities(), family, {})) {
      if (!spec.kernel && one.kernel && one.kernel->algorithm == algorithm) spec = one;
    }
    const LoadRequest request{spec, family};
    std::vector<LoadResult> loaded = load_on_all_ranks(*group, {&request, 1});
    ASSERT_TRUE(loaded[0].candidate) << loaded[0].reason;
    const WorkspaceNeeds needs = loaded[0].candidate->needs(most_tokens);
    group->reserve(needs.push_bytes, needs.staging_bytes);
    const std::size_t offset = same_offset ? 0 : static_cast<std::size_t>(context.rank) * 4;
    const CallMemory memory(*context.device, group->shared_buffers(), offset);
    PlacedCall call;
    call.placement.tokens = most_tokens;
    call.input = memory.input(input);
    call.output = memory.output(output);
    call.fill(context.rank);
    const Workspace& workspace = group->workspace();
    const WorkspaceLayout& layout = workspace.layout();
    auto* staging = static_cast<unsigned char*>(workspace.peer(context.rank)) + layout.staging_offset;
    const std::size_t bytes = layout.total_bytes - layout.staging_offset;
    std::memset(staging, 0x5A, bytes);
    context.bootstrap->barrier();
    loaded[0].candidate->enqueue(call.call(), nullptr);
    context.bootstrap->barrier();
    EXPECT_EQ(call.wrong(2, context.rank), 0U);
    EXPECT_EQ(std::all_of(staging, staging + bytes, [](unsigned char byte) { return byte == 0x5A; }), untouched)
        << algorithm;
  });
}

TEST(SharedTensors, NothingIsCopiedThatPeersCanAddress) {
  constexpr Where own = Where::own;
  constexpr Where shared = Where::shared;
  constexpr Where registered = Where::registered;
  expect_staging("oneshot_pull", registered, own, false, true);
  expect_staging("oneshot_pull", own, registered, true, false);
  expect_staging("twoshot_pull", shared, registered, false, true);
  expect_staging("twoshot_pull", registered, own, true, false);
  expect_staging("twoshot_pull", own, shared, true, false);
  expect_staging("multimem", shared, shared, true, true);
  expect_staging("multimem", shared, shared, false, false);     // not at the same place on all ranks
  expect_staging("multimem", registered, shared, true, false);  // shared, but not multicast memory
  expect_staging("multimem", shared, own, true, false);
}

TEST(SharedTensors, FlagsAndEpochsOfBlocksThatDidNotRunAdvance) {
  run_ranks(2, [](RankContext& context) {
    GroupOptions group_options = quiet_group_options();
    group_options.first_epoch = 0x7ffffffcU;
    const auto group = make_group(context.bootstrap, context.device, group_options);
    const ProblemFamily family{"allreduce", Dtype::fp32, hidden, most_tokens, Mode::graph};
    for (const char* algorithm : {"oneshot_pull", "twoshot_barrier", "twoshot_chunked"}) {
      std::vector<LoadRequest> requests;
      for (const CandidateSpec& spec : enumerate_candidates(group->capabilities(), family, {})) {
        if (requests.empty() && spec.kernel && spec.kernel->algorithm == algorithm) requests.push_back({spec, family});
      }
      ASSERT_EQ(requests.size(), 1U) << algorithm;
      const std::vector<LoadResult> loaded = load_on_all_ranks(*group, requests);
      ASSERT_TRUE(loaded[0].candidate) << loaded[0].reason;
      const WorkspaceNeeds needs = loaded[0].candidate->needs(most_tokens);
      group->reserve(needs.push_bytes, needs.staging_bytes);
      const Tensor<float> data(*context.device, most_elements);
      data.fill([](std::size_t) { return 1.0F; });
      const AlgorithmEntry& entry = group->catalogue().algorithm(requests[0].spec.kernel->backend, algorithm);
      const Protocol& protocol =
          *std::find_if(group->catalogue().protocols().begin(), group->catalogue().protocols().end(),
                        [&](const Protocol& one) { return one.name == entry.protocol; });
      const auto* words = reinterpret_cast<const unsigned*>(
          static_cast<const unsigned char*>(group->workspace().peer(context.rank)) + sizeof(arbiter_abi::Control));
      const auto array = [&](int number) {
        return words + static_cast<std::size_t>(entry.arrays_before + number) * arbiter_abi::max_blocks;
      };
      for (const std::int64_t tokens : {most_tokens, std::int64_t{1}, std::int64_t{1}}) {
        Call call;
        call.dtype = Dtype::fp32;
        call.hidden = hidden;
        call.tokens = tokens;
        call.input = call.output = data.data();
        const unsigned before = array(0)[0];
        loaded[0].candidate->enqueue(call, nullptr);
        const unsigned after = array(0)[0];
        EXPECT_NE(before, after);
        const int peer = 1 - context.rank;
        std::size_t behind = 0;
        for (std::size_t block = 0; block < arbiter_abi::max_blocks; ++block) {
          behind += array(0)[block] != after ? 1 : 0;
          for (int flags = 0; flags < protocol.flags; ++flags)
            behind += array(protocol.epochs + flags * max_world + peer)[block] != after ? 1 : 0;
        }
        EXPECT_EQ(behind, 0U) << algorithm << ", " << tokens << " tokens";
        context.bootstrap->barrier();
      }
    }
  });
}

TEST(SharedTensors, BuffersAreFoundByAnyAddressInside) {
  run_ranks(2, [](RankContext& context) {
    SharedBuffers buffers(*context.device, *context.bootstrap, SymmetricProvider::shared_memory, false);
    EXPECT_EQ(buffers.find(&context, 1), nullptr);
    auto* first = static_cast<char*>(buffers.allocate(4096));
    const Tensor<float> tensor(*context.device, 256);
    buffers.add(tensor.data(), 1024);
    ASSERT_NE(buffers.find(first + 4095, 1), nullptr);
    EXPECT_EQ(buffers.find(first + 4095, 1)->number, 1U);
    EXPECT_EQ(buffers.find(first + 4095, 2), nullptr);
    EXPECT_EQ(buffers.find(first, 4097), nullptr);
    EXPECT_EQ(buffers.find(first - 1, 1), nullptr);
    ASSERT_NE(buffers.find(tensor.data() + 255, 4), nullptr);
    EXPECT_EQ(buffers.find(tensor.data() + 255, 4)->number, 2U);
    EXPECT_EQ(buffers.find(tensor.data() + 256, 0), nullptr);
    // What rank r sees is this rank's memory.
    const SharedBuffers::Buffer* mine = buffers.find(first, 4096);
    std::memset(first, context.rank + 1, 4096);
    context.bootstrap->barrier();
    EXPECT_EQ(static_cast<char*>(mine->memory->peer(1 - context.rank))[17], 2 - context.rank);
    const std::vector<void*> seen = mine->seen_by;
    EXPECT_EQ(seen[static_cast<std::size_t>(context.rank)], first);
    context.bootstrap->barrier();
    buffers.release(first);
    EXPECT_EQ(buffers.find(first, 1), nullptr);
    EXPECT_NE(buffers.find(tensor.data(), 1024), nullptr);
  });
}

TEST(SharedTensors, WhatCannotBeSharedIsRefusedOnAllRanksAndChangesNothing) {
  run_ranks(2, [](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, quiet_options());
    const Tensor<float> tensor(*context.device, 256);
    const auto mentions = [](const std::string& message, const char* text) {
      EXPECT_NE(message.find(text), std::string::npos) << message;
    };
    float host[4] = {};
    // One rank's mistake is told to both.
    void* data = context.rank == 0 ? static_cast<void*>(host) : tensor.data();
    mentions(message_of<InvalidArgument>([&] { communicator.register_buffer(data, 16); }),
             "memory of this rank's device");
    data = context.rank == 0 ? nullptr : tensor.data();
    mentions(message_of<InvalidArgument>([&] { communicator.register_buffer(data, 16); }),
             "needs an address and a size");
    mentions(message_of<InvalidArgument>([&] { communicator.register_buffer(tensor.data(), 0); }), "0 bytes");
    mentions(message_of<InvalidArgument>([&] { communicator.allocate_symmetric(0); }), "0 bytes");
    mentions(message_of<Disagreement>([&] {
               communicator.register_buffer(tensor.data(), 16 + 16 * static_cast<std::size_t>(context.rank));
             }),
             "bytes");
    mentions(message_of<Disagreement>(
                 [&] { communicator.allocate_symmetric(16 + 16 * static_cast<std::size_t>(context.rank)); }),
             "bytes");
    communicator.register_buffer(tensor.data(), 1024);
    mentions(message_of<InvalidArgument>([&] { communicator.register_buffer(tensor.data() + 64, 16); }), "overlaps");
    mentions(message_of<InvalidArgument>([&] { communicator.release_shared(tensor.data() + 1); }), "not that of");
    void* first = communicator.allocate_symmetric(64);
    const void* different = context.rank == 0 ? first : tensor.data();
    mentions(message_of<Disagreement>([&] { communicator.release_shared(different); }), "buffer");
    communicator.release_shared(first);
    communicator.release_shared(tensor.data());
    communicator.register_buffer(tensor.data() + 64, 16);
  });
}

}  // namespace
}  // namespace arbiter
