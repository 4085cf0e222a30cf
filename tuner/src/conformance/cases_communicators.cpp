// Several communicators on the same devices, and communicators that come and go.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "arbiter/error.hpp"
#include "conformance/case_list.hpp"
#include "conformance/subgroup.hpp"
#include "measure/stream.hpp"
#include "tune/outcome.hpp"
#include "verify/compare.hpp"
#include "verify/tensors.hpp"

namespace arbiter::tuning {
namespace {

constexpr std::int64_t most_tokens = 96;

/// One of the communicators: its members, and on a member the communicator with tensors and the sum it must give.
struct Party {
  ConformanceBench& bench;
  ProblemFamily shape;
  std::uint64_t seed;
  Subgroup group;
  std::unique_ptr<Communicator> communicator;
  std::optional<Tensors> tensors;
  Bytes expected;

  /// Collective over all ranks.
  Party(ConformanceBench& the_bench, std::vector<int> members, const ProblemFamily& the_shape, std::uint64_t the_seed)
      : bench(the_bench), shape(the_shape), seed(the_seed), group(bench.group().bootstrap(), std::move(members)) {
    group.together([&](std::shared_ptr<Bootstrap> bootstrap) {
      communicator = bench.make_communicator(std::move(bootstrap));
      communicator->prepare({&shape, 1});
    });
  }

  void fill(StreamHandle stream) {
    if (!group.member()) return;
    const TensorShapes shapes(bench.group().catalogue().pattern(shape.pattern), shape.dtype, shape.hidden);
    const std::int64_t rows = tile_rows(shape.hidden, shape.dtype, most_tokens);
    InputChoice choice;
    choice.content = Content::mixed;
    choice.seed = seed;
    std::vector<Bytes> contributions;
    for (const int member : group.members()) {
      const Inputs inputs = make_inputs(shapes.composition, shape.dtype, rows, shape.hidden, member, choice);
      contributions.push_back(inputs.contribution);
      if (member != bench.group().rank()) continue;
      tensors.emplace(bench.group().device(), shapes, most_tokens);
      tensors->load(inputs, most_tokens, stream);
      tensors->poison(most_tokens, stream);
      bench.group().device().synchronize(stream);
    }
    expected = sum_in_rank_order(contributions, shape.dtype);
  }

  void run(std::int64_t tokens, StreamHandle stream) {
    if (communicator) communicator->run(tensors->call(tokens), stream);
  }

  std::string difference(HostBuffer& host, StreamHandle stream) const {
    if (!communicator) return {};
    communicator->check();
    const TensorShapes& shapes = tensors->shapes();
    ExactComparison comparison(expected, shapes.dtype, static_cast<std::size_t>(shapes.hidden));
    comparison.visit(0, tensors->read(Tensor::output, 0, shapes.bytes(Tensor::output, most_tokens), host, stream));
    return comparison.verdict();
  }

  void destroy() {
    group.together([&](const std::shared_ptr<Bootstrap>&) { communicator.reset(); });
  }
};

Verification interleaved(ConformanceBench& bench, const ProblemFamily& shape, int rounds) {
  Device& device = bench.group().device();
  const int size = bench.group().size();
  const Stream stream(device);
  HostBuffer host(device, 1 << 20);
  // All but the last, and all but the first in reverse order; two ranks are both in both.
  std::vector<int> forward(static_cast<std::size_t>(std::max(size - 1, 2)));
  std::iota(forward.begin(), forward.end(), 0);
  std::vector<int> backward(forward.size());
  for (std::size_t i = 0; i < backward.size(); ++i) backward[i] = size - 1 - static_cast<int>(i);
  Party first(bench, forward, shape, 11), second(bench, backward, shape, 22);
  Outcome outcome = together(bench.group(), stream, [&]() -> Outcome {
    first.fill(stream);
    second.fill(stream);
    return {};
  });
  if (!outcome.ok()) return {status_of(outcome.severity), outcome.reason};
  outcome = together(bench.group(), stream, [&]() -> Outcome {
    for (int round = 0; round < rounds; ++round) {
      const std::int64_t tokens = round + 1 == rounds ? most_tokens : 1 + std::int64_t{round} * 29 % most_tokens;
      first.run(tokens, stream);
      second.run(most_tokens + 1 - tokens, stream);
    }
    second.run(most_tokens, stream);
    device.synchronize(stream);
    for (const Party* party : {&first, &second}) {
      const std::string difference = party->difference(host, stream);
      if (difference.empty()) continue;
      return {Severity::wrong, std::string(party == &first ? "first" : "second") + " communicator: " + difference};
    }
    return {};
  });
  if (!outcome.ok()) return {status_of(outcome.severity), outcome.reason};
  first.destroy();
  second.destroy();
  return {};
}

/// What a process holds that a forgotten release would show in.
struct Held {
  std::size_t descriptors = 0;
  std::size_t mappings = 0;
  std::size_t device_memory_free = 0;  ///< 0 if not known

