// A rank that does not come: the others say who waited for whom when the deadline has passed, and live on. Kernels go
// by a clock of the test, so that no test lasts as long as a deadline, and none fails because the machine was busy.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <new>
#include <thread>

#include "arbiter/error.hpp"
#include "group/fault.hpp"
#include "memory/workspace.hpp"
#include "runtime/communicator_fixture.hpp"
#include "runtime/kernel_clock.hpp"
#include "runtime/ranks.hpp"

namespace arbiter {
namespace {

using namespace std::chrono_literals;
using test::KernelClock;
using test::quiet_options;
using test::RankContext;
using test::run_ranks;
using test::Tensor;

constexpr auto deadline = 400ms;

CommunicatorOptions impatient() {
  CommunicatorOptions options = quiet_options();
  options.variables.timeout = deadline;
  options.variables.first_timeout = deadline;
  return options;
}

const std::vector<ProblemFamily>& families() {
  static const std::vector<ProblemFamily> all = {{"allreduce", Dtype::fp32, 256, 16, Mode::graph}};
  return all;
}

void expect_sum(Communicator& communicator, Device& device, int rank, int size) {
  const Tensor<float> data(device, 2048);
  data.fill([&](std::size_t i) { return test::small_integer(rank, i); });
  communicator.all_reduce(data.data(), data.data(), 2048, Dtype::fp32, nullptr);
  communicator.check();
  for (std::size_t i = 0; i < data.size(); ++i) ASSERT_EQ(data[i], test::small_integer_sum(size, i));
}

Call call_of(const Tensor<float>& data, std::int64_t tokens) {
  Call call;
  call.dtype = Dtype::fp32;
  call.hidden = 256;
  call.tokens = tokens;
  call.input = data.data();
  call.output = data.data();
  return call;
}

TEST(Poison, ARankThatStopsCallingIsNamedWhenTheDeadlineHasPassed) {
  std::vector<std::unique_ptr<Bootstrap>> survivors = make_in_process_bootstraps(2);
  std::atomic<int> over = 0;
  std::vector<std::string> messages(2);
  KernelClock clock;
  run_ranks(3, [&](RankContext& context) {
    clock.drive(*context.device, context.rank);
    const std::shared_ptr<void> at_the_end(nullptr, [&](void*) { ++over; });
    Communicator communicator(context.bootstrap, context.device, impatient());
    communicator.prepare(families());
    expect_sum(communicator, *context.device, context.rank, 3);
    if (context.rank == 2) {  // silent from here on, but its memory stays
      clock.go_on();
      while (over < 2) std::this_thread::yield();
      return;
    }
    const Tensor<float> data(*context.device, 4096);
    const auto call = [&] { communicator.all_reduce(data.data(), data.data(), 4096, Dtype::fp32, nullptr); };
    messages[static_cast<std::size_t>(context.rank)] = test::message_of<Poisoned>(call);
    // Later calls return the error without waiting, of whatever kind they are.
    const std::uint64_t looks = clock.looks(context.rank);
    EXPECT_THROW(call(), Poisoned);
    EXPECT_THROW(communicator.check(), Poisoned);
    EXPECT_THROW(communicator.run(call_of(data, 1), nullptr), Poisoned);
    EXPECT_EQ(clock.looks(context.rank), looks);

    // The rest of the ranks go on without it.
    const int rank = context.rank;
    const std::shared_ptr<Bootstrap> rest = std::move(survivors[static_cast<std::size_t>(rank)]);
    rest->barrier();  // nobody waits for the silent one any more
    clock.stand();
    Communicator next(rest, context.device, impatient());
    next.prepare(families());
    expect_sum(next, *context.device, rank, 2);
  });
  const std::string both = messages[0] + messages[1];
  EXPECT_NE(both.find("waited 0.4 s for rank 2 (block"), std::string::npos) << both;
  EXPECT_NE(both.find("destroy it"), std::string::npos) << both;
}

TEST(Poison, PrepareOnAPoisonedCommunicatorFailsOnAllRanks) {
  KernelClock clock;
  run_ranks(2, [&](RankContext& context) {
    clock.drive(*context.device, context.rank);
    Communicator communicator(context.bootstrap, context.device, impatient());
    communicator.prepare(families());
    const Tensor<float> data(*context.device, 512);
    context.bootstrap->barrier();  // rank 1 calls nothing from here on
    if (context.rank == 0) {
      clock.go_on();
      EXPECT_THROW(communicator.all_reduce(data.data(), data.data(), 512, Dtype::fp32, nullptr), Poisoned);
      clock.stand();
    }
    EXPECT_THROW(communicator.prepare(families()), Poisoned);
  });
}

// The clock stands: nothing else can end these waits.
TEST(Poison, AbortEndsAWaitBeforeItsDeadline) {
  KernelClock clock;
  run_ranks(2, [&](RankContext& context) {
    clock.drive(*context.device, context.rank);
    Communicator communicator(context.bootstrap, context.device, quiet_options());
    communicator.prepare(families());
    const Tensor<float> data(*context.device, 512);
    const std::uint64_t before = clock.looks(1);
    context.bootstrap->barrier();
    if (context.rank == 1) {
      const std::string message = test::message_of<Poisoned>(
          [&] { communicator.all_reduce(data.data(), data.data(), 512, Dtype::fp32, nullptr); });
      EXPECT_NE(message.find("told to give up"), std::string::npos) << message;
    } else {
      while (clock.looks(1) == before) std::this_thread::yield();  // until it waits
      communicator.abort();
      const std::string message = test::message_of<Poisoned>([&] { communicator.check(); });
      EXPECT_NE(message.find("gave up"), std::string::npos) << message;
    }
  });
}

TEST(Poison, AnExceptionOnOneRankReleasesTheOthers) {
  // Rank 0 leaves by an exception: its destructor does not wait for rank 1, and rank 1 does not wait for its deadline.
  KernelClock clock;
  run_ranks(2, [&](RankContext& context) {
    clock.drive(*context.device, context.rank);
    try {
      Communicator communicator(context.bootstrap, context.device, quiet_options());
      communicator.prepare(families());
      if (context.rank == 0) throw std::runtime_error("the engine stumbled");
      const Tensor<float> data(*context.device, 512);
      EXPECT_THROW(communicator.all_reduce(data.data(), data.data(), 512, Dtype::fp32, nullptr), Poisoned);
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "the engine stumbled");
    }
  });
}

TEST(Poison, AGroupRecoversWhenAllRanksAreStillThere) {
  KernelClock clock;
  run_ranks(2, [&](RankContext& context) {
    clock.drive(*context.device, context.rank);
    GroupOptions options;
    options.variables = impatient().variables;
    const auto group = make_group(context.bootstrap, context.device, options);
    const ProblemFamily& family = families().front();
    for (const char* algorithm :
         {"oneshot_push", "twoshot_push", "twoshot_barrier", "oneshot_pull", "twoshot_pull", "twoshot_chunked"}) {
      std::vector<LoadRequest> requests;
      for (const CandidateSpec& spec : enumerate_candidates(group->capabilities(), family, {})) {
        if (spec.algorithm() == algorithm && requests.empty()) requests.push_back({spec, family});
      }
      ASSERT_EQ(requests.size(), 1U) << algorithm;
      const std::vector<LoadResult> loaded = load_on_all_ranks(*group, requests);
      ASSERT_TRUE(loaded[0].candidate) << loaded[0].reason;
      const WorkspaceNeeds needs = loaded[0].candidate->needs(16);
      group->reserve(needs.push_bytes, needs.staging_bytes);
      const Tensor<float> data(*context.device, 16 * 256);
      const Call call = call_of(data, 16);
      for (int round = 0; round < 2; ++round) {
        data.fill([&](std::size_t i) { return test::small_integer(context.rank, i); });
        loaded[0].candidate->enqueue(call, nullptr);
        group->check();
        for (std::size_t i = 0; i < data.size(); ++i) ASSERT_EQ(data[i], test::small_integer_sum(2, i)) << algorithm;
        // One rank alone: half-filled buffers and epochs that differ between ranks are left behind.
        context.bootstrap->barrier();
        if (context.rank == round) {
          clock.go_on();
          loaded[0].candidate->enqueue(call, nullptr);
          clock.stand();
        }
        context.bootstrap->barrier();
        if (context.rank == round) {
          EXPECT_THROW(group->check(), Poisoned);
        }
        group->recover();
        EXPECT_NO_THROW(group->check());
      }
      data.fill([&](std::size_t i) { return test::small_integer(context.rank, i); });
      loaded[0].candidate->enqueue(call, nullptr);
      group->check();
      for (std::size_t i = 0; i < data.size(); ++i) ASSERT_EQ(data[i], test::small_integer_sum(2, i)) << algorithm;
    }
    // After an abort as well.
    if (context.rank == 0) group->abort();
    context.bootstrap->barrier();
    group->recover();
    EXPECT_NO_THROW(group->check());
  });
}

/// What processes that are forked from here on tell each other.
class SharedFlag {
 public:
  SharedFlag()
      : flag_(new (::mmap(nullptr, sizeof(Flag), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) Flag) {}
  SharedFlag(const SharedFlag&) = delete;
  SharedFlag& operator=(const SharedFlag&) = delete;
  ~SharedFlag() { ::munmap(flag_, sizeof(Flag)); }
  void raise() { *flag_ = true; }
  bool raised() const { return *flag_; }

 private:
  using Flag = std::atomic<bool>;
  Flag* flag_;
};

/// Rank 2 is killed while its kernel waits, at this look at the clock (or between calls, if it never has to wait for
/// long). For the others the clock stands until then.
TEST(Poison, ARankKilledInACollectiveIsSurvivedByTheOtherProcesses) {
  for (const int killed_at_look : {1, 8, 40}) {
    test::SocketStar second(2);
    SharedFlag killed;
    const std::vector<int> codes = test::run_processes(3, [&](Bootstrap& first) -> int {
      // The bootstrap belongs to the caller of this function.
      const std::shared_ptr<Bootstrap> bootstrap(&first, [](Bootstrap*) {});
      const int rank = first.rank();
      const std::shared_ptr<Device> device = make_cpu_device(rank);
      bool armed = false;
      int looks = 0;
      std::uint64_t ns = 1'000'000'000;
      const auto die = [&] {
        killed.raise();
        kill(getpid(), SIGKILL);
      };
      dynamic_cast<CpuDevice&>(*device).use_clock([&]() -> std::uint64_t {
        if (rank == 2 && armed && ++looks == killed_at_look) die();
        return armed && rank != 2 && killed.raised() ? ns += 60'000'000 : ns;
      });
      {
        Communicator communicator(bootstrap, device, impatient());
        communicator.prepare(families());
        expect_sum(communicator, *device, rank, 3);
        first.barrier();
        armed = true;
        const Tensor<float> data(*device, 4096);
        std::string message;
        for (int calls = 0; message.empty(); ++calls) {
          if (rank == 2 && calls == 300) die();
          try {
            communicator.all_reduce(data.data(), data.data(), 4096, Dtype::fp32, nullptr);
          } catch (const Poisoned& error) {
            message = error.what();
          }
        }
        // Time goes fast then: the other survivor, which is about to come, may be given up first.
        if (message.find("for rank ") == std::string::npos && message.find("told to give up") == std::string::npos) {
          return 4;
        }
      }  // the destructor does not wait for the dead
      armed = false;
      Communicator next(std::shared_ptr<Bootstrap>(second.bootstrap(rank)), device, impatient());
      next.prepare(families());
      expect_sum(next, *device, rank, 2);
      return ::testing::Test::HasFailure() ? 5 : 0;
    });
    EXPECT_EQ(codes, (std::vector<int>{0, 0, 128 + SIGKILL})) << "killed at look " << killed_at_look;
  }
}

TEST(Fault, IsDescribedForPeople) {
  arbiter_abi::FaultRecord fault{};
  EXPECT_FALSE(is_poisoned(fault));
  EnvironmentVariables variables;
  fault = {1, 0, 2, 3, 5, 1, 17, {}};
  EXPECT_TRUE(is_poisoned(fault));
  EXPECT_EQ(describe(fault, variables),
            "rank 0 waited 60.0 s for rank 2 (block 3, thread 5, phase 1: data pushed by a peer, epoch 17)");
  EXPECT_THROW(throw_poisoned(fault, variables), Poisoned);
  fault.state = 4;
  EXPECT_EQ(describe(fault, variables),
            "rank 0 waited 600.0 s for rank 2 (block 3, thread 5, phase 1: data pushed by a peer, epoch 17)");
  fault.state = 2;
  fault.phase = 3;
  EXPECT_EQ(describe(fault, variables),
            "rank 0 was told to give up by a peer while it waited for rank 2 (block 3, thread 5, phase 3: barrier, "
            "epoch 17)");
  fault.state = 3;
  fault.vectors[0] = 64;
  fault.vectors[1] = 1U << 31U;
  EXPECT_EQ(describe(fault, variables),
            "the ranks passed messages of different sizes to one call: rank 0 1024 bytes, rank 2 34359738368 bytes "
            "(block 3, thread 5, phase 3: barrier, epoch 17)");
}

}  // namespace
}  // namespace arbiter
