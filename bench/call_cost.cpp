// What an eager call costs the host beside the launch of its kernel, on the device itself: rounds of calls, and rounds
// of the very launches that these made, in turns. A round fits the device's queue, so that only the host is measured.
// Calls take their tensors from a few sets in turns, as the layers of a model do.
// Ranks are threads of this process, one for each GPU, or several on one where there are fewer; the slowest counts.
#include <fmt/format.h>

#include <algorithm>
#include <barrier>
#include <boost/program_options.hpp>
#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "arbiter/communicator.hpp"
#include "arbiter/db/database.hpp"
#include "command_line.hpp"
#include "cuda/device.hpp"
#include "runtime/forwarding_device.hpp"
#include "runtime/ranks.hpp"

namespace {

using namespace arbiter;
using Clock = std::chrono::steady_clock;

/// Remembers launches while it is told to, so that they can be made again. The exchange's state is in device memory, so
/// the same launch on all ranks is a call like any other.
class Recorder {
 public:
  virtual ~Recorder() = default;
  virtual Device& device() = 0;
  /// The next one, and after the last one the first.
  virtual void again(StreamHandle stream) = 0;
  bool recording = false;
};

/// `Base` is the device itself where the runtime must find that (memory that GPUs share), else one that passes on.
template <class Base>
class RecordingDevice final : public Base, public Recorder {
 public:
  using Base::Base;
  Device& device() override { return *this; }
  void launch(const Kernel& kernel, const Launch& launch, const void* arguments, std::size_t bytes,
              StreamHandle stream) override {
    if (recording) {
      const auto* begin = static_cast<const unsigned char*>(arguments);
      made_.push_back({&kernel, launch, {begin, begin + bytes}});
    }
    Base::launch(kernel, launch, arguments, bytes, stream);
  }
  void again(StreamHandle stream) override {
    const Made& made = made_[next_];
    if (++next_ == made_.size()) next_ = 0;
    Base::launch(*made.kernel, made.launch, made.arguments.data(), made.arguments.size(), stream);
  }

 private:
  struct Made {
    const Kernel* kernel;
    Launch launch;
    std::vector<unsigned char> arguments;
  };
  std::vector<Made> made_;
  std::size_t next_ = 0;
};

std::shared_ptr<Recorder> make_recorder(const std::string& device, int rank) {
  if (device == "cuda") {
    const int ordinal = rank % std::max(cuda_device_count(), 1);
    return std::make_shared<RecordingDevice<CudaDevice>>(ordinal, CudaDeviceOptions{});
  }
  return std::make_shared<RecordingDevice<test::ForwardingDevice>>(make_cpu_device(rank));
}

struct Settings {
  int ranks = 2;
  std::string device = "cuda";
  int hidden = 8192;
  std::int64_t tokens = 16;
  int rounds = 200;
  int calls = 100;
  int sets = 4;
  double most_ns = 0;
};

/// Of one rank: the medians over rounds of what a call takes, its launch, and the one more than the other. Clocks drift
/// by more than a call costs, so the difference is taken between rounds that follow each other.
struct Cost {
  double call_ns = 0, launch_ns = 0, over_ns = 0;
};

class Measurement {
 public:
  explicit Measurement(const Settings& settings) : settings_(settings), together_(settings.ranks) {}

  /// Of the rank whose call costs most beside its launch.
  Cost of(const std::string& pattern) {
    std::vector<Cost> costs(static_cast<std::size_t>(settings_.ranks));
    const std::vector<std::string> failures = test::run_threads(settings_.ranks, [&](Bootstrap& bootstrap) {
      try {
        costs[static_cast<std::size_t>(bootstrap.rank())] = measure(pattern, bootstrap);
      } catch (...) {
        together_.arrive_and_drop();
        throw;
      }
    });
    for (const std::string& failure : failures) {
      if (!failure.empty()) throw std::runtime_error(failure);
    }
    return *std::max_element(costs.begin(), costs.end(),
                             [](const Cost& a, const Cost& b) { return a.over_ns < b.over_ns; });
  }

