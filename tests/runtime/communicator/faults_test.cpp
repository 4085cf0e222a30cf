// A rank that dies while a group is made or prepared: the others get an error at once, and begin again without it. And
// what a communicator does without the things around it.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

#include "arbiter/error.hpp"
#include "runtime/communicator_fixture.hpp"
#include "runtime/forwarding_device.hpp"
#include "runtime/kernel_clock.hpp"
#include "runtime/mortal_bootstrap.hpp"
#include "runtime/ranks.hpp"

namespace arbiter {
namespace {

using namespace std::chrono_literals;
using test::KernelClock;
using test::MortalBootstrap;
using test::quiet_options;
using test::RankContext;
using test::run_ranks;
using test::Tensor;

const ProblemFamily family{"allreduce", Dtype::fp32, 256, 16, Mode::graph};

void expect_sum(Communicator& communicator, Device& device, int rank, int size) {
  const Tensor<float> data(device, 2048);
  data.fill([&](std::size_t i) { return test::small_integer(rank, i); });
  communicator.all_reduce(data.data(), data.data(), 2048, Dtype::fp32, nullptr);
  communicator.check();
  for (std::size_t i = 0; i < data.size(); ++i) ASSERT_EQ(data[i], test::small_integer_sum(size, i));
}

/// The exchanges of a creation, and of all with one prepare().
std::pair<int, int> exchanges() {
  std::pair<int, int> counted;
  run_ranks(3, [&](RankContext& context) {
    const auto counting = std::make_shared<MortalBootstrap>(*context.bootstrap, 0);
    Communicator communicator(counting, context.device, quiet_options());
    const int creation = counting->steps;
    communicator.prepare(family);
    if (context.rank == 0) counted = {creation, counting->steps};
  });
  return counted;
}

TEST(Faults, ARankKilledWhileTheGroupIsMadeOrPreparedIsSurvived) {
  const auto [creation, all] = exchanges();
  ASSERT_GT(creation, 4);
  ASSERT_GT(all, creation + 2);
  for (const int dies_at : {1, creation / 2, creation, creation + 1, (creation + all) / 2, all}) {
    SCOPED_TRACE("killed at exchange " + std::to_string(dies_at) + " of " + std::to_string(all));
    test::SocketStar second(2);
    const std::vector<int> codes = test::run_processes(3, [&, dies = dies_at](Bootstrap& first) -> int {
      const int rank = first.rank();
      const std::shared_ptr<Device> device = make_cpu_device(rank);
      KernelClock clock;  // no deadline passes: what ends the waits is that somebody died
      clock.drive(*device, rank);
      bool failed = false;
      try {
        const auto mortal = std::make_shared<MortalBootstrap>(first, rank == 2 ? dies : 0);
        Communicator communicator(mortal, device, quiet_options());
        communicator.prepare(family);
        expect_sum(communicator, *device, rank, 3);
      } catch (const std::exception&) {
        failed = true;  // whatever the host program's exchange throws passes through
      }
      if (!failed) return 3;
      Communicator next(std::shared_ptr<Bootstrap>(second.bootstrap(rank)), device, quiet_options());
      next.prepare(family);
      expect_sum(next, *device, rank, 2);
      return ::testing::Test::HasFailure() ? 4 : 0;
    });
    EXPECT_EQ(codes, (std::vector<int>{0, 0, 128 + SIGKILL}));
  }
}

TEST(Faults, ARankKilledBehindItsCallHasStillGivenItsPart) {
  test::SocketStar second(2);
  const std::vector<int> codes = test::run_processes(3, [&](Bootstrap& first) -> int {
    const std::shared_ptr<Bootstrap> bootstrap(&first, [](Bootstrap*) {});
    const int rank = first.rank();
    const std::shared_ptr<Device> device = make_cpu_device(rank);
    KernelClock clock;
    clock.drive(*device, rank);
    const CommunicatorOptions options = quiet_options();
    {
      Communicator communicator(bootstrap, device, options);
      communicator.prepare(family);
      expect_sum(communicator, *device, rank, 3);
      if (rank == 2) kill(getpid(), SIGKILL);
      if (::testing::Test::HasFailure()) return 3;
      const Tensor<float> data(*device, 2048);
      clock.go_on();
      try {
        communicator.all_reduce(data.data(), data.data(), 2048, Dtype::fp32, nullptr);
        return 4;
      } catch (const Poisoned&) {
      }
    }
    clock.stand();
    Communicator next(std::shared_ptr<Bootstrap>(second.bootstrap(rank)), device, options);
    next.prepare(family);
    expect_sum(next, *device, rank, 2);
    return ::testing::Test::HasFailure() ? 5 : 0;
  });
  EXPECT_EQ(codes, (std::vector<int>{0, 0, 128 + SIGKILL}));
}

TEST(Faults, CreatePoisonDestroyCreateManyTimes) {
  for (int round = 0; round < 3; ++round) {
    run_ranks(2, [&](RankContext& context) {
      CommunicatorOptions options = quiet_options();
      Communicator communicator(context.bootstrap, context.device, options);
      communicator.prepare(family);
      expect_sum(communicator, *context.device, context.rank, 2);
      if (context.rank == round % 2) {
        communicator.abort();
      } else {
        const Tensor<float> data(*context.device, 2048);
        const auto call = [&] { communicator.all_reduce(data.data(), data.data(), 2048, Dtype::fp32, nullptr); };
        EXPECT_THROW(
            {
              call();
              call();
            },
            Poisoned);
      }
      EXPECT_THROW(communicator.check(), Poisoned);
      EXPECT_THROW(communicator.check(), Poisoned) << "a poisoned communicator says so for good";
    });
  }
}

TEST(Faults, AnUnpreparedProblemInACaptureIsRefusedAndTheGraphIsWhole) {
  run_ranks(2, [](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, quiet_options());
    communicator.prepare(family);
    const Tensor<float> data(*context.device, 64 * 256);
    data.fill([&](std::size_t i) { return test::small_integer(context.rank, i); });
    const StreamHandle stream = context.device->create_stream();
    context.device->begin_capture(stream);
    EXPECT_THROW(communicator.all_reduce(data.data(), data.data(), 64 * 256, Dtype::fp32, stream), Unsupported);
    EXPECT_THROW(communicator.all_reduce(data.data(), data.data(), 256, Dtype::bf16, stream), Unsupported);
    communicator.all_reduce(data.data(), data.data(), 256, Dtype::fp32, stream);
    const std::unique_ptr<Graph> graph = context.device->end_capture(stream);
    graph->launch(stream);
    context.device->synchronize(stream);
    communicator.check();
    for (std::size_t i = 0; i < 256; ++i) ASSERT_EQ(data[i], test::small_integer_sum(2, i));
    // What would move a workspace that a graph uses is refused, and the graph goes on.
    EXPECT_THROW(communicator.prepare({"allreduce", Dtype::fp32, 8192, 512, Mode::graph}), Unsupported);
    data.fill([&](std::size_t i) { return test::small_integer(context.rank, i); });
    graph->launch(stream);
    context.device->synchronize(stream);
    for (std::size_t i = 0; i < 256; ++i) ASSERT_EQ(data[i], test::small_integer_sum(2, i));
    context.device->destroy_stream(stream);
  });
}

TEST(Faults, ACacheThatCannotBeWrittenIsNoReasonNotToStart) {
  run_ranks(2, [](RankContext& context) {
    CommunicatorOptions options = quiet_options();
    options.variables.cache_dir = "/proc/no/such/cache";
    Communicator communicator(context.bootstrap, context.device, options);
    communicator.prepare(family);
    expect_sum(communicator, *context.device, context.rank, 2);
  });
}

}  // namespace
}  // namespace arbiter
