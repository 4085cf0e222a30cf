// Ranks whose time is computed: candidates return right results, and take as long as a model says, to the nanosecond.
// So a search over them gives the same answer every time, and hundreds of tunes take seconds.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "arbiter/error.hpp"
#include "arbiter/tuner/tune.hpp"
#include "oracle/reference.hpp"
#include "ranks.hpp"

namespace arbiter::testing {

/// A CPU device whose clock stands still until a candidate says how long it took.
class ClockworkDevice : public Device {
 public:
  explicit ClockworkDevice(int rank) : real_(make_cpu_device(rank)) {}

  /// The next call takes this long; in a capture, every replay of it.
  void take(std::int64_t ns) { (capturing_ ? captured_ns_ : now_ns_) += ns; }
  bool in_capture() const noexcept { return capturing_; }
  /// From here on, every replay takes a little longer or shorter, drawn from `seed`, by at most about `relative`.
  void shake(double relative, std::uint64_t seed) {
    shake_ = relative;
    random_.seed(seed);
  }
  /// From here on, there is no memory for more than this at once.
  void limit(std::size_t bytes) { most_bytes_ = bytes; }
  /// From here on, waiting for the device fails, as it does after a kernel has faulted.
  void lose() { lost_ = true; }

  DeviceKind kind() const noexcept override { return real_->kind(); }
  const DeviceProperties& properties() const noexcept override { return real_->properties(); }
  void activate() override { real_->activate(); }
  void* allocate(std::size_t bytes) override {
    if (bytes > most_bytes_) throw Unavailable("no memory for " + std::to_string(bytes) + " bytes");
    return real_->allocate(bytes);
  }
  void release(void* memory) noexcept override { real_->release(memory); }
  void* allocate_host_visible(std::size_t bytes) override { return real_->allocate_host_visible(bytes); }
  void release_host_visible(void* memory) noexcept override { real_->release_host_visible(memory); }
  void copy(void* to, const void* from, std::size_t bytes, StreamHandle s) override { real_->copy(to, from, bytes, s); }
  void fill_words(void* to, std::uint32_t value, std::size_t words, StreamHandle s) override {
    ++poisoned_;
    real_->fill_words(to, value, words, s);
  }
  StreamHandle create_stream() override { return real_->create_stream(); }
  void destroy_stream(StreamHandle stream) noexcept override { real_->destroy_stream(stream); }
  void synchronize(StreamHandle stream) override {
    if (lost_) throw DeviceError("the context is lost");
    real_->synchronize(stream);
  }
  bool finished(StreamHandle stream) override {
    synchronize(stream);
    return true;
  }
  bool capturing(StreamHandle) override { return capturing_; }
  void begin_capture(StreamHandle) override {
    capturing_ = true;
    captured_ns_ = 0;
    captured_.clear();
  }
  std::unique_ptr<Graph> end_capture(StreamHandle) override {
    capturing_ = false;
    if (empty_graphs_ && ++graphs_ % 2 == 0) return std::make_unique<Replay>(*this, 30, Work{});
    return std::make_unique<Replay>(*this, captured_ns_, std::exchange(captured_, {}));
  }
  /// What a replay of the graph being captured does to the memory at `output`.
  void record(void* output, std::function<void()> work) {
    std::erase_if(captured_, [&](const auto& earlier) { return earlier.first == output; });
    captured_.emplace_back(output, std::move(work));
  }
  /// From here on, every second captured graph does nothing, very fast.
  void lose_every_second_graph() { empty_graphs_ = true; }
  std::unique_ptr<Event> create_event() override { return std::make_unique<Tick>(*this); }
  std::unique_ptr<Kernel> load(const CompiledKernel& kernel, int rank) override { return real_->load(kernel, rank); }
  int resident_blocks(const Kernel& kernel, const Launch& launch) override {
    return real_->resident_blocks(kernel, launch);
  }
  void launch(const Kernel& kernel, const Launch& launch, const void* arguments, std::size_t bytes,
              StreamHandle stream) override {
    real_->launch(kernel, launch, arguments, bytes, stream);
  }
  PointerKind classify(const void* pointer) override { return real_->classify(pointer); }

 private:
  using Work = std::vector<std::pair<void*, std::function<void()>>>;
  struct Replay : Graph {
    Replay(ClockworkDevice& the_device, std::int64_t the_ns, Work the_work)
        : device(the_device), ns(the_ns), work(std::move(the_work)) {}
    void launch(StreamHandle) override {
      device.now_ns_ += device.shaken(ns);
      // Hundreds of tunes take seconds: what nobody overwrote since is still there.
      if (done_for == device.poisoned_) return;
      for (const auto& [output, each] : work) each();
      done_for = device.poisoned_;
    }
    ClockworkDevice& device;
    std::int64_t ns;
    Work work;
    std::size_t done_for = 0;
  };
  struct Tick : Event {
    explicit Tick(ClockworkDevice& the_device) : device(the_device) {}
    void record(StreamHandle) override { at_ns = device.now_ns_; }
    double microseconds_since(const Event& earlier) override {
      return static_cast<double>(at_ns - static_cast<const Tick&>(earlier).at_ns) / 1000;
    }
    ClockworkDevice& device;
    std::int64_t at_ns = 0;
  };

