#include "memory/multicast_probe.hpp"

#include <fmt/format.h>

#include <array>
#include <memory>
#include <vector>

#include "arbiter/error.hpp"
#include "arbiter/generator/digest.hpp"
#include "arbiter/generator/render.hpp"
#include "arbiter/vocabulary.hpp"
#include "candidate/abi.hpp"
#include "group/collective.hpp"

namespace arbiter {
namespace {

using Words = std::array<std::uint32_t, 4>;

// The vectors that every rank stores to all; behind them the vector that is summed, and the sum.
constexpr std::size_t addends_at = arbiter_abi::max_world * sizeof(Words);
constexpr std::size_t sums_at = addends_at + sizeof(Words);
constexpr std::size_t probe_bytes = sums_at + sizeof(Words);
constexpr unsigned first_word = 0x5A000001U;

Source probe_source(DeviceKind kind, int rank, int ranks) {
  const bool cuda = kind == DeviceKind::cuda;
  Context context;
  // Of the primitives, without those that only quantisation needs.
  context.keys = {{"cuda", cuda ? "1" : ""}, {"host", cuda ? "" : "1"}, {"quantised", "0"}};
  context.aliases = {{"primitives", cuda ? "device/primitives.cuh" : "host/primitives.h"}};
  for (int r = cuda ? rank : 0; r < (cuda ? rank + 1 : ranks); ++r) {
    context.lists["ranks"].push_back({{"rank", std::to_string(r)}});
  }
  Source source;
  source.text = render("probe_multicast", context);
  source.entry = cuda ? "arbiter_kernel" : "arbiter_kernel_rank";
  source.hash = sha256_hex(source.text);
  return source;
}

class Probe {
 public:
  Probe(Device& device, Bootstrap& bootstrap, SymmetricProvider provider, KernelCache& cache)
      : device_(device), bootstrap_(bootstrap) {
    memory_ = allocate_symmetric(device, bootstrap, provider, probe_bytes, true);
    everywhere(bootstrap, "compile the probe of multicast memory", [&] {
      const std::unique_ptr<Compiler> compiler = device.kind() == DeviceKind::cpu
                                                     ? make_host_compiler()
                                                     : make_nvrtc_compiler(device.properties().compile_target);
      const Source source = probe_source(device.kind(), bootstrap.rank(), bootstrap.size());
      kernel_ = device.load(cache.get(source, *compiler, "probe of multicast memory"), bootstrap.rank());
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
