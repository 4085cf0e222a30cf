// Does it go on for ever? Communicators are created and destroyed, then one makes many mixed calls: sizes, dtypes,
// plain and fused, eager and captured, with pointers that are aligned on some ranks only. Results are checked on the
// way; memory, descriptors and threads must not grow, and calls must not become slower. Ranks are threads of this
// process, one for each GPU, or on the CPU device.
#include <dirent.h>
#include <fmt/format.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <boost/program_options.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "arbiter/communicator.hpp"
#include "command_line.hpp"

namespace {

using namespace arbiter;
using Clock = std::chrono::steady_clock;

struct Settings {
  int ranks = 2;
  std::string device = "auto";
  int cycles = 100;
  std::int64_t calls = 1'000'000;
  std::int64_t verify_each = 1000;
  int hidden = 0;
  std::int64_t tokens = 0;
  std::uint64_t seed = 1;
  double max_growth_mib = 64;
  double max_drift = 0;
};

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// ---- What must not grow ---------------------------------------------------------------------------------------------

struct Usage {
  double rss_mib = 0;
  int descriptors = 0;
  int threads = 0;
  double device_mib = 0;  ///< used on all devices, by whomever; 0 where that is not known
};

int entries_of(const char* folder) {
  int count = 0;
  DIR* directory = opendir(folder);
  if (directory == nullptr) return 0;
  while (const dirent* entry = readdir(directory)) count += entry->d_name[0] != '.' ? 1 : 0;
  closedir(directory);
  return count;
}

Usage usage_now(const std::vector<std::shared_ptr<Device>>& devices) {
  constexpr double mib = 1 << 20;
  malloc_trim(0);
  Usage usage;
  std::ifstream statm("/proc/self/statm");
  double total = 0, resident = 0;
  statm >> total >> resident;
  usage.rss_mib = resident * static_cast<double>(sysconf(_SC_PAGESIZE)) / mib;
  usage.descriptors = entries_of("/proc/self/fd");
  usage.threads = entries_of("/proc/self/task");
  for (const auto& device : devices) {
    const std::size_t free = device->free_memory_bytes();
    if (free != 0) usage.device_mib += static_cast<double>(device->properties().memory_bytes - free) / mib;
  }
  return usage;
}

std::string text_of(const Usage& usage) {
  return fmt::format("{:.0f} MiB of host memory, {:.0f} MiB of device memory, {} descriptors, {} threads",
                     usage.rss_mib, usage.device_mib, usage.descriptors, usage.threads);
}

void require_no_growth(const char* what, const Usage& before, const Usage& after, const Settings& settings) {
  std::fprintf(stderr, "%s: %s before, %s after\n", what, text_of(before).c_str(), text_of(after).c_str());
  if (after.descriptors > before.descriptors || after.threads > before.threads ||
      after.rss_mib > before.rss_mib + settings.max_growth_mib ||
      after.device_mib > before.device_mib + settings.max_growth_mib) {
    throw Failure(fmt::format("{}: something leaks: {} before, {} after", what, text_of(before), text_of(after)));
  }
}

// ---- Ranks ----------------------------------------------------------------------------------------------------------

/// Runs `body` once for every rank, each in a thread of its own. What one of them throws ends the program: the others
/// may be waiting for that rank.
void on_all_ranks(int ranks, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        body(rank);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "soak: rank %d: %s\n", rank, error.what());
        std::_Exit(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// ---- Numbers: small integers, whose sums are exact in every dtype
// -----------------------------------------------------

int contribution(int rank, std::size_t i, std::uint64_t salt) {
  return static_cast<int>((i * 7 + static_cast<std::size_t>(rank) * 3 + salt) % 11) - 5;
}
int sum_of(int ranks, std::size_t i, std::uint64_t salt) {
  int sum = 0;
  for (int rank = 0; rank < ranks; ++rank) sum += contribution(rank, i, salt);
  return sum;
}
int residual(std::size_t i) { return static_cast<int>(i % 5) - 2; }

void store(std::vector<unsigned char>& bytes, Dtype dtype, std::size_t i, float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  if (dtype == Dtype::fp32) {
    std::memcpy(bytes.data() + 4 * i, &bits, 4);
  } else {
    const auto half = static_cast<std::uint16_t>(bits >> 16U);  // exact for small integers
    std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
}
float loaded(const std::vector<unsigned char>& bytes, Dtype dtype, std::size_t i) {
  std::uint32_t bits = 0;
  if (dtype == Dtype::fp32) {
    std::memcpy(&bits, bytes.data() + 4 * i, 4);
  } else {
    std::uint16_t half = 0;
    std::memcpy(&half, bytes.data() + 2 * i, 2);
    bits = static_cast<std::uint32_t>(half) << 16U;
  }
  float value = 0;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// ---- One rank's part ------------------------------------------------------------------------------------------------

/// The same numbers on every rank: what is called next must be.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ULL + 1) {}
  std::uint64_t below(std::uint64_t limit) {
    state_ ^= state_ << 13U;
    state_ ^= state_ >> 7U;
    state_ ^= state_ << 17U;
    return (state_ >> 11U) % limit;
  }
  /// 1 to `most`, every order of magnitude as likely as the others.
  std::int64_t size(std::int64_t most) {
    std::int64_t limit = most;
    while (limit > 1 && below(2) == 0) limit /= 2;
    return static_cast<std::int64_t>(below(static_cast<std::uint64_t>(limit))) + 1;
  }

 private:
  std::uint64_t state_;
};

/// What one call is. `tokens` of a family, or (family -1) `tokens` elements through all_reduce().
struct Job {
  int family = 0;
  std::int64_t tokens = 1;
  Dtype dtype = Dtype::bf16;
  bool in_place = false;
  bool unaligned = false;  ///< on rank 1 only
};

class Soaker {
 public:
  Soaker(int rank, const Settings& settings, std::shared_ptr<Bootstrap> bootstrap, std::shared_ptr<Device> device,
         const CommunicatorOptions& options)
      : rank_(rank),
        settings_(settings),
        device_(std::move(device)),
        elements_(static_cast<std::size_t>(settings.tokens) * static_cast<std::size_t>(settings.hidden)),
        communicator_(std::move(bootstrap), device_, options) {
    const auto family = [&](const char* pattern, Dtype dtype) {
      return ProblemFamily{pattern, dtype, settings.hidden, settings.tokens, Mode::graph};
    };
    families_ = {family("allreduce", Dtype::bf16), family("allreduce", Dtype::fp32),
                 family("allreduce_residual_rmsnorm", Dtype::bf16)};
    for (const ProblemFamily& each : families_) handles_.push_back(communicator_.prepare(each));
    stream_ = device_->create_stream();
    const std::size_t bytes = (elements_ + padding) * 4;
    for (DeviceMemory* memory : {&input_, &output_, &residual_in_, &residual_out_, &norm_out_}) {
      *memory = DeviceMemory(*device_, bytes);
      device_->fill_words(memory->data(), 0, bytes / 4, stream_);
    }
    gamma_ = DeviceMemory(*device_, static_cast<std::size_t>(settings.hidden) * 2);
    std::vector<unsigned char> ones(gamma_.bytes());
    for (std::size_t i = 0; i < ones.size() / 2; ++i) store(ones, Dtype::bf16, i, 1.0F);
    device_->copy(gamma_.data(), ones.data(), ones.size(), stream_);
    std::vector<unsigned char> before(elements_ * 2);
    for (std::size_t i = 0; i < elements_; ++i) store(before, Dtype::bf16, i, static_cast<float>(residual(i)));
    device_->copy(residual_in_.data(), before.data(), before.size(), stream_);
    device_->synchronize(stream_);
  }
  ~Soaker() {
    graphs_.clear();
    if (stream_ != nullptr) device_->destroy_stream(stream_);
  }
  Soaker(const Soaker&) = delete;
  Soaker& operator=(const Soaker&) = delete;

  Job draw(Dice& dice) const {
    Job job;
    job.family = static_cast<int>(dice.below(families_.size() + 1)) - 1;
    if (job.family >= 0) {
      const ProblemFamily& family = families_[static_cast<std::size_t>(job.family)];
      job.tokens = dice.size(family.max_tokens);
      job.dtype = family.dtype;
      job.in_place = family.pattern == "allreduce" && dice.below(4) == 0;
      job.unaligned = family.pattern == "allreduce" && dice.below(8) == 0;
    } else {
      job.dtype = dice.below(2) == 0 ? Dtype::bf16 : Dtype::fp32;
      job.tokens = dice.size(static_cast<std::int64_t>(elements_));
      job.in_place = dice.below(4) == 0;
      job.unaligned = dice.below(4) == 0;
    }
    return job;
  }

  void enqueue(const Job& job) const {
    const CallTensors tensors = tensors_of(job);
    if (job.family >= 0) {
      handles_[static_cast<std::size_t>(job.family)].run(tensors, job.tokens, stream_);
    } else {
      const_cast<Communicator&>(communicator_)
          .all_reduce(tensors.input, tensors.output, job.tokens, job.dtype, stream_);
    }
  }

  /// Graphs of a few calls each, the last of which can be verified.
  void capture(Dice& dice, int count) {
    for (int i = 0; i < count; ++i) {
      std::vector<Job> jobs(dice.below(6) + 1);
      for (Job& job : jobs) job = draw(dice);
      for (Job& job : jobs) job.in_place = false;  // a replay would add up what the one before has left
      device_->begin_capture(stream_);
      for (const Job& job : jobs) enqueue(job);
      graphs_.push_back({device_->end_capture(stream_), jobs});
    }
  }
  std::size_t graphs() const { return graphs_.size(); }
  /// Calls that the replay makes.
  std::int64_t replay(std::size_t graph) const {
    graphs_[graph].graph->launch(stream_);
    return static_cast<std::int64_t>(graphs_[graph].jobs.size());
  }
  const Job& last_of(std::size_t graph) const { return graphs_[graph].jobs.back(); }

  /// New contributions, before a call that is verified.
  void fill(const Job& job, std::uint64_t salt) {
    const std::size_t count = count_of(job);
    std::vector<unsigned char>& bytes = host_;
    bytes.assign(count * element_bytes(job.dtype), 0);
    for (std::size_t i = 0; i < count; ++i) {
      store(bytes, job.dtype, i, static_cast<float>(contribution(rank_, i, salt)));
    }
    device_->copy(const_cast<void*>(tensors_of(job).input), bytes.data(), bytes.size(), stream_);
    device_->synchronize(stream_);
  }

  void verify(const Job& job, std::uint64_t salt, const std::string& what) {
    settle();
    const bool fused = job.family == 2;
    const std::size_t count = count_of(job);
    const CallTensors tensors = tensors_of(job);
    fetch(fused ? tensors.residual_out : tensors.output, count * element_bytes(job.dtype));
    for (std::size_t i = 0; i < count; ++i) {
      const auto expected = static_cast<float>(sum_of(settings_.ranks, i, salt) + (fused ? residual(i) : 0));
      require(loaded(host_, job.dtype, i), expected, 0, job, i, what);
    }
    if (!fused) return;
    fetch(tensors.norm_out, count * element_bytes(job.dtype));
    const auto hidden = static_cast<std::size_t>(settings_.hidden);
    for (std::size_t row = 0; row < count; row += hidden) {
      double squares = 0;
      const auto value = [&](std::size_t i) {
        return static_cast<double>(sum_of(settings_.ranks, row + i, salt) + residual(row + i));
      };
      for (std::size_t i = 0; i < hidden; ++i) squares += value(i) * value(i);
      const double scale = 1.0 / std::sqrt(squares / static_cast<double>(hidden) + 1e-6);
      for (std::size_t i = 0; i < hidden; ++i) {
        require(loaded(host_, job.dtype, row + i), static_cast<float>(value(i) * scale), 0.01F, job, row + i, what);
      }
    }
  }

  /// Waits for what was called, and asks whether every rank came.
  void settle() {
    device_->synchronize(stream_);
    communicator_.check();
  }
  const Communicator& communicator() const { return communicator_; }

 private:
  static constexpr std::size_t padding = 16;

  std::size_t count_of(const Job& job) const {
    const auto tokens = static_cast<std::size_t>(job.tokens);
    return job.family >= 0 ? tokens * static_cast<std::size_t>(settings_.hidden) : tokens;
  }
  CallTensors tensors_of(const Job& job) const {
    const std::size_t shift = job.unaligned && rank_ == 1 ? element_bytes(job.dtype) : 0;
    CallTensors tensors;
    auto* const output = static_cast<unsigned char*>(output_.data()) + shift;
    tensors.input = job.in_place ? output : static_cast<unsigned char*>(input_.data()) + shift;
    tensors.output = output;
    if (job.family != 2) return tensors;
    tensors.output = nullptr;
    tensors.residual_in = residual_in_.data();
    tensors.residual_out = residual_out_.data();
    tensors.gamma = gamma_.data();
    tensors.norm_out = norm_out_.data();
    return tensors;
  }
  void fetch(const void* from, std::size_t bytes) {
    host_.assign(bytes, 0);
    device_->copy(host_.data(), from, bytes, stream_);
    device_->synchronize(stream_);
  }
  void require(float got, float expected, float tolerance, const Job& job, std::size_t i,
               const std::string& what) const {
    if (std::fabs(got - expected) <= tolerance * std::fabs(expected)) return;
    throw Failure(fmt::format(
        "{}: rank {}: element {} of {} tokens ({} {}{}{}) is {}; expected {}", what, rank_, i, job.tokens,
        job.family >= 0 ? families_[static_cast<std::size_t>(job.family)].pattern : "any", to_string(job.dtype),
        job.in_place ? ", in place" : "", job.unaligned ? ", unaligned" : "", got, expected));
  }

  struct Captured {
    std::unique_ptr<Graph> graph;
    std::vector<Job> jobs;
  };

  int rank_;
  const Settings& settings_;
  std::shared_ptr<Device> device_;
  std::size_t elements_;
  Communicator communicator_;
  std::vector<ProblemFamily> families_;
  std::vector<PreparedFamily> handles_;
  StreamHandle stream_ = nullptr;
  DeviceMemory input_, output_, residual_in_, residual_out_, norm_out_, gamma_;
  std::vector<Captured> graphs_;
  std::vector<unsigned char> host_;
};

// ---- The two parts --------------------------------------------------------------------------------------------------

class Soak {
 public:
  explicit Soak(const Settings& settings) : settings_(settings) {
    const bool cuda = settings.device == "cuda" || (settings.device == "auto" && cuda_device_count() >= settings.ranks);
    if (cuda && cuda_device_count() < settings.ranks) {
      throw Unavailable(fmt::format("{} ranks need as many GPUs; {} are visible", settings.ranks, cuda_device_count()));
    }
    if (settings_.hidden == 0) settings_.hidden = cuda ? 8192 : 256;
    if (settings_.tokens == 0) settings_.tokens = cuda ? 512 : 4;
    for (int rank = 0; rank < settings.ranks; ++rank) {
      devices_.push_back(cuda ? make_cuda_device(rank) : std::shared_ptr<Device>(make_cpu_device(rank)));
    }
  }

  void run() {
    create_and_destroy();
    call();
    std::cout << fmt::format(
        "{{\"device\": \"{}\", \"ranks\": {}, \"hidden\": {}, \"max_tokens\": {}, \"cycles\": {}, \"calls\": {}, "
        "\"verified\": {}, \"mismatches\": 0, \"cycle_ms\": {:.2f}, \"call_us_by_tenth\": [{}], \"before\": {}, "
        "\"after\": {}}}\n",
        devices_[0]->properties().name, settings_.ranks, settings_.hidden, settings_.tokens, settings_.cycles, done_,
        verified_, cycle_ms_, tenths(), json(before_), json(after_));
  }

 private:
  std::vector<std::shared_ptr<Bootstrap>> bootstraps() const {
    std::vector<std::shared_ptr<Bootstrap>> shared;
    for (auto& each : make_in_process_bootstraps(settings_.ranks)) shared.push_back(std::move(each));
    return shared;
  }

  void create_and_destroy() {
    if (settings_.cycles == 0) return;
    const int warm = std::min(10, settings_.cycles / 2);
    const auto start = Clock::now();
    Usage before;
    for (int cycle = 0; cycle < settings_.cycles; ++cycle) {
      if (cycle == warm) before = usage_now(devices_);
      const auto meeting = bootstraps();
      on_all_ranks(settings_.ranks, [&](int rank) {
        const auto index = static_cast<std::size_t>(rank);
        devices_[index]->activate();
        Soaker soaker(rank, settings_, meeting[index], devices_[index], options_);
        Dice dice(settings_.seed + static_cast<std::uint64_t>(cycle));
        const Job job = soaker.draw(dice);
        soaker.fill(job, static_cast<std::uint64_t>(cycle));
        soaker.enqueue(job);
        soaker.verify(job, static_cast<std::uint64_t>(cycle), fmt::format("cycle {}", cycle));
      });
    }
    cycle_ms_ = std::chrono::duration<double, std::milli>(Clock::now() - start).count() / settings_.cycles;
    require_no_growth("create and destroy", before, usage_now(devices_), settings_);
  }

  void call() {
    if (settings_.calls == 0) return;
    const auto meeting = bootstraps();
    std::barrier<> together(settings_.ranks);
    on_all_ranks(settings_.ranks, [&](int rank) {
      const auto index = static_cast<std::size_t>(rank);
      devices_[index]->activate();
      Soaker soaker(rank, settings_, meeting[index], devices_[index], options_);
      Dice dice(settings_.seed);
      together.arrive_and_wait();  // nobody allocates while another one captures
      soaker.capture(dice, 16);
      soaker.settle();
      together.arrive_and_wait();
      std::int64_t done = 0, verified = 0, since = 0, next_check = 0;
      const std::int64_t warm = settings_.calls / 20;  // what is allocated once is allocated by then
      int tenth = 0;
      bool sampled = false;
      auto start = Clock::now();
      std::int64_t begin = 0;
      while (done < settings_.calls) {
        const bool graph = dice.below(5) < 2;
        const std::size_t which = dice.below(soaker.graphs());
        const Job job = graph ? soaker.last_of(which) : soaker.draw(dice);
        const bool check = done >= next_check;
        const auto salt = static_cast<std::uint64_t>(done);
        if (check) {
          soaker.settle();
          soaker.fill(job, salt);
          if (graph) together.arrive_and_wait();
        }
        if (graph) {
          done += soaker.replay(which);
        } else {
          soaker.enqueue(job);
          ++done;
        }
        if (check) {
          soaker.verify(job, salt, fmt::format("call {}", done));
          ++verified;
          next_check += settings_.verify_each;
        } else if (++since % 256 == 0) {
          soaker.settle();
        }
        if (!sampled && done >= warm) {
          sampled = true;
          soaker.settle();
          together.arrive_and_wait();
          if (rank == 0) before_ = usage_now(devices_);
          together.arrive_and_wait();
        }
        if (done >= settings_.calls * (tenth + 1) / 10) {
          soaker.settle();
          const double us = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
          if (rank == 0) {
            us_by_tenth_.push_back(us / static_cast<double>(done - begin));
            std::fprintf(stderr, "%lld calls, %lld verified, %.2f us each\n", static_cast<long long>(done),
                         static_cast<long long>(verified), us_by_tenth_.back());
          }
          ++tenth;
          begin = done;
          start = Clock::now();
        }
      }
      soaker.settle();
      together.arrive_and_wait();
      if (rank == 0) {
        after_ = usage_now(devices_);
        done_ = done;
        verified_ = verified;
        for (const CallCount& count : soaker.communicator().call_counts()) {
          std::fprintf(stderr, "%12llu  %s %s  %s (%s)\n", static_cast<unsigned long long>(count.calls),
                       count.family.pattern.c_str(), std::string(to_string(count.family.dtype)).c_str(),
                       count.candidate.c_str(), std::string(to_string(count.rule)).c_str());
        }
      }
      together.arrive_and_wait();
    });
    require_no_growth("calls", before_, after_, settings_);
    require_no_drift();
  }

  void require_no_drift() const {
    if (settings_.max_drift <= 0 || us_by_tenth_.size() < 3) return;
    std::vector<double> sorted(us_by_tenth_.begin() + 1, us_by_tenth_.end());
    std::sort(sorted.begin(), sorted.end());
    const double median = sorted[sorted.size() / 2];
    if (us_by_tenth_.back() <= median * settings_.max_drift) return;
    throw Failure(fmt::format("calls become slower: {:.2f} us in the last tenth, a median of {:.2f} before",
                              us_by_tenth_.back(), median));
  }

  std::string tenths() const {
    std::string text;
    for (const double us : us_by_tenth_) text += fmt::format("{}{:.2f}", text.empty() ? "" : ", ", us);
    return text;
  }
  static std::string json(const Usage& usage) {
    return fmt::format("{{\"host_mib\": {:.1f}, \"device_mib\": {:.1f}, \"descriptors\": {}, \"threads\": {}}}",
                       usage.rss_mib, usage.device_mib, usage.descriptors, usage.threads);
  }

  Settings settings_;
  CommunicatorOptions options_;
  std::vector<std::shared_ptr<Device>> devices_;
  Usage before_, after_;
  std::vector<double> us_by_tenth_;
  double cycle_ms_ = 0;
  std::int64_t done_ = 0, verified_ = 0;
};

Settings read_settings(int argc, char** argv) {
  namespace po = boost::program_options;
  Settings s;
  po::options_description known(
      "Creates and destroys communicators, then makes many mixed calls, and checks all of it");
  auto add = known.add_options();
  add("help", "this text");
  add("ranks", po::value(&s.ranks)->default_value(s.ranks), "threads of this process, one for each GPU");
  add("device", po::value(&s.device)->default_value(s.device), "auto, cuda or cpu");
  add("cycles", po::value(&s.cycles)->default_value(s.cycles), "communicators to create and destroy");
  add("calls", po::value(&s.calls)->default_value(s.calls), "calls of one communicator");
  add("verify-each", po::value(&s.verify_each)->default_value(s.verify_each), "every so many calls one is checked");
  add("hidden", po::value(&s.hidden), "elements of a row (8192; CPU device: 256)");
  add("tokens", po::value(&s.tokens), "largest number of rows (512; CPU device: 4)");
  add("seed", po::value(&s.seed)->default_value(s.seed), "decides what is called");
  add("max-growth-mib", po::value(&s.max_growth_mib)->default_value(s.max_growth_mib),
      "memory that may be held more at the end than after the first calls");
  add("max-drift", po::value(&s.max_drift)->default_value(s.max_drift),
      "times that the last tenth of the calls may take of the median tenth; 0: no matter");
  bench::read_command_line(argc, argv, known);
  if (s.ranks < 2 || s.verify_each < 1 || s.cycles < 0 || s.calls < 0) {
    throw InvalidArgument("--ranks must be 2 or more, --verify-each 1 or more, --cycles and --calls 0 or more");
  }
  return s;
}

}  // namespace

int main(int argc, char** argv) {
  // Every thread of a cycle would get a heap of its own from glibc, which never gives it back: that is no leak.
  mallopt(M_ARENA_MAX, 1);
  try {
    Soak(read_settings(argc, argv)).run();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "soak: %s\n", error.what());
    return 1;
  }
}