 private:
  Cost measure(const std::string& pattern, Bootstrap& bootstrap) {
    const int rank = bootstrap.rank();
    const std::shared_ptr<Recorder> recorder = make_recorder(settings_.device, rank);
    const std::shared_ptr<Device> device(recorder, &recorder->device());
    CommunicatorOptions options;
    options.decisions = share_decisions();
    options.nccl = false;
    Communicator communicator(std::shared_ptr<Bootstrap>(std::shared_ptr<void>(), &bootstrap), device, options);
    const PreparedFamily family =
        communicator.prepare(ProblemFamily{pattern, Dtype::bf16, settings_.hidden, settings_.tokens, Mode::eager});
    const std::size_t bytes =
        static_cast<std::size_t>(settings_.tokens) * static_cast<std::size_t>(settings_.hidden) * 2;
    StreamHandle stream = device->create_stream();
    std::vector<DeviceMemory> memory;
    const auto tensor = [&] {
      memory.emplace_back(*device, bytes);
      device->fill_words(memory.back().data(), 0, bytes / 4, stream);
      return memory.back().data();
    };
    std::vector<CallTensors> sets(static_cast<std::size_t>(settings_.sets));
    for (CallTensors& tensors : sets) {
      tensors.input = tensor();
      if (pattern == "allreduce") {
        tensors.output = tensor();
      } else {
        tensors.residual_in = tensor();
        tensors.residual_out = tensor();
        tensors.gamma = tensor();
        tensors.norm_out = tensor();
      }
    }
    std::size_t next = 0;
    const auto call = [&] {
      family.run(sets[next], settings_.tokens, stream);
      if (++next == sets.size()) next = 0;
    };
    recorder->recording = true;
    for (int i = 0; i < settings_.sets; ++i) call();
    recorder->recording = false;
    std::vector<double> calls, launches, over;
    for (int round = 0; round < settings_.rounds; ++round) {
      calls.push_back(round_of(*device, stream, call));
      launches.push_back(round_of(*device, stream, [&] { recorder->again(stream); }));
      over.push_back(calls.back() - launches.back());
    }
    device->synchronize(stream);
    device->destroy_stream(stream);
    return {median(calls), median(launches), median(over)};
  }

  /// Nanoseconds of one.
  double round_of(Device& device, StreamHandle stream, const std::function<void()>& one) {
    device.synchronize(stream);
    together_.arrive_and_wait();
    const auto began = Clock::now();
    for (int i = 0; i < settings_.calls; ++i) one();
    return std::chrono::duration<double, std::nano>(Clock::now() - began).count() / settings_.calls;
  }

  static double median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
  }

  Settings settings_;
  std::barrier<> together_;
};

Settings read_settings(int argc, char** argv) {
  namespace po = boost::program_options;
  Settings s;
  po::options_description known("What an eager call costs the host beside the launch of its kernel");
  auto add = known.add_options();
  add("help", "this text");
  add("ranks", po::value(&s.ranks)->default_value(s.ranks), "threads of this process, spread over the GPUs");
  add("device", po::value(&s.device)->default_value(s.device), "cuda or cpu (where a launch is the kernel)");
  add("hidden", po::value(&s.hidden)->default_value(s.hidden), "elements of a row");
  add("tokens", po::value(&s.tokens)->default_value(s.tokens), "rows");
  add("rounds", po::value(&s.rounds)->default_value(s.rounds), "of calls, and as many of launches, in turns");
  add("calls", po::value(&s.calls)->default_value(s.calls), "of a round; the device's queue must hold them");
  add("sets", po::value(&s.sets)->default_value(s.sets), "of tensors, which the calls take in turns");
  add("most-ns", po::value(&s.most_ns)->default_value(s.most_ns), "fail where it is more; 0: no matter");
  bench::read_command_line(argc, argv, known);
  if (s.ranks < 2 || s.rounds < 1 || s.calls < 1 || s.sets < 1) {
    throw InvalidArgument("--ranks must be 2 or more, --rounds, --calls and --sets 1 or more");
  }
  if (s.device != "cuda" && s.device != "cpu") throw InvalidArgument("--device is cuda or cpu");
  return s;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Settings settings = read_settings(argc, argv);
    std::string rows;
    bool slow = false;
    for (const char* pattern : {"allreduce", "allreduce_residual_rmsnorm"}) {
      const Cost cost = Measurement(settings).of(pattern);
      slow = slow || (settings.most_ns > 0 && cost.over_ns > settings.most_ns);
      rows +=
          fmt::format("{}\n  {{\"pattern\": \"{}\", \"call_ns\": {:.1f}, \"launch_ns\": {:.1f}, \"over_ns\": {:.1f}}}",
                      rows.empty() ? "" : ",", pattern, cost.call_ns, cost.launch_ns, cost.over_ns);
    }
    fmt::print(
        "{{\"schema\": 1, \"device\": \"{}\", \"ranks\": {}, \"hidden\": {}, \"tokens\": {}, \"sets\": {}, "
        "\"rows\": [{}\n]}}\n",
        settings.device, settings.ranks, settings.hidden, settings.tokens, settings.sets, rows);
    if (slow) fmt::print(stderr, "call_cost: a call costs more than {} ns beside its launch\n", settings.most_ns);
    return slow ? 1 : 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "call_cost: {}\n", error.what());
    return 1;
  }
}
