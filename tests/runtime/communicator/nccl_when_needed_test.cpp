// NCCL's communicator is created by prepare(), on all ranks at the same place, and only where something is left to
// NCCL.
#include <gtest/gtest.h>

#include <atomic>
#include <set>

#include "arbiter/error.hpp"
#include "candidate/loaded_kernel.hpp"
#include "runtime/communicator_fixture.hpp"
#include "runtime/forwarding_device.hpp"
#include "runtime/stored_decision.hpp"

namespace arbiter {
namespace {

using test::message_of;
using test::quiet_options;
using test::RankContext;
using test::run_ranks;
using test::Tensor;

constexpr int hidden = 64;
const ProblemFamily by_kernel{"allreduce", Dtype::fp32, hidden, 4, Mode::graph};
const ProblemFamily mixed{"allreduce", Dtype::fp32, hidden, 8, Mode::graph};

/// Remembers what it was called for.
class RememberingNccl final : public NcclCommunicator {
 public:
  explicit RememberingNccl(Device& device) : device_(device) {}
  void all_reduce(const void*, void* output, std::size_t, Dtype dtype, StreamHandle stream) override {
    seen.insert(dtype);
    device_.fill_words(output, 0, 1, stream);
  }
  bool all_reduce_forced(const NcclConfiguration&, const void*, void*, std::size_t, Dtype, StreamHandle) override {
    return false;
  }
  const std::string& forcing_problem() const noexcept override { return problem_; }
  bool offers(const NcclConfiguration&, Dtype, void*) override { return false; }
  void check() const override {}
  std::unique_ptr<RegisteredBuffers> register_symmetric(std::size_t) override { return nullptr; }
  std::unique_ptr<RegisteredBuffers> register_buffers(std::size_t) override { return nullptr; }
  void abort() noexcept override {}
  std::set<Dtype> seen;

 private:
  Device& device_;
  std::string problem_ = "not here";
};

/// Kernels up to 4 tokens, NCCL above, as a tune on this machine would have decided it.
std::shared_ptr<const std::vector<DecisionSet>> decided() {
  std::vector<DecisionSet> sets;
  run_ranks(2, [&](RankContext& context) {
    GroupOptions options = test::quiet_group_options();
    const std::unique_ptr<Group> group = make_group(context.bootstrap, context.device, options);
    if (context.rank != 0) return;
    const Decision kernel = test::stored_decision(group->capabilities(), mixed, 1, 4, "oneshot_push");
    Decision nccl = kernel;
    nccl.tokens_min = 5;
    nccl.tokens_max = 8;
    const CandidateSpec classic = CandidateSpec::parse(group->catalogue(), "nccl/classic", mixed, 2);
    nccl.candidate = {Backend::nccl, "classic", "nccl/classic", Numerics::nccl,
                      candidate_source_hash(group->capabilities(), classic)};
    sets = {{group->environment(), {kernel, nccl}}};
  });
  return share_decisions(std::move(sets));
}

/// What the ranks of a test have made so far.
struct Made {
  std::atomic<int> creations{0};
  std::atomic<int> fails_on{-1};
  std::shared_ptr<RememberingNccl> on_rank_0;
};

CommunicatorOptions options(Made& made, const std::shared_ptr<const std::vector<DecisionSet>>& decisions) {
  CommunicatorOptions options = quiet_options();
  options.decisions = decisions;
  options.nccl_when_needed = true;
  options.make_nccl = [&made](Device& device, Bootstrap& bootstrap) -> std::shared_ptr<NcclCommunicator> {
    bootstrap.barrier();  // collective, as NCCL's creation is: a rank that is not here leaves the others hanging
    EXPECT_FALSE(device.capturing(nullptr));
    ++made.creations;
    if (bootstrap.rank() == made.fails_on) throw Unavailable("no NCCL on this rank today");
    auto nccl = std::make_shared<RememberingNccl>(device);
    if (bootstrap.rank() == 0) made.on_rank_0 = nccl;
    return nccl;
  };
  return options;
}

std::string chosen(const PreparedFamily& handle, std::int64_t tokens) { return handle.explain(tokens).candidate.name; }

TEST(NcclWhenNeeded, IsNotCreatedWhereKernelsServeEverything) {
  const auto decisions = decided();
  Made made;
  run_ranks(2, [&](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, options(made, decisions));
    const PreparedFamily handle = communicator.prepare(by_kernel);
    EXPECT_NE(chosen(handle, 4), "nccl/classic");
    // A message that is no whole number of vectors goes through a copy.
    const Tensor<float> data(*context.device, 255);
    data.fill([&](std::size_t i) { return test::small_integer(context.rank, i); });
    communicator.all_reduce(data.data(), data.data(), 255, Dtype::fp32, nullptr);
    for (std::size_t i = 0; i < data.size(); ++i) ASSERT_EQ(data[i], test::small_integer_sum(2, i));
    // What nothing covers is refused, and that is known before.
    const Tensor<float> large(*context.device, 1024);
    const std::string message = message_of<Unsupported>(
        [&] { communicator.all_reduce(large.data(), large.data(), 1024, Dtype::fp32, nullptr); });
    for (const char* part : {"it was not started, since nothing that was prepared needs it", "prepare_nccl()"})
      EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_FALSE(communicator.can_use({"allreduce", Dtype::fp32, hidden, 16, 2, Mode::graph, false}));
  });
  EXPECT_EQ(made.creations, 0);
}

TEST(NcclWhenNeeded, IsCreatedOnceByThePrepareThatNeedsIt) {
  const auto decisions = decided();
  Made made;
  run_ranks(2, [&](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, options(made, decisions));
    communicator.prepare({"allreduce", Dtype::bf16, hidden, 4, Mode::graph});
    const PreparedFamily small = communicator.prepare(by_kernel);
    if (context.rank == 0) {
      EXPECT_EQ(made.creations, 0);
    }
    const Tensor<float> data(*context.device, 8 * hidden);
    CallTensors tensors;
    tensors.input = tensors.output = data.data();
    const StreamHandle stream = context.device->create_stream();
    context.device->begin_capture(stream);
    small.run(tensors, 4, stream);
    const std::unique_ptr<Graph> before = context.device->end_capture(stream);
    context.bootstrap->barrier();
    EXPECT_EQ(made.creations, 0) << "a capture creates nothing";
    const PreparedFamily both = communicator.prepare(mixed);
    EXPECT_NE(chosen(both, 4), "nccl/classic");
    EXPECT_EQ(chosen(both, 5), "nccl/classic");
    EXPECT_EQ(both.explain(5).rule, Rule::decision);
    context.bootstrap->barrier();
    EXPECT_EQ(made.creations, 2) << "once on every rank";
    // Messages that were a kernel's matter before there was an NCCL may go to it now, in a capture, too.
    if (context.rank == 0) {
      EXPECT_EQ(made.on_rank_0->seen, (std::set<Dtype>{Dtype::bf16, Dtype::fp32}));
    }
    context.device->begin_capture(stream);
    both.run(tensors, 8, stream);
    const std::unique_ptr<Graph> graph = context.device->end_capture(stream);
    EXPECT_EQ(made.creations, 2);
    communicator.prepare({"allreduce", Dtype::bf16, hidden, 2, Mode::graph});
    EXPECT_EQ(made.creations, 2);
    context.device->destroy_stream(stream);
  });
}

