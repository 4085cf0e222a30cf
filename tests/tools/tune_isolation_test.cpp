// A tune whose candidates take their process with them, on the CPU device: this test program is started as its own
// worker, which has both ranks as threads, and is started again behind the candidate.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "arbiter/error.hpp"
#include "arbiter/tuner/tune.hpp"
#include "ranks/session.hpp"
#include "runtime/kernel_clock.hpp"
#include "tuner/misbehaving.hpp"
#include "tuner/ranks.hpp"

namespace arbiter::cli {
namespace {

using testing::Misbehaving;
using testing::TemporaryFolder;

/// The clocks of a worker's ranks. They stand until one is at fault, so that nothing else takes too long.
struct Clocks {
  test::KernelClock kernels;
  std::atomic<bool> stuck{false};  ///< the tuner's clock says that nothing has ended for long
  std::atomic<int> ended{0};       ///< calls of rank 0
  int left_out = 0;                ///< calls of rank 1
};

/// Rank 1 does not come until the deadline of rank 0 has passed.
void never_come(Clocks& clocks, Group& group, RunnableCandidate& real, const CallTensors& tensors,
                std::int64_t elements, StreamHandle stream) {
  if (group.rank() == 0) {
    const std::shared_ptr<void> at_the_end(nullptr, [&](void*) { ++clocks.ended; });
    real.enqueue(tensors, elements, stream);
    return;
  }
  ++clocks.left_out;
  clocks.kernels.go_on();
  while (clocks.ended < clocks.left_out) std::this_thread::yield();
  clocks.kernels.stand();
}

/// What two-shot does on rank 1, in place of its work or after it.
void misbehave(const std::string& fault, Clocks& clocks, Group& group, RunnableCandidate& real,
               const CallTensors& tensors, std::int64_t elements, StreamHandle stream) {
  if (fault == "never comes") return never_come(clocks, group, real, tensors, elements, stream);
  if (group.rank() != 1 || fault == "none") return real.enqueue(tensors, elements, stream);
  if (fault == "faults") {
    volatile int* nowhere = nullptr;
    *nowhere = 1;
  }
  if (fault == "is killed") raise(SIGKILL);
  if (fault == "exits") std::_Exit(3);
  if (fault == "loses its device") throw DeviceError("an illegal memory access was encountered");
  clocks.stuck = fault == "hangs";
  while (fault == "hangs") std::this_thread::sleep_for(std::chrono::milliseconds(10));  // until it is killed
  real.enqueue(tensors, elements, stream);
  group.device().synchronize(stream);
  if (fault == "is wrong") static_cast<unsigned char*>(tensors.output)[5] ^= 16;
}

std::vector<CandidateSpec> two_algorithms(Group& group, const ProblemFamily& family,
                                          std::span<const CandidateSpec> plain) {
  std::vector<CandidateSpec> few;
  for (const CandidateSpec& spec : enumerate_candidates(group.capabilities(), family, plain)) {
    const std::string algorithm = spec.algorithm();
    if (!algorithm.ends_with("_push")) continue;
    const bool known = std::any_of(few.begin(), few.end(), [&](const auto& o) { return o.algorithm() == algorithm; });
    if (!known) few.push_back(spec);
  }
  return few;
}

/// Arguments: the fault, and the database.
SessionResult session(const std::vector<std::string>& arguments, bool worker) {
  SessionOptions session;
  session.signals = std::make_shared<SignalWatch>();
  session.device = DeviceKind::cpu;
  session.in_process = true;
  session.worker = worker;
  session.isolated = !worker;
  session.worlds = {2};
  session.arguments = arguments;
  session.most_restarts = 2;
  session.cancellable = true;
  Clocks clocks;
  return run_session(session, [&](RankContext& context) {
    clocks.kernels.drive(*context.device, context.bootstrap->rank());
    GroupOptions group_options;
    group_options.variables = testing::test_variables(std::chrono::seconds(20));
    group_options.nccl = false;
    const auto group = make_group(context.bootstrap, context.device, group_options);
    TuneOptions options;
    options.families = {{"allreduce", Dtype::bf16, 128, 2, Mode::graph}};
    options.database = arguments[1];
    options.measure = MeasureSettings::for_device(DeviceKind::cpu);
    options.effort = SearchEffort::for_device(DeviceKind::cpu);
    options.effort.give_up = 0;  // the machine may be busy, and then any call can be slow
    options.restarted = options.resume = context.restarts > 0;
    options.resume_since = context.started;
    options.stuck_after = std::chrono::minutes(1);
    options.now = [&] { return std::chrono::steady_clock::time_point(std::chrono::minutes(clocks.stuck ? 2 : 0)); };
    options.on_stuck = context.give_up;
    options.source.enumerate = two_algorithms;
    options.source.load = [&, load = options.source.load](Group& g, const CandidateSpec& spec,
                                                          const ProblemFamily& family) {
      LoadResult result = load(g, spec, family);
      if (spec.algorithm() != "twoshot_push" || !result.candidate) return result;
      result.candidate = std::make_unique<Misbehaving>(
          std::move(result.candidate), [&, &its_group = g](RunnableCandidate& real, const CallTensors& tensors,
                                                           std::int64_t elements, StreamHandle stream) {
            misbehave(arguments[0], clocks, its_group, real, tensors, elements, stream);
          });
      return result;
    };
    const TuneResult tuned = tune(*group, options);
    std::string text = std::to_string(context.restarts) + " " + std::to_string(tuned.measured + tuned.resumed);
    for (const Decision& decision : tuned.decisions) text += " " + decision.candidate.algorithm;
    return text;
  });
}

struct Row {
  const char* fault;
  const char* restarts;
  TrialStatus status;
};

class TuneIsolation : public ::testing::TestWithParam<Row> {};

TEST_P(TuneIsolation, TheTuneGoesOnBehindACandidateThat) {
  const TemporaryFolder folder;
  const SessionResult result = session({GetParam().fault, (folder / "tune.db").string()}, false);
  ASSERT_EQ(result.results.size(), 1U);
  const std::string decided = GetParam().status == TrialStatus::done ? "" : " 2 oneshot_push";
  EXPECT_TRUE(result.results[0].starts_with(GetParam().restarts + decided)) << result.results[0];
  const WorkDatabase database = WorkDatabase::open(folder / "tune.db");
  const Environment environment = database.environments().front();
  ASSERT_EQ(database.problems(environment).size(), 2U);
  std::size_t seen = 0;
  for (const Problem& problem : database.problems(environment)) {
    for (const Trial& trial : database.trials(environment, problem)) {
      if (trial.candidate.algorithm != "twoshot_push") {
        EXPECT_EQ(trial.status, TrialStatus::done) << trial.reason;
        continue;
      }
      EXPECT_EQ(trial.status, GetParam().status) << trial.reason;
      ++seen;
    }
  }
  EXPECT_GE(seen, 1U);
}

INSTANTIATE_TEST_SUITE_P(
    Faults, TuneIsolation,
    ::testing::Values(Row{"none", "0", TrialStatus::done}, Row{"is wrong", "0", TrialStatus::wrong},
                      Row{"never comes", "0", TrialStatus::failed}, Row{"loses its device", "0", TrialStatus::failed},
                      Row{"faults", "1", TrialStatus::crashed}, Row{"is killed", "1", TrialStatus::crashed},
                      Row{"exits", "1", TrialStatus::crashed}, Row{"hangs", "1", TrialStatus::crashed}),
    [](const auto& row) {
      std::string name = row.param.fault;
      std::replace(name.begin(), name.end(), ' ', '_');
      return name;
    });

}  // namespace
}  // namespace arbiter::cli

int main(int count, char** values) {
  std::vector<std::string> arguments(values + 1, values + count);
  if (!arguments.empty() && arguments.back() == "--worker") {
    arguments.pop_back();
    arbiter::cli::session(arguments, true);  // does not return
  }
  testing::InitGoogleTest(&count, values);
  return RUN_ALL_TESTS();
}
