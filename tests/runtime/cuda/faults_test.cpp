// Faults that can exist on both devices, on both: ranks that die, stall or differ, and what is around a communicator
// and is not there. Ranks are processes with a device each, forked before anything touches CUDA; those of GPUs skip
// where there are too few. Whatever hangs is ended by an alarm.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "arbiter/error.hpp"
#include "arbiter/generator/compile.hpp"
#include "arbiter/runtime/nccl.hpp"
#include "environment/process_identity.hpp"
#include "runtime/communicator_fixture.hpp"
#include "runtime/kernel_clock.hpp"
#include "runtime/mortal_bootstrap.hpp"
#include "runtime/ranks.hpp"

namespace arbiter {
namespace {

using namespace std::chrono_literals;

constexpr int skipped = 77, failed = 1;
constexpr unsigned most_seconds = 100;  // of a test
constexpr std::size_t elements = 2048;
const ProblemFamily family{"allreduce", Dtype::fp32, 256, 16, Mode::graph};

/// One process, in it one rank.
struct Rank {
  Rank(Bootstrap& given, std::shared_ptr<Device> its_device)
      : rank(given.rank()),
        size(given.size()),
        bootstrap(&given, [](Bootstrap*) {}),  // it belongs to the process
        device(std::move(its_device)),
        stream(device->create_stream()) {}
  Rank(const Rank&) = delete;
  Rank& operator=(const Rank&) = delete;
  ~Rank() { device->destroy_stream(stream); }
  bool cuda() const { return device->kind() == DeviceKind::cuda; }

  int rank, size;
  std::shared_ptr<Bootstrap> bootstrap;
  std::shared_ptr<Device> device;
  StreamHandle stream;
};

std::vector<int> on_processes(DeviceKind kind, int size, const std::function<void(Rank&)>& body) {
  return test::run_processes(size, [&](Bootstrap& bootstrap) -> int {
    ::alarm(most_seconds);
    if (kind == DeviceKind::cuda && cuda_device_count() < size) return skipped;
    Rank rank(bootstrap,
              kind == DeviceKind::cuda ? make_cuda_device(bootstrap.rank()) : make_cpu_device(bootstrap.rank()));
    body(rank);
    return ::testing::Test::HasFailure() ? failed : 0;
  });
}

#define EXPECT_ENDS(codes, ...)                                                           \
  if ((codes).front() == skipped) GTEST_SKIP() << "the ranks found too few CUDA devices"; \
  EXPECT_EQ((codes), (std::vector<int>{__VA_ARGS__}))

/// Kernels alone: NCCL's own waits for a rank that died have no deadline.
CommunicatorOptions options_without_nccl() {
  CommunicatorOptions options = test::quiet_options();
  options.nccl = false;
  return options;
}

/// Small integers on the device.
class Numbers {
 public:
  Numbers(Rank& owner, std::size_t count)
      : owner_(owner), memory_(*owner.device, count * sizeof(float)), host_(count) {}
  float* data() const { return static_cast<float*>(memory_.data()); }
  std::int64_t count() const { return static_cast<std::int64_t>(host_.size()); }
  void fill() {
    for (std::size_t i = 0; i < host_.size(); ++i) host_[i] = test::small_integer(owner_.rank, i);
    owner_.device->copy(data(), host_.data(), host_.size() * sizeof(float), owner_.stream);
    owner_.device->synchronize(owner_.stream);
  }
  void expect_sum(int size) {
    owner_.device->copy(host_.data(), data(), host_.size() * sizeof(float), owner_.stream);
    owner_.device->synchronize(owner_.stream);
    for (std::size_t i = 0; i < host_.size(); ++i) ASSERT_EQ(host_[i], test::small_integer_sum(size, i)) << i;
  }