TEST(NcclWhenNeeded, IsStartedForMessagesThatNobodyPrepares) {
  const auto decisions = decided();
  Made made;
  run_ranks(2, [&](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, options(made, decisions));
    const PreparedFamily handle = communicator.prepare(by_kernel);
    const std::size_t workspace = communicator.workspace_bytes();
    const Tensor<float> large(*context.device, 4096);
    const auto call = [&] { communicator.all_reduce(large.data(), large.data(), 4096, Dtype::fp32, nullptr); };
    EXPECT_THROW(call(), Unsupported);
    EXPECT_THROW(communicator.prepare_nccl(Dtype::fp32, 0), InvalidArgument);
    EXPECT_NE(message_of<Disagreement>([&] {
                communicator.prepare_nccl(Dtype::fp32, 10 + context.rank);
              }).find("most elements: rank 0: 10; rank 1: 11"),
              std::string::npos);
    context.bootstrap->barrier();
    EXPECT_EQ(made.creations, 0) << "a refused call changes nothing";
    communicator.prepare_nccl(Dtype::fp32, 1 << 20);
    call();
    EXPECT_EQ(communicator.workspace_bytes(), workspace);
    EXPECT_EQ(chosen(handle, 4).find("nccl"), std::string::npos) << "what was prepared stays with its kernel";
    communicator.prepare_nccl(Dtype::bf16, 100);
    context.bootstrap->barrier();
    EXPECT_EQ(made.creations, 2) << "once on every rank";
    if (context.rank == 0) {
      EXPECT_EQ(made.on_rank_0->seen, (std::set<Dtype>{Dtype::bf16, Dtype::fp32})) << "called before it is needed";
    }
  });
  // Where there is none, all ranks are told why, and go on with their kernels.
  made.fails_on = 1;
  run_ranks(2, [&](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, options(made, decisions));
    communicator.prepare(by_kernel);
    const std::string message = message_of<Unsupported>([&] { communicator.prepare_nccl(Dtype::fp32, 1 << 20); });
    EXPECT_NE(message.find("no NCCL on this rank today"), std::string::npos) << message;
    const Tensor<float> data(*context.device, hidden);
    data.fill([&](std::size_t i) { return test::small_integer(context.rank, i); });
    communicator.all_reduce(data.data(), data.data(), hidden, Dtype::fp32, nullptr);
    for (std::size_t i = 0; i < data.size(); ++i) ASSERT_EQ(data[i], test::small_integer_sum(2, i));
  });
  run_ranks(1, [&](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, quiet_options());
    EXPECT_NO_THROW(communicator.prepare_nccl(Dtype::fp32, 1 << 20));
  });
}

