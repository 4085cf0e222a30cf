// Which deadline holds when, and what ends a wait that has none.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <thread>

#include "arbiter/error.hpp"
#include "runtime/communicator_fixture.hpp"
#include "runtime/kernel_clock.hpp"

namespace arbiter {
namespace {

using namespace std::chrono_literals;
using test::KernelClock;
using test::message_of;
using test::quiet_options;
using test::RankContext;
using test::run_ranks;
using test::Tensor;

constexpr int hidden = 64;
constexpr int first_calls = 16;

/// One plain kernel of every exchange algorithm, by its name.
std::vector<std::string> kernels() {
  std::vector<std::string> names;
  run_ranks(2, [&](RankContext& context) {
    const auto group = make_group(context.bootstrap, context.device, test::quiet_group_options());
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

/// Two ranks make `together` calls and rank 0 one more. What rank 0 is told.
struct Case {
  std::string candidate = {};
  int together = 0;
  std::chrono::milliseconds timeout = 50ms;
  std::chrono::milliseconds first_timeout = 200ms;
  bool graph = false;         ///< one call, captured before all others, and replayed
  bool grow_between = false;  ///< prepare a larger family before the last call
};

std::string told(const Case& what) {
  std::string message;
  std::atomic<bool> over = false;
  KernelClock clock;
  run_ranks(2, [&](RankContext& context) {
    clock.drive(*context.device, context.rank);
    CommunicatorOptions options = quiet_options();
    options.candidate = what.candidate;
    options.variables.timeout = what.timeout;
    options.variables.first_timeout = what.first_timeout;
    Communicator communicator(context.bootstrap, context.device, options);
    const PreparedFamily family = communicator.prepare({"allreduce", Dtype::fp32, hidden, 8, Mode::graph});
    const Tensor<float> data(*context.device, 8 * hidden);
    data.fill([](std::size_t) { return 0.0F; });
    CallTensors tensors;
    tensors.input = tensors.output = data.data();
    const StreamHandle stream = context.device->create_stream();
    std::unique_ptr<Graph> graph;
    if (what.graph) {
      context.device->begin_capture(stream);
      family.run(tensors, 2, stream);
      graph = context.device->end_capture(stream);
    }
    const auto call = [&](std::int64_t tokens) {
      if (!graph) {
        family.run(tensors, tokens, stream);
        return;
      }
      graph->launch(stream);
      context.device->synchronize(stream);
      communicator.check();
    };
    for (int i = 0; i < what.together; ++i) call(i % 8 + 1);
    if (what.grow_between) communicator.prepare({"allreduce", Dtype::fp32, hidden, 512, Mode::graph});
    context.bootstrap->barrier();
    if (context.rank == 0) {
      clock.go_on();
      message = message_of<Poisoned>([&] { call(2); });
      over = true;
    }
    while (!over) std::this_thread::sleep_for(1ms);
    context.device->destroy_stream(stream);
  });
  return message;
}

void expect_first(const std::string& message) {
  EXPECT_NE(message.find("waited 0.2 s for rank 1"), std::string::npos) << message;
  EXPECT_NE(message.find("first 16 calls; ARBITER_FIRST_TIMEOUT_MS"), std::string::npos) << message;
}
void expect_usual(const std::string& message) {
  EXPECT_NE(message.find("waited 0.1 s for rank 1"), std::string::npos) << message;  // 50 ms, as it is printed
  EXPECT_NE(message.find("; ARBITER_TIMEOUT_MS"), std::string::npos) << message;
}

TEST(Deadlines, TheFirstSixteenCallsOfEveryAlgorithmMayWaitLonger) {
  const std::vector<std::string> names = kernels();
  ASSERT_GE(names.size(), 6U);
  for (const std::string& name : names) {
    SCOPED_TRACE(name);
    expect_first(told({.candidate = name, .together = 0}));
    expect_first(told({.candidate = name, .together = first_calls - 1}));
    expect_usual(told({.candidate = name, .together = first_calls}));
  }
}

TEST(Deadlines, AGraphThatWasCapturedFirstGetsTheUsualDeadlineOnceItHasRun) {
  expect_first(told({.together = first_calls - 1, .graph = true}));
  expect_usual(told({.together = first_calls, .graph = true}));
}

TEST(Deadlines, AWorkspaceThatMovesDoesNotBeginAgain) {
  expect_usual(told({.together = first_calls, .grow_between = true}));
}

TEST(Deadlines, TheFirstOneIsNeverTheShorter) {
  EnvironmentVariables variables;
  EXPECT_EQ(first_deadline(variables), 10min);
  variables.timeout = 20min;
  EXPECT_EQ(first_deadline(variables), 20min);
  variables.timeout = 0ms;
  EXPECT_EQ(first_deadline(variables), 0ms);
  variables.timeout = 1s;
  variables.first_timeout = 0ms;
  EXPECT_EQ(first_deadline(variables), 0ms);
}

TEST(Deadlines, AbortEndsAWaitThatHasNone) {
  run_ranks(2, [&](RankContext& context) {
    CommunicatorOptions options = quiet_options();
    options.variables.timeout = 0ms;
    Communicator communicator(context.bootstrap, context.device, options);
    communicator.prepare({"allreduce", Dtype::fp32, hidden, 8, Mode::graph});
    const Tensor<float> data(*context.device, hidden);
    data.fill([](std::size_t) { return 0.0F; });
    const auto call = [&] { communicator.all_reduce(data.data(), data.data(), hidden, Dtype::fp32, nullptr); };
    for (int i = 0; i < first_calls + 1; ++i) call();
    if (context.rank == 1) {
      communicator.abort();
      return;
    }
    EXPECT_NE(message_of<Poisoned>(call).find("told to give up"), std::string::npos);
    // For good, whatever is asked.
    EXPECT_THROW(call(), Poisoned);
    EXPECT_THROW(communicator.check(), Poisoned);
  });
}

TEST(Deadlines, ARankThatStallsIsWaitedFor) {
  KernelClock clock;
  run_ranks(2, [&](RankContext& context) {
    clock.drive(*context.device, context.rank);
    Communicator communicator(context.bootstrap, context.device, quiet_options());
    communicator.prepare({"allreduce", Dtype::fp32, hidden, 8, Mode::graph});
    const Tensor<float> data(*context.device, hidden);
    for (int i = 0; i < 2; ++i) {
      data.fill([&](std::size_t element) { return test::small_integer(context.rank, element); });
      if (context.rank == i) {  // until the other one waits
        const std::uint64_t before = clock.looks(1 - i);
        while (clock.looks(1 - i) == before) std::this_thread::yield();
      }
      communicator.all_reduce(data.data(), data.data(), hidden, Dtype::fp32, nullptr);
      for (std::size_t element = 0; element < data.size(); ++element) {
        ASSERT_EQ(data[element], test::small_integer_sum(2, element));
      }
    }
  });
}

}  // namespace
}  // namespace arbiter