 private:
  Rank& owner_;
  DeviceMemory memory_;
  std::vector<float> host_;
};

/// One call; what it did is known when this returns.
void call(Communicator& communicator, Rank& rank, const Numbers& numbers, std::int64_t count = -1) {
  communicator.all_reduce(numbers.data(), numbers.data(), count < 0 ? numbers.count() : count, Dtype::fp32,
                          rank.stream);
  rank.device->synchronize(rank.stream);
  communicator.check();
}

void expect_sum(Communicator& communicator, Rank& rank, int size) {
  Numbers numbers(rank, elements);
  numbers.fill();
  call(communicator, rank, numbers);
  numbers.expect_sum(size);
}

/// Those who are left begin again, on the same devices.
void begin_again(test::SocketStar& second, Rank& rank) {
  Communicator next(std::shared_ptr<Bootstrap>(second.bootstrap(rank.rank)), rank.device, options_without_nccl());
  next.prepare(family);
  expect_sum(next, rank, 2);
}

class DeviceFaults : public ::testing::TestWithParam<DeviceKind> {
 protected:
  void SetUp() override {
    if (GetParam() == DeviceKind::cuda) return;
    try {
      make_host_compiler()->identity();
    } catch (const Unavailable& error) {
      GTEST_SKIP() << error.what();
    }
  }
};

/// A number that a child of fork() tells its parent.
class Told {
 public:
  Told() : at_(static_cast<int*>(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  Told(const Told&) = delete;
  Told& operator=(const Told&) = delete;
  ~Told() { ::munmap(at_, 4096); }
  int& operator*() { return *at_; }

 private:
  int* at_;
};

TEST_P(DeviceFaults, ARankKilledWhileTheGroupIsMadeOrPrepared) {
  Told creation, all;
  const std::vector<int> counted = on_processes(GetParam(), 3, [&](Rank& rank) {
    const auto counting = std::make_shared<test::MortalBootstrap>(*rank.bootstrap, 0);
    Communicator communicator(counting, rank.device, options_without_nccl());
    const int made = counting->steps;
    communicator.prepare(family);
    if (rank.rank == 0) *creation = made, *all = counting->steps;
  });
  EXPECT_ENDS(counted, 0, 0, 0);
  ASSERT_GT(*creation, 4);
  ASSERT_GT(*all, *creation + 2);
  for (const int dies_at : {1, *creation / 2, *creation, *creation + 1, (*creation + *all) / 2, *all}) {
    SCOPED_TRACE("killed at exchange " + std::to_string(dies_at) + " of " + std::to_string(*all));
    test::SocketStar second(2);
    const std::vector<int> codes = on_processes(GetParam(), 3, [&, dies = dies_at](Rank& rank) {
      EXPECT_ANY_THROW({  // whatever the host program's exchange throws passes through
        const auto mortal = std::make_shared<test::MortalBootstrap>(*rank.bootstrap, rank.rank == 2 ? dies : 0);
        Communicator communicator(mortal, rank.device, options_without_nccl());
        communicator.prepare(family);
        expect_sum(communicator, rank, 3);
      });
      begin_again(second, rank);
    });
    EXPECT_ENDS(codes, 0, 0, 128 + SIGKILL);
  }
}

/// Before its first call, or behind it: what it sent by then is part of the sum.
TEST_P(DeviceFaults, ARankKilledBetweenCalls) {
  for (const bool called : {false, true}) {
    test::SocketStar second(2);
    const std::vector<int> codes = on_processes(GetParam(), 3, [&](Rank& rank) {
      test::KernelClock clock;
      if (!rank.cuda()) clock.drive(*rank.device, rank.rank);
      {
        CommunicatorOptions options = options_without_nccl();
        // GPUs have a clock of their own. Long enough for ranks to set up their first copies.
        if (rank.cuda()) options.variables.timeout = options.variables.first_timeout = 3s;
        Communicator communicator(rank.bootstrap, rank.device, options);
        communicator.prepare(family);
        if (called) expect_sum(communicator, rank, 3);
        if (rank.rank == 2) ::kill(::getpid(), SIGKILL);
        Numbers numbers(rank, elements);
        numbers.fill();
        clock.go_on();
        EXPECT_THROW(call(communicator, rank, numbers), Poisoned);
        EXPECT_THROW(communicator.check(), Poisoned);
      }
      clock.stand();
      begin_again(second, rank);
    });
    EXPECT_ENDS(codes, 0, 0, 128 + SIGKILL);
  }
}

TEST_P(DeviceFaults, ARankThatStallsIsWaitedFor) {
  const std::vector<int> codes = on_processes(GetParam(), 2, [](Rank& rank) {
    const auto stall = rank.cuda() ? 5s : 0s;  // the CPU device's clock is not the wall's: communicator/deadlines
    CommunicatorOptions options = options_without_nccl();
    options.variables.timeout = EnvironmentVariables{}.timeout;
    options.variables.first_timeout = EnvironmentVariables{}.first_timeout;
    Communicator communicator(rank.bootstrap, rank.device, options);
    communicator.prepare(family);
    for (int i = 0; i < 2; ++i) {
      if (rank.rank == i) std::this_thread::sleep_for(stall);
      expect_sum(communicator, rank, 2);
    }
    Numbers numbers(rank, elements);
    rank.device->begin_capture(rank.stream);
    communicator.all_reduce(numbers.data(), numbers.data(), numbers.count(), Dtype::fp32, rank.stream);
    const std::unique_ptr<Graph> graph = rank.device->end_capture(rank.stream);
    numbers.fill();
    if (rank.rank == 1) std::this_thread::sleep_for(stall);
    graph->launch(rank.stream);
    numbers.expect_sum(2);
    communicator.check();
    rank.bootstrap->barrier();
  });
  EXPECT_ENDS(codes, 0, 0);
}

TEST_P(DeviceFaults, RanksThatDifferAreToldAndCanBeginAgain) {
  const std::vector<int> codes = on_processes(GetParam(), 2, [](Rank& rank) {
    const bool odd = rank.rank == 1;
    const auto refused = [&](const char* part, const std::function<void()>& action) {
      const std::string message = test::message_of<Disagreement>(action);
      EXPECT_NE(message.find(part), std::string::npos) << message;
    };
    refused("decisions given by the caller", [&] {
      CommunicatorOptions options = options_without_nccl();
      Decision decision;
      decision.pattern = "allreduce";
      decision.hidden = 256;
      decision.world = 2;
      decision.tokens_min = 1;
      decision.tokens_max = 16;
      if (odd) options.decisions = share_decisions({{Environment{}, {decision}}});
      Communicator(rank.bootstrap, rank.device, options);
    });
    refused("catalogue", [&] {
      GroupOptions options = test::quiet_group_options();
      options.nccl = false;
      std::string text(builtin_templates().at("catalogue.json"));
      if (odd) options.catalogue = std::make_shared<const Catalogue>(Catalogue::parse(text + "\n"));
      make_group(rank.bootstrap, rank.device, options);
    });
    refused("timeout", [&] {
      CommunicatorOptions options = options_without_nccl();
      if (odd) options.variables.timeout += 1s;
      Communicator(rank.bootstrap, rank.device, options);
    });
    Communicator communicator(rank.bootstrap, rank.device, options_without_nccl());
    refused("max_tokens=17", [&] {
      ProblemFamily mine = family;
      if (odd) mine.max_tokens = 17;
      communicator.prepare(mine);
    });
    communicator.prepare(family);
    expect_sum(communicator, rank, 2);
  });
  EXPECT_ENDS(codes, 0, 0);
}

/// The name of a plain kernel of `algorithm`, the same on all ranks.
std::string candidate_of(Rank& rank, const char* algorithm) {
  GroupOptions options = test::quiet_group_options();
  options.nccl = false;
  const auto group = make_group(rank.bootstrap, rank.device, options);
  for (const CandidateSpec& spec : enumerate_candidates(group->capabilities(), family, {})) {
    if (spec.kernel && spec.algorithm() == algorithm) return spec.name();
  }
  throw Unavailable(std::string("no candidate of ") + algorithm);
}

TEST_P(DeviceFaults, MessagesOfDifferentSizesAreToldToBoth) {
  for (const char* algorithm : {"oneshot_pull", "twoshot_pull", "twoshot_barrier"}) {
    SCOPED_TRACE(algorithm);
    const std::vector<int> codes = on_processes(GetParam(), 2, [&](Rank& rank) {
      CommunicatorOptions options = options_without_nccl();
      options.candidate = candidate_of(rank, algorithm);
      Communicator communicator(rank.bootstrap, rank.device, options);
      communicator.prepare(family);
      expect_sum(communicator, rank, 2);
      Numbers numbers(rank, 16 * 256);
      numbers.fill();
      const std::string message =
          test::message_of<Poisoned>([&] { call(communicator, rank, numbers, rank.rank == 1 ? 3 * 256 : 16 * 256); });
      for (const char* part : {"messages of different sizes", "rank 0 16384 bytes", "rank 1 3072 bytes"})
        EXPECT_NE(message.find(part), std::string::npos) << message;
      EXPECT_THROW(call(communicator, rank, numbers), Poisoned);
      rank.bootstrap->barrier();
    });
    EXPECT_ENDS(codes, 0, 0);
  }
}

TEST_P(DeviceFaults, WhatACaptureMayNotDoIsRefusedAndTheGraphIsWhole) {
  const std::vector<int> codes = on_processes(GetParam(), 2, [](Rank& rank) {
    Communicator communicator(rank.bootstrap, rank.device, options_without_nccl());
    communicator.prepare(family);
    Numbers numbers(rank, 256);
    const Numbers large(rank, 64 * 256);
    rank.device->begin_capture(rank.stream);
    const auto all_reduce = [&](const Numbers& what, Dtype dtype) {
      communicator.all_reduce(what.data(), what.data(), what.count(), dtype, rank.stream);
    };
    EXPECT_THROW(all_reduce(large, Dtype::fp32), Unsupported) << "more than was prepared";
    EXPECT_THROW(all_reduce(numbers, Dtype::bf16), Unsupported) << "not prepared";
    all_reduce(numbers, Dtype::fp32);
    const std::unique_ptr<Graph> graph = rank.device->end_capture(rank.stream);
    const auto replay = [&] {
      numbers.fill();
      graph->launch(rank.stream);
      numbers.expect_sum(2);
      communicator.check();
    };
    replay();
    // A workspace that does not suffice would have to move, and the graph knows where it is.
    EXPECT_THROW(communicator.prepare({"allreduce", Dtype::fp32, 8192, 512, Mode::graph}), Unsupported);
    replay();
    rank.bootstrap->barrier();
  });
  EXPECT_ENDS(codes, 0, 0);
}

TEST_P(DeviceFaults, AWorkspaceBeyondItsLimitIsRefusedAndWhatIsThereStays) {
  const std::vector<int> codes = on_processes(GetParam(), 2, [](Rank& rank) {
    CommunicatorOptions options = options_without_nccl();
    {
      Communicator communicator(rank.bootstrap, rank.device, options);
      communicator.prepare(family);
      options.workspace_limit = communicator.workspace_bytes() + communicator.scratch_bytes();
    }
    Communicator communicator(rank.bootstrap, rank.device, options);
    communicator.prepare(family);
    EXPECT_THROW(communicator.prepare({"allreduce", Dtype::fp32, 8192, 8192, Mode::graph}), WorkspaceLimit);
    expect_sum(communicator, rank, 2);
  });
  EXPECT_ENDS(codes, 0, 0);
}

TEST_P(DeviceFaults, WithoutNcclKernelsServeAndTheRestIsRefused) {
  const std::vector<int> codes = on_processes(GetParam(), 2, [](Rank& rank) {
    CommunicatorOptions options = test::quiet_options();
    options.make_nccl = [](Device&, Bootstrap&) -> std::shared_ptr<NcclCommunicator> {
      throw Unavailable("'libnccl.so.2' was not found");
    };
    Communicator communicator(rank.bootstrap, rank.device, options);
    communicator.prepare(family);
    expect_sum(communicator, rank, 2);
    Numbers odd(rank, 2047);  // no whole vectors: through a copy, where there is no NCCL
    odd.fill();
    call(communicator, rank, odd);
    odd.expect_sum(2);
    const Numbers large(rank, 64 * 256);
    const std::string message = test::message_of<Unsupported>([&] { call(communicator, rank, large); });
    EXPECT_NE(message.find("'libnccl.so.2' was not found"), std::string::npos) << message;
    expect_sum(communicator, rank, 2);
  });
  EXPECT_ENDS(codes, 0, 0);
}

TEST_P(DeviceFaults, ACacheThatCannotBeWrittenIsNoReasonNotToStart) {
  const std::vector<int> codes = on_processes(GetParam(), 2, [](Rank& rank) {
    CommunicatorOptions options = options_without_nccl();
    options.variables.cache_dir = "/proc/no/such/cache";
    Communicator communicator(rank.bootstrap, rank.device, options);
    communicator.prepare(family);
    expect_sum(communicator, rank, 2);
  });
  EXPECT_ENDS(codes, 0, 0);
}

TEST_P(DeviceFaults, TwoCommunicatorsTakeTurns) {
  const std::vector<int> codes = on_processes(GetParam(), 2, [](Rank& rank) {
    Communicator one(rank.bootstrap, rank.device, options_without_nccl());
    Communicator two(rank.bootstrap, rank.device, options_without_nccl());
    one.prepare(family);
    two.prepare(family);
    const StreamHandle other = rank.device->create_stream();
    Numbers a(rank, elements), b(rank, 512);
    const auto both = [&] {
      one.all_reduce(a.data(), a.data(), a.count(), Dtype::fp32, rank.stream);
      two.all_reduce(b.data(), b.data(), b.count(), Dtype::fp32, other);
    };
    rank.device->begin_capture(rank.stream);
    one.all_reduce(a.data(), a.data(), a.count(), Dtype::fp32, rank.stream);
    two.all_reduce(b.data(), b.data(), b.count(), Dtype::fp32, rank.stream);
    const std::unique_ptr<Graph> graph = rank.device->end_capture(rank.stream);
    for (int i = 0; i < 40; ++i) {
      a.fill();
      b.fill();
      if (i % 2 == 0) {
        both();
      } else {
        graph->launch(rank.stream);
      }
      rank.device->synchronize(other);
      a.expect_sum(2);
      b.expect_sum(2);
    }
    one.check();
    two.check();
    rank.bootstrap->barrier();
    rank.device->destroy_stream(other);
  });
  EXPECT_ENDS(codes, 0, 0);
}

TEST_P(DeviceFaults, DestroyedWithWorkInFlightItFinishesFirst) {
  const std::vector<int> codes = on_processes(GetParam(), 2, [](Rank& rank) {
    Numbers numbers(rank, elements);
    const DeviceMemory input(*rank.device, elements * sizeof(float));
    for (int round = 0; round < 3; ++round) {
      numbers.fill();
      rank.device->copy(input.data(), numbers.data(), input.bytes(), rank.stream);
      Communicator communicator(rank.bootstrap, rank.device, options_without_nccl());
      communicator.prepare(family);
      if (rank.rank == 1 && rank.cuda()) std::this_thread::sleep_for(200ms);  // so that rank 0's calls wait for it
      for (int i = 0; i < 50; ++i) {
        communicator.all_reduce(input.data(), numbers.data(), numbers.count(), Dtype::fp32, rank.stream);
      }
      if (round == 2) communicator.check();
    }  // nothing was waited for
    numbers.expect_sum(2);
  });
  EXPECT_ENDS(codes, 0, 0);
}

TEST_P(DeviceFaults, CreatePoisonDestroyCreate) {
  const std::vector<int> codes = on_processes(GetParam(), 2, [](Rank& rank) {
    for (int round = 0; round < 3; ++round) {
      Communicator communicator(rank.bootstrap, rank.device, options_without_nccl());
      communicator.prepare(family);
      expect_sum(communicator, rank, 2);
      rank.bootstrap->barrier();
      Numbers numbers(rank, elements);
      if (rank.rank == round % 2) communicator.abort();
      EXPECT_THROW(
          {
            call(communicator, rank, numbers);  // may have what it needs
            call(communicator, rank, numbers);
          },
          Poisoned);
      EXPECT_THROW(communicator.check(), Poisoned);
      EXPECT_THROW(call(communicator, rank, numbers), Poisoned) << "for good";
      rank.bootstrap->barrier();
    }
  });
  EXPECT_ENDS(codes, 0, 0);
}

TEST_P(DeviceFaults, APointerThatIsNotAlignedOnOneRankIsItsOwnMatter) {
  for (const char* algorithm : {"oneshot_push", "twoshot_push", "oneshot_pull", "twoshot_barrier"}) {
    SCOPED_TRACE(algorithm);
    const std::vector<int> codes = on_processes(GetParam(), 2, [&](Rank& rank) {
      CommunicatorOptions options = options_without_nccl();
      options.candidate = candidate_of(rank, algorithm);
      Communicator communicator(rank.bootstrap, rank.device, options);
      communicator.prepare(family);
      Numbers numbers(rank, elements);
      const DeviceMemory shifted(*rank.device, (elements + 4) * sizeof(float));
      float* input = static_cast<float*>(shifted.data()) + (rank.rank == 1 ? 1 : 0);
      for (int i = 0; i < 3; ++i) {
        numbers.fill();
        rank.device->copy(input, numbers.data(), elements * sizeof(float), rank.stream);
        communicator.all_reduce(input, numbers.data(), numbers.count(), Dtype::fp32, rank.stream);
        numbers.expect_sum(2);
        communicator.check();
      }
      rank.bootstrap->barrier();
    });
    EXPECT_ENDS(codes, 0, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, DeviceFaults, ::testing::Values(DeviceKind::cpu, DeviceKind::cuda),
                         [](const auto& device) { return std::string(to_string(device.param)); });

/// A rank that, by what it says of itself, is on another machine.
class FarBootstrap final : public Bootstrap {
 public:
  explicit FarBootstrap(std::shared_ptr<Bootstrap> inner) : inner_(std::move(inner)) {}
  int rank() const noexcept override { return inner_->rank(); }
  int size() const noexcept override { return inner_->size(); }
  void allgather(const void* send, std::size_t bytes, void* receive) override {
    const std::string host = process_identity().host;
    std::string mine(static_cast<const char*>(send), bytes);
    for (std::size_t at = mine.find(host); rank() == 1 && !host.empty() && at != std::string::npos;
         at = mine.find(host, at + 1)) {
      mine[at] = 'x';
    }
    inner_->allgather(mine.data(), bytes, receive);
  }
  void broadcast(void* data, std::size_t bytes, int root) override { inner_->broadcast(data, bytes, root); }
  void barrier() override { inner_->barrier(); }
  std::string name() const override { return inner_->name(); }

 private:
  std::shared_ptr<Bootstrap> inner_;
};

TEST(CudaFaults, WithoutPeerAccessNcclServesAndWithoutBothNobodyStarts) {
  const std::vector<int> codes = on_processes(DeviceKind::cuda, 2, [](Rank& rank) {
    const auto far = std::make_shared<FarBootstrap>(rank.bootstrap);
    const std::string message =
        test::message_of<Unavailable>([&] { Communicator(far, rank.device, options_without_nccl()); });
    EXPECT_NE(message.find("no way to exchange data"), std::string::npos) << message;
    EXPECT_NE(message.find("different hosts"), std::string::npos) << message;
    if (nccl_version().empty()) return;
    Communicator communicator(far, rank.device, test::quiet_options());
    const PreparedFamily prepared = communicator.prepare(family);
    EXPECT_TRUE(prepared.explain(8).candidate.name.starts_with("nccl/")) << prepared.explain(8).candidate.name;
    EXPECT_NE(prepared.explain(8).reason.find("different hosts"), std::string::npos) << prepared.explain(8).reason;
    expect_sum(communicator, rank, 2);
  });
  EXPECT_ENDS(codes, 0, 0);
}

}  // namespace
}  // namespace arbiter
