// What one rank's pointers are like is its own matter: whatever they are, all ranks take part in the same exchange.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/communicator_fixture.hpp"
#include "runtime/forwarding_device.hpp"
#include "runtime/fused_tensors.hpp"

namespace arbiter {
namespace {

using test::quiet_group_options;
using test::quiet_options;
using test::RankContext;
using test::run_ranks;
using test::small_integer;
using test::small_integer_sum;
using test::Tensor;

constexpr int ranks = 3;
constexpr int hidden = 63;  // rows of fp32 that are no whole vectors, unless there are 4 of them or 8

/// Counts what would go to NCCL, and does nothing: that the call was made is what tests look at.
class CountingNccl final : public NcclCommunicator {
 public:
  void all_reduce(const void*, void*, std::size_t, Dtype, StreamHandle) override { ++calls; }
  bool all_reduce_forced(const NcclConfiguration&, const void*, void*, std::size_t, Dtype, StreamHandle) override {
    ++calls;
    return true;
  }
  const std::string& forcing_problem() const noexcept override { return problem_; }
  bool offers(const NcclConfiguration&, Dtype, void*) override { return false; }
  void check() const override {}
  std::unique_ptr<RegisteredBuffers> register_symmetric(std::size_t) override { return nullptr; }
  std::unique_ptr<RegisteredBuffers> register_buffers(std::size_t) override { return nullptr; }
  void abort() noexcept override {}

  int calls = 0;

