// On GPUs: a rank that is killed in the middle of a collective leaves the other with an error, within the deadline, and
// with a device that still works. Ranks are processes, forked before anything touches CUDA.
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "arbiter/error.hpp"
#include "runtime/communicator_fixture.hpp"
#include "runtime/ranks.hpp"

namespace arbiter {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr int skipped = 77;
constexpr auto deadline = 300ms;
constexpr auto patience = 20s;  // what a slow machine may add
constexpr std::int64_t count = 64 * 1024;

CommunicatorOptions impatient() {
  CommunicatorOptions options = test::quiet_options();
  options.variables.timeout = deadline;
  options.variables.first_timeout = deadline;
  options.nccl = false;  // NCCL has no deadline of its own
  return options;
}

/// Calls, captured or not, until one of them reports the dead rank. Returns what went wrong, or 0.
int call_until_poisoned(Communicator& communicator, Device& device, bool captured) {
  const StreamHandle stream = device.create_stream();
  const DeviceMemory data(device, static_cast<std::size_t>(count) * 2);
  device.fill_words(data.data(), 0, count / 2, stream);
  std::unique_ptr<Graph> graph;
  if (captured) {
    device.begin_capture(stream);
    for (int i = 0; i < 200; ++i) communicator.all_reduce(data.data(), data.data(), count, Dtype::bf16, stream);
    graph = device.end_capture(stream);
  }
  const auto start = Clock::now();
  while (Clock::now() - start < patience) {
    try {
      for (int i = 0; i < 16; ++i) {
        if (captured) {
          graph->launch(stream);
        } else {
          communicator.all_reduce(data.data(), data.data(), count, Dtype::bf16, stream);
        }
      }
      device.synchronize(stream);
      communicator.check();
    } catch (const Poisoned& error) {
      if (std::string(error.what()).find("rank 1") == std::string::npos) return 3;
      // The process and its other streams go on.
      const StreamHandle other = device.create_stream();
      unsigned word = 0;
      device.fill_words(data.data(), 42, 1, other);
      device.copy(&word, data.data(), 4, other);
      device.synchronize(other);
      return word == 42 ? 0 : 4;
    }
  }
  return 5;
}

class CudaPoison : public ::testing::TestWithParam<bool> {};

TEST_P(CudaPoison, ARankKilledInACollectiveIsAnErrorForTheOther) {
  const std::vector<int> codes = test::run_processes(2, [captured = GetParam()](Bootstrap& first) -> int {
    if (cuda_device_count() < 2) return skipped;
    const std::shared_ptr<Bootstrap> bootstrap(&first, [](Bootstrap*) {});
    const std::shared_ptr<Device> device = make_cuda_device(first.rank());
    Communicator communicator(bootstrap, device, impatient());
    const ProblemFamily family{"allreduce", Dtype::bf16, 1024, 64, Mode::graph};
    communicator.prepare({&family, 1});
    first.barrier();
    std::thread killer;
    if (first.rank() == 1) {
      killer = std::thread([] {
        std::this_thread::sleep_for(50ms);
        kill(getpid(), SIGKILL);
      });
    }
    return call_until_poisoned(communicator, *device, captured);
  });
  if (codes[0] == skipped) GTEST_SKIP() << "needs 2 CUDA devices";
  EXPECT_EQ(codes, (std::vector<int>{0, 128 + SIGKILL}));
}

INSTANTIATE_TEST_SUITE_P(EagerAndCaptured, CudaPoison, ::testing::Values(false, true));

}  // namespace
}  // namespace arbiter