  std::int64_t shaken(std::int64_t ns) {
    if (shake_ == 0) return ns;
    // The sum of a few is nearly normal. Not a distribution of <random>, which differs between libraries.
    double sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<double>(random_() % 2001) / 1000 - 1;
    return static_cast<std::int64_t>(static_cast<double>(ns) * (1 + shake_ * sum / 2));
  }

  std::shared_ptr<Device> real_;
  double shake_ = 0;
  std::mt19937_64 random_;
  bool capturing_ = false, lost_ = false, empty_graphs_ = false;
  std::size_t graphs_ = 0, poisoned_ = 0;
  Work captured_;
  std::size_t most_bytes_ = ~std::size_t{0};
  std::int64_t now_ns_ = 0, captured_ns_ = 0;
};

/// Nanoseconds of one call.
using CostOf = std::function<std::int64_t(const CandidateSpec&, const Problem&)>;

/// Where the ranks of a model wait for each other. They are threads on few cores, and std::barrier spins while it
/// waits, which takes the time from those it waits for.
class MeetingPoint {
 public:
  explicit MeetingPoint(int size) : size_(size) {}
  void wait() {
    std::unique_lock lock(mutex_);
    const std::uint64_t phase = phase_;
    if (++arrived_ == size_) {
      arrived_ = 0;
      ++phase_;
      all_there_.notify_all();
    } else {
      all_there_.wait(lock, [&] { return phase_ != phase; });
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_there_;
  const int size_;
  int arrived_ = 0;
  std::uint64_t phase_ = 0;
};

/// What the ranks of one run share.
struct Board {
  explicit Board(int size) : meeting(size), inputs(static_cast<std::size_t>(size)) {}
  MeetingPoint meeting;
  std::vector<const void*> inputs;
};

/// Plain allreduce by host code; its time is the model's.
class Modelled : public RunnableCandidate {
 public:
  Modelled(Group& group, Board& board, CandidateSpec spec, ProblemFamily family, CostOf cost)
      : group_(group), board_(board), spec_(std::move(spec)), family_(std::move(family)), cost_(std::move(cost)) {
    record_ = {spec_.backend(), spec_.algorithm(), spec_.name(), Numerics::rank_order_fp32, "modelled"};
  }
  const CandidateSpec& spec() const noexcept override { return spec_; }
  const Candidate& record() const noexcept override { return record_; }
  Geometry geometry(std::int64_t tokens) const override {
    Geometry geometry;
    geometry.blocks = static_cast<unsigned>(tokens);
    return geometry;
  }
  WorkspaceNeeds needs(std::int64_t) const override { return {}; }
  int block_limit() const noexcept override { return 1; }
  KernelUse use() const override { return spec_.kernel ? KernelUse{40, 0} : KernelUse{}; }
  void agreed(int) override {}
  void enqueue(const CallTensors& tensors, std::int64_t elements, StreamHandle) override {
    auto& device = static_cast<ClockworkDevice&>(group_.device());
    if (device.in_capture()) {
      device.record(tensors.output, [this, tensors, elements] { reduce(tensors, elements); });
    } else {
      reduce(tensors, elements);
    }
    device.take(cost_(spec_, {family_.pattern, family_.dtype, family_.hidden, elements / family_.hidden, group_.size(),
                              family_.mode, false}));
  }

 private:
  void reduce(const CallTensors& tensors, std::int64_t elements) {
    const std::size_t bytes = static_cast<std::size_t>(elements) * element_bytes(family_.dtype);
    board_.inputs[static_cast<std::size_t>(group_.rank())] = tensors.input;
    board_.meeting.wait();
    std::vector<tuning::Bytes> tiles;
    for (const void* input : board_.inputs) {
      const auto* first = static_cast<const unsigned char*>(input);
      tiles.emplace_back(first, first + bytes);
    }
    board_.meeting.wait();
    const tuning::Bytes sum = tuning::sum_in_rank_order(tiles, family_.dtype);
    std::memcpy(tensors.output, sum.data(), bytes);
  }

  Group& group_;
  Board& board_;
  CandidateSpec spec_;
  ProblemFamily family_;
  CostOf cost_;
  Candidate record_;
};

/// The runtime's candidates of plain allreduce, modelled.
inline CandidateSource modelled_source(Board& board, CostOf cost) {
  CandidateSource source = CandidateSource::runtime();
  source.compile = nullptr;
  source.load = [&board, cost = std::move(cost)](Group& group, const CandidateSpec& spec, const ProblemFamily& family) {
    return LoadResult{std::make_unique<Modelled>(group, board, spec, family, cost), ""};
  };
  return source;
}

/// Like on_ranks, with clockwork devices.
inline void on_clockwork_ranks(int size, const std::function<void(Group&, Board&)>& body) {
  auto bootstraps = make_in_process_bootstraps(size, std::chrono::seconds(60));
  Board board(size);
  std::vector<std::exception_ptr> failures(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      const auto at = static_cast<std::size_t>(rank);
      try {
        GroupOptions options;
        options.variables = test_variables(std::chrono::seconds(20));
        options.nccl = false;
        const auto group = make_group(std::move(bootstraps[at]), std::make_shared<ClockworkDevice>(rank), options);
        body(*group, board);
      } catch (...) {
        failures[at] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

}  // namespace arbiter::testing