  explicit Held(Device& device) : device_memory_free(device.free_memory_bytes()) {
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++descriptors;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) ++mappings;
  }
};

std::string leak(const Held& before, const Held& after, std::size_t times) {
  const auto grown = [&](std::size_t was, std::size_t is) { return is > was + times / 2; };
  const auto text = [&](const char* what, std::size_t was, std::size_t is) {
    return fmt::format("after {} communicators the process holds {} {}, before them {}", times, is, what, was);
  };
  if (grown(before.descriptors, after.descriptors)) return text("descriptors", before.descriptors, after.descriptors);
  if (grown(before.mappings, after.mappings)) return text("mappings", before.mappings, after.mappings);
  constexpr std::size_t slack =
      32 << 20;  // a leak of one allocation each time is larger: it takes whole pages of 2 MiB
  if (after.device_memory_free + slack < before.device_memory_free) {
    return text("free bytes of device memory", before.device_memory_free, after.device_memory_free);
  }
  return {};
}

Verification created_and_destroyed(ConformanceBench& bench, const ProblemFamily& shape, int times) {
  Device& device = bench.group().device();
  Bootstrap& bootstrap = bench.group().bootstrap();
  const Stream stream(device);
  std::vector<int> everyone(static_cast<std::size_t>(bootstrap.size()));
  std::iota(everyone.begin(), everyone.end(), 0);
  const int warm = std::max(2, times / 10);
  std::optional<Held> before;
  HostBuffer host(device, 1 << 20);
  for (int i = 0; i < times; ++i) {
    if (i == warm) {
      bootstrap.barrier();
      before.emplace(device);
      bootstrap.barrier();
    }
    Party party(bench, everyone, shape, static_cast<std::uint64_t>(i + 1));
    Outcome outcome = together(bench.group(), stream, [&]() -> Outcome {
      party.fill(stream);
      return {};
    });
    if (outcome.ok()) {
      outcome = together(bench.group(), stream, [&]() -> Outcome {
        party.run(most_tokens, stream);
        device.synchronize(stream);
        const std::string difference = party.difference(host, stream);
        return difference.empty() ? Outcome{} : Outcome{Severity::wrong, difference};
      });
    }
    if (!outcome.ok())
      return {status_of(outcome.severity), fmt::format("{} communicators later: {}", i, outcome.reason)};
    party.destroy();
  }
  bootstrap.barrier();
  const Held after(device);
  bootstrap.barrier();
  const std::string what = leak(*before, after, static_cast<std::size_t>(times - warm));
  const Outcome worst = agree(bootstrap, what.empty() ? Outcome{} : Outcome{Severity::wrong, what});
  return {status_of(worst.severity), worst.reason};
}

}  // namespace

void add_communicator_cases(CaseList& list) {
  constexpr std::string_view area = "several communicators";
  if (!list.area_wanted(area) || !list.options().algorithms.empty()) return;
  const ProblemFamily shape = list.family(plain_pattern, Dtype::bf16, list.hidden(), most_tokens);
  const bool shared_device = list.group().capabilities().ranks_on_device > 1 && list.group().size() > 2;
  const int rounds = list.repeats(200, 20);
  list.add_case(list.describe(area, shape, fmt::format("two with different ranks, {} calls each in turn", rounds)),
                shared_device ? "ranks of other groups on one GPU would take each other's room" : "",
                [shape, rounds](ConformanceBench& bench) { return interleaved(bench, shape, rounds); });
  const int times = list.full() || list.group().size() == 2 ? 100 : 10;
  list.add_case(list.describe(area, shape, fmt::format("created, used and destroyed {} times", times)),
                list.group().capabilities().symmetric_reason,
                [shape, times](ConformanceBench& bench) { return created_and_destroyed(bench, shape, times); });
}

}  // namespace arbiter::tuning