 private:
  std::string problem_ = "it only counts";
};

class CountingDevice final : public test::ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  void* allocate(std::size_t bytes) override {
    ++allocations;
    return ForwardingDevice::allocate(bytes);
  }
  int allocations = 0;
};

/// One plain kernel of every exchange algorithm, by its name.
std::vector<std::string> kernels() {
  std::vector<std::string> names;
  run_ranks(ranks, [&](RankContext& context) {
    const auto group = make_group(context.bootstrap, context.device, quiet_group_options());
    std::map<std::string, std::string> first;
    for (const CandidateSpec& spec :
         enumerate_candidates(group->capabilities(), {"allreduce", Dtype::fp32, hidden, 8}, {})) {
      if (spec.kernel) first.emplace(spec.algorithm(), spec.name());
    }
    if (context.rank != 0) return;
    for (const auto& [algorithm, name] : first) names.push_back(name);
  });
  return names;
}

enum class Placing { unaligned, unaligned_in_place, in_place };

/// Input and output of a call; rank 1 has them as `placing` says, the others apart and aligned.
struct Placed {
  Placed(RankContext& context, Device& device, std::size_t count, Placing placing)
      : shift(context.rank == 1 && placing != Placing::in_place ? 1 : 0),
        input(device, count + 4),
        output(device, count + 4) {
    const bool same = context.rank == 1 && placing != Placing::unaligned;
    result = (same ? input.data() : output.data()) + shift;
    tensors.input = input.data() + shift;
    tensors.output = result;
  }
  std::size_t shift;
  Tensor<float> input;
  Tensor<float> output;
  float* result = nullptr;
  CallTensors tensors;
};

struct Case {
  std::string candidate;
  bool nccl = false;
  Placing placing = Placing::unaligned;
  bool graph = false;
};

/// Every number of tokens, three times each; the sums are right, and what NCCL was asked is the same on all ranks.
void serve(const Case& what) {
  std::vector<int> nccl_calls(ranks);
  run_ranks(ranks, [&](RankContext& context) {
    const auto device = std::make_shared<CountingDevice>(make_cpu_device(context.rank));
    const auto nccl = std::make_shared<CountingNccl>();
    CommunicatorOptions options = quiet_options();
    options.candidate = what.candidate;
    if (what.nccl) options.nccl_communicator = nccl;
    options.warm_nccl = false;  // calls are counted
    Communicator communicator(context.bootstrap, device, options);
    const PreparedFamily family = communicator.prepare({"allreduce", Dtype::fp32, hidden, 8, Mode::graph});
    const StreamHandle stream = device->create_stream();
    int expected_nccl_calls = 0;
    for (std::int64_t tokens = 1; tokens <= 8; ++tokens) {
      const auto count = static_cast<std::size_t>(tokens * hidden);
      const bool to_nccl = what.nccl && tokens % 4 != 0;
      const Placed placed(context, *device, count, what.placing);
      if (!to_nccl) {
        ASSERT_EQ(family.explain(tokens).candidate.name, what.candidate);
      }
      std::unique_ptr<Graph> graph;
      if (what.graph) {
        const int before = device->allocations;
        device->begin_capture(stream);
        family.run(placed.tensors, tokens, stream);
        graph = device->end_capture(stream);
        EXPECT_EQ(device->allocations, before) << "allocated during capture";
        if (to_nccl) ++expected_nccl_calls;
      }
      for (int repeat = 0; repeat < 3; ++repeat) {
        for (std::size_t i = 0; i < count; ++i) placed.result[i] = -1;
        for (std::size_t i = 0; i < count; ++i) placed.input[i + placed.shift] = small_integer(context.rank, i);
        if (graph) {
          graph->launch(stream);
          device->synchronize(stream);
        } else {
          family.run(placed.tensors, tokens, stream);
          if (to_nccl) ++expected_nccl_calls;
        }
        if (to_nccl) continue;
        for (std::size_t i = 0; i < count; ++i) {
          ASSERT_EQ(placed.result[i], small_integer_sum(ranks, i)) << tokens << " tokens, element " << i;
        }
      }
    }
    EXPECT_EQ(nccl->calls, expected_nccl_calls);
    nccl_calls[static_cast<std::size_t>(context.rank)] = nccl->calls;
    device->destroy_stream(stream);
  });
  EXPECT_EQ(nccl_calls, std::vector<int>(ranks, nccl_calls[0]));
}

TEST(RankInvariance, NoPointerOfOneRankChangesTheExchange) {
  const std::vector<std::string> names = kernels();
  ASSERT_GE(names.size(), 6U);  // pushed and pulled, in one step and in two
  for (const std::string& name : names) {
    for (const bool nccl : {false, true}) {
      for (const Placing placing : {Placing::unaligned, Placing::unaligned_in_place, Placing::in_place}) {
        for (const bool graph : {false, true}) {
          SCOPED_TRACE(name + (nccl ? ", with NCCL" : "") + (graph ? ", captured" : "") + ", placing " +
                       std::to_string(static_cast<int>(placing)));
          serve({name, nccl, placing, graph});
          if (::testing::Test::HasFailure()) return;
        }
      }
    }
  }
}

/// Fused calls of 2 ranks, all tensors of rank 1 `shift` bytes off: every byte that each rank gets.
std::vector<std::vector<test::Bytes>> fused(const ProblemFamily& family, const std::string& candidate, bool captured,
                                            std::size_t shift) {
  std::vector<std::vector<test::Bytes>> got(2);
  run_ranks(2, [&](RankContext& context) {
    CommunicatorOptions options = quiet_options();
    options.candidate = candidate;
    Communicator communicator(context.bootstrap, context.device, options);
    const PreparedFamily prepared = communicator.prepare(family);
    if (!candidate.empty()) {
      ASSERT_EQ(prepared.explain(family.max_tokens).candidate.name, candidate);
    }
    const test::FusedTensors tensors(*context.device, family, test::awkward(context.rank, family.hidden, false), 0.75F,
                                     context.rank == 1 ? shift : 0);
    const StreamHandle stream = context.device->create_stream();
    std::unique_ptr<Graph> graph;
    if (captured) {
      context.device->begin_capture(stream);
      prepared.run(tensors.call, family.max_tokens, stream);
      graph = context.device->end_capture(stream);
    }
    for (int repeat = 0; repeat < 2; ++repeat) {
      if (graph) {
        graph->launch(stream);
        context.device->synchronize(stream);
      } else {
        prepared.run(tensors.call, family.max_tokens, stream);
      }
    }
    communicator.check();
    got[static_cast<std::size_t>(context.rank)] = tensors.outputs();
    context.device->destroy_stream(stream);
  });
  return got;
}

TEST(RankInvariance, NorDoTheTensorsOfFusedCalls) {
  for (const char* pattern : {"allreduce_residual_rmsnorm_fp8_token", "moe_finalize_allreduce_residual_rmsnorm"}) {
    const ProblemFamily family{pattern, Dtype::bf16, 512, 3, Mode::graph};
    std::map<std::string, std::string> candidates{{"", ""}};
    run_ranks(2, [&](RankContext& context) {
      const auto group = make_group(context.bootstrap, context.device, quiet_group_options());
      for (const CandidateSpec& spec : enumerate_candidates(group->capabilities(), family, {})) {
        if (context.rank != 0 || !spec.kernel || !spec.fused()) continue;
        if (spec.algorithm() == "oneshot_pull" || spec.algorithm() == "twoshot_barrier") {
          candidates.emplace(spec.algorithm(), spec.name());
        }
      }
    });
    ASSERT_EQ(candidates.size(), 3U);
    for (const auto& [algorithm, name] : candidates) {
      for (const bool captured : {false, true}) {
        SCOPED_TRACE(std::string(pattern) + " " + name + (captured ? ", captured" : ""));
        EXPECT_TRUE(fused(family, name, captured, 4) == fused(family, name, captured, 0));
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

}  // namespace
}  // namespace arbiter
