#include "memory/multicast_probe.hpp"

#include <fmt/format.h>

#include <array>
#include <memory>
#include <vector>

#include "arbiter/error.hpp"
#include "arbiter/vocabulary.hpp"
#include "candidate/abi.hpp"
#include "candidate/helper_kernel.hpp"
#include "group/collective.hpp"

namespace arbiter {
namespace {

using Words = std::array<std::uint32_t, 4>;

// The vectors that every rank stores to all; behind them the vector that is summed, and the sum.
constexpr std::size_t addends_at = arbiter_abi::max_world * sizeof(Words);
constexpr std::size_t sums_at = addends_at + sizeof(Words);
constexpr std::size_t probe_bytes = sums_at + sizeof(Words);
constexpr unsigned first_word = 0x5A000001U;

class Probe {
 public:
  Probe(Device& device, Bootstrap& bootstrap, SymmetricProvider provider, KernelCache& cache)
      : device_(device), bootstrap_(bootstrap) {
    memory_ = allocate_symmetric(device, bootstrap, provider, probe_bytes, true);
    everywhere(bootstrap, "compile the probe of multicast memory", [&] {
      kernel_ = load_helper_kernel(device, cache, "probe_multicast", "probe of multicast memory", bootstrap.rank(),
                                   bootstrap.size());
      stream_ = device.create_stream();
    });
  }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;
  ~Probe() { device_.destroy_stream(stream_); }

  void run() {
    everywhere(bootstrap_, "store to multicast memory", [&] {
      const std::array<float, 4> addend = {static_cast<float>(bootstrap_.rank() + 1), 0.5F, -1.0F, 0.0F};
      device_.copy(at(addends_at), addend.data(), sizeof(addend), stream_);
      launch(0);
      device_.synchronize(stream_);
    });
    everywhere(bootstrap_, "load from multicast memory", [&] {
      for (int r = 0; r < bootstrap_.size(); ++r) {
        const unsigned word = first_word + static_cast<unsigned>(r);
        if (read<Words>(static_cast<std::size_t>(r) * sizeof(Words)) != Words{word, word, word, word}) {
          throw Unavailable(fmt::format("what rank {} stored did not arrive", r));
        }
      }
      launch(1);
      const auto n = static_cast<float>(bootstrap_.size());
      if (read<std::array<float, 4>>(sums_at) != std::array<float, 4>{n * (n + 1) / 2, n / 2, -n, 0}) {
        throw Unavailable("the sum over all ranks is wrong");
      }
    });
  }

 private:
  void* at(std::size_t offset) const { return static_cast<unsigned char*>(memory_->local()) + offset; }

  template <class T>
  T read(std::size_t offset) {
    T value{};
    device_.copy(&value, at(offset), sizeof(value), stream_);
    device_.synchronize(stream_);
    return value;
  }

  void launch(unsigned step) {
    arbiter_abi::Arguments arguments{};
    arguments.multicast = static_cast<unsigned char*>(memory_->multicast());
    arguments.output = at(sums_at);
    arguments.iterations = step;
    arguments.vectors = first_word;
    Launch shape;
    shape.threads = 32;
    device_.launch(*kernel_, shape, &arguments, sizeof(arguments), stream_);
  }

  Device& device_;
  Bootstrap& bootstrap_;
  std::unique_ptr<SymmetricMemory> memory_;
  std::unique_ptr<Kernel> kernel_;
  StreamHandle stream_ = nullptr;
};

}  // namespace

std::string probe_multicast(Device& device, Bootstrap& bootstrap, SymmetricProvider provider, KernelCache& cache) {
  std::string reason;
  try {
    Probe(device, bootstrap, provider, cache).run();
  } catch (const Poisoned&) {
    throw;
  } catch (const Error& error) {
    reason = error.what();
  }
  // Each rank has its own words for it; the first rank's count.
  for (const std::string& theirs : bootstrap.allgather(reason)) {
    if (!theirs.empty()) return theirs;
  }
  return {};
}

}  // namespace arbiter