TEST(NcclWhenNeeded, AFailureOnOneRankLeavesKernelsToAll) {
  const auto decisions = decided();
  for (const int rank : {0, 1}) {
    Made made;
    made.fails_on = rank;
    std::string names[2];
    run_ranks(2, [&](RankContext& context) {
      Communicator communicator(context.bootstrap, context.device, options(made, decisions));
      const PreparedFamily handle = communicator.prepare(mixed);
      for (const std::int64_t tokens : {4, 5, 8}) names[context.rank] += chosen(handle, tokens) + " ";
      const Tensor<float> data(*context.device, 8 * hidden);
      data.fill([&](std::size_t i) { return test::small_integer(context.rank, i); });
      communicator.all_reduce(data.data(), data.data(), static_cast<std::int64_t>(data.size()), Dtype::fp32, nullptr);
      for (std::size_t i = 0; i < data.size(); ++i) ASSERT_EQ(data[i], test::small_integer_sum(2, i));
      // It is not tried again at every prepare.
      communicator.prepare({"allreduce", Dtype::fp32, hidden, 9, Mode::graph});
    });
    EXPECT_EQ(names[0], names[1]);
    EXPECT_EQ(names[0].find("nccl"), std::string::npos) << names[0];
    EXPECT_EQ(made.creations, 2);
  }
}

TEST(NcclWhenNeeded, IsCreatedAtOnceWhereNothingElseIsLeftOrNobodyAskedToWait) {
  for (const int why : {0, 1, 2}) {
    Made made;
    run_ranks(2, [&](RankContext& context) {
      CommunicatorOptions with = options(made, share_decisions());
      if (why == 0) with.nccl_when_needed = false;
      if (why == 1) with.variables.backend = Backend::nccl;
      if (why == 2) with.variables.off = true;
      Communicator communicator(context.bootstrap, context.device, with);
      context.bootstrap->barrier();
      EXPECT_EQ(made.creations, 2) << why;
    });
  }
}

TEST(NcclWhenNeeded, RanksThatDifferInItDisagree) {
  Made made;
  run_ranks(2, [&](RankContext& context) {
    const std::string message = message_of<Disagreement>([&] {
      CommunicatorOptions with = options(made, share_decisions());
      with.nccl_when_needed = context.rank == 0;
      Communicator communicator(context.bootstrap, context.device, with);
    });
    EXPECT_NE(message.find("creation of NCCL's communicator"), std::string::npos) << message;
  });
}

/// Says what it is asked to wait for.
class WaitedFor final : public test::ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  void synchronize_device() override { ++all; }
  int all = 0;
};

/// Calls may be in flight in any stream when the communicator goes: its memory, and that of its peers, must outlive
/// them.
TEST(Destruction, WaitsForEveryStreamOfTheDevice) {
  run_ranks(2, [&](RankContext& context) {
    const auto device = std::make_shared<WaitedFor>(make_cpu_device(context.rank));
    const Tensor<float> data(*device, hidden);
    data.fill([&](std::size_t i) { return test::small_integer(context.rank, i); });
    const StreamHandle stream = device->create_stream();
    {
      Communicator communicator(context.bootstrap, device, quiet_options());
      communicator.prepare(by_kernel);
      communicator.all_reduce(data.data(), data.data(), hidden, Dtype::fp32, stream);
      EXPECT_EQ(device->all, 0);
    }
    EXPECT_EQ(device->all, 1);
    for (std::size_t i = 0; i < data.size(); ++i) ASSERT_EQ(data[i], test::small_integer_sum(2, i));
    // Not where it was poisoned: what waits for a dead rank may never end.
    {
      Communicator communicator(context.bootstrap, device, quiet_options());
      communicator.abort();
    }
    EXPECT_EQ(device->all, 1);
    device->destroy_stream(stream);
  });
}

}  // namespace
}  // namespace arbiter
