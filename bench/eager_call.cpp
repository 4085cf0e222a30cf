// What a call costs the host beside its launch. The CPU device's kernels are loaded, but a launch only copies its
// arguments, as the driver does; so what is left is Arbiter's own: checks, choice, arguments. Times are the least of
// many repetitions.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "arbiter/communicator.hpp"
#include "arbiter/db/database.hpp"
#include "arbiter/runtime/candidate.hpp"
#include "candidate/abi.hpp"
#include "least.hpp"
#include "runtime/forwarding_device.hpp"

namespace {

using namespace arbiter;

/// Launches nothing.
class NullLauncher final : public test::ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  void launch(const Kernel& kernel, const Launch& launch, const void* arguments, std::size_t bytes,
              StreamHandle) override {
    benchmark::DoNotOptimize(&kernel);
    benchmark::DoNotOptimize(launch.blocks);
    std::memcpy(copied_, arguments, std::min(bytes, sizeof(copied_)));
    benchmark::DoNotOptimize(copied_);
    benchmark::ClobberMemory();
  }

 private:
  unsigned char copied_[4096];
};

class NullKernel final : public Kernel {
 public:
  const KernelResources& resources() const noexcept override { return resources_; }

 private:
  KernelResources resources_;
};

constexpr int hidden = 1024;
constexpr std::int64_t tokens = 8;

/// Two ranks in this process; the benchmarks call as rank 0.
class Ranks {
 public:
  Ranks() {
    auto bootstraps = make_in_process_bootstraps(2);
    on_both([&](std::size_t rank) {
      devices_[rank] = std::make_shared<NullLauncher>(make_cpu_device(static_cast<int>(rank)));
      CommunicatorOptions options;
      options.decisions = share_decisions();
      communicators_[rank] = std::make_unique<Communicator>(std::shared_ptr<Bootstrap>(std::move(bootstraps[rank])),
                                                            devices_[rank], options);
      const PreparedFamily plain = communicators_[rank]->prepare(family("allreduce"));
      const PreparedFamily fused = communicators_[rank]->prepare(family("allreduce_residual_rmsnorm"));
      if (rank == 0) handles_ = {plain, fused};
    });
    for (DeviceMemory& memory : memory_) memory = DeviceMemory(device(), std::size_t{tokens} * hidden * 2);
    tensors_.input = memory_[0].data();
    tensors_.output = memory_[1].data();
    tensors_.residual_in = memory_[2].data();
    tensors_.residual_out = memory_[2].data();
    tensors_.gamma = memory_[3].data();
    tensors_.norm_out = memory_[4].data();
  }
  ~Ranks() {
    on_both([&](std::size_t rank) { communicators_[rank].reset(); });
  }
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  Device& device() { return *devices_[0]; }
  Communicator& communicator() { return *communicators_[0]; }
  const PreparedFamily& plain() const { return handles_[0]; }
  const PreparedFamily& fused() const { return handles_[1]; }
  const CallTensors& tensors() const { return tensors_; }

 private:
  static ProblemFamily family(const char* pattern) { return {pattern, Dtype::bf16, hidden, tokens, Mode::eager}; }
  template <class Action>
  static void on_both(const Action& action) {
    std::thread other([&] { action(1); });
    action(0);
    other.join();
  }

  std::shared_ptr<Device> devices_[2];
  std::unique_ptr<Communicator> communicators_[2];
  std::vector<PreparedFamily> handles_;
  DeviceMemory memory_[5];
  CallTensors tensors_;
};

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const double most = argc > 1 ? std::atof(argv[1]) : 0;  // times a bare launch; 0: no matter
  Ranks ranks;
  benchmark::RegisterBenchmark("bare_launch", [&](benchmark::State& state) {
    const NullKernel kernel;
    const arbiter_abi::Arguments arguments{};
    const Launch launch;
    for (auto _ : state) ranks.device().launch(kernel, launch, &arguments, sizeof(arguments), nullptr);
  });
  benchmark::RegisterBenchmark("prepared_plain", [&](benchmark::State& state) {
    for (auto _ : state) ranks.plain().run(ranks.tensors(), tokens, nullptr);
  });
  benchmark::RegisterBenchmark("prepared_fused", [&](benchmark::State& state) {
    CallTensors tensors = ranks.tensors();
    tensors.output = nullptr;
    for (auto _ : state) ranks.fused().run(tensors, tokens, nullptr);
  });
  benchmark::RegisterBenchmark("all_reduce", [&](benchmark::State& state) {
    const CallTensors& tensors = ranks.tensors();
    for (auto _ : state) {
      ranks.communicator().all_reduce(tensors.input, tensors.output, tokens * hidden, Dtype::bf16, nullptr);
    }
  });
  bench::Least reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  const double bare = reporter.least["bare_launch"];
  bool slow = false;
  for (const auto& [name, time] : reporter.least) {
    if (name == "bare_launch") continue;
    std::fprintf(stderr, "%s: %.1f ns beside a launch of %.1f ns (%.1f times)\n", name.c_str(), time - bare, bare,
                 time / bare);
    slow = slow || (most > 0 && time > most * bare);
  }
  if (slow) std::fprintf(stderr, "eager_call: a call may take %.0f times a bare launch\n", most);
  return slow ? 1 : 0;
}
