#include "conformance/link_check_world.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <numeric>
#include <set>
#include <thread>
#include <utility>

#include "arbiter/error.hpp"
#include "cpu/stream.hpp"

namespace arbiter {
namespace {

// Small shapes: what matters is the order of things, and a seed should take a millisecond. Flat messages have one
// vector a token; rows are spread over a cluster of two blocks or held by one. The longest messages go around all
// rotating buffers.
constexpr int flat_hidden = 8;
constexpr std::int64_t flat_tokens = 160;
constexpr std::int64_t rows_tokens = 12;
constexpr std::int64_t warp_tokens = 320;  // for each rank that has a row of its own in a tile
constexpr int sms = 3;
constexpr std::size_t most_variants = 4;  // of the algorithm
// Of virtual time: a run that ends takes a millisecond or two.
constexpr std::chrono::milliseconds wait_deadline{20};

constexpr const char* flat_pattern = "allreduce";
constexpr const char* rows_pattern = "allreduce_residual";

/// Collective set-up needs a thread for each rank. Rethrows the exception of the lowest rank.
void on_all_ranks(std::size_t ranks, const std::function<void(std::size_t)>& body) {
  std::vector<std::exception_ptr> failures(ranks);
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        body(rank);
      } catch (...) {
        failures[rank] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

std::vector<Variant> variants_of(const Group& group, const AlgorithmEntry& entry, const ProblemFamily& family) {
  std::vector<Variant> all = enumerate(group.catalogue(), family.pattern, family.dtype, group.size(), family.hidden,
                                       group.capabilities().limits, entry.backend)
                                 .variants;
  std::erase_if(all, [&](const Variant& variant) { return variant.algorithm != entry.name; });
  return all;
}

/// A few variants that have as many different values of as many axes as they can.
std::vector<Variant> spread(const std::vector<Variant>& all) {
  std::vector<Variant> chosen;
  std::set<std::pair<std::string, int>> covered;
  while (chosen.size() < most_variants) {
    const Variant* best = nullptr;
    std::size_t most_new = 0;
    for (const Variant& variant : all) {
      std::size_t fresh = 0;
      for (const auto& [axis, value] : variant.parameters) fresh += covered.count({axis, value}) == 0 ? 1 : 0;
      if (fresh <= most_new) continue;
      best = &variant;
      most_new = fresh;
    }
    if (best == nullptr) break;
    chosen.push_back(*best);
    for (const auto& [axis, value] : best->parameters) covered.emplace(axis, value);
  }
  return chosen;
}

/// Half precision of an integer below 2048, as bits.
std::uint16_t half(int value) {
  const auto magnitude = static_cast<unsigned>(std::abs(value));
  if (magnitude == 0) return 0;
  const auto exponent = static_cast<unsigned>(std::bit_width(magnitude) - 1);
  const unsigned fraction = (magnitude << (10 - exponent)) & 0x3FFU;
  return static_cast<std::uint16_t>((value < 0 ? 0x8000U : 0U) | ((exponent + 15) << 10) | fraction);
}
constexpr std::uint16_t negative_zero = 0x8000;

/// What a rank contributes: integers, exact in any order, and zeros of both signs on one rank, on all, or as a sum, so
/// that words occur that mean "nothing has arrived".
struct Element {
  int value = 0;
  bool negative_zero = false;
};
Element element(std::uint64_t data, std::size_t call, std::size_t rank, std::size_t ranks, std::size_t index) {
  SplitMix mixer(data + call * 0x632BE59BD9B4E019ULL + index * 0xD1342543DE82EF95ULL);
  const std::uint64_t common = mixer.next();
  const int value = static_cast<int>((common >> 8) % 41) - 20;
  switch (common % 8) {
    case 0:
      return {0, true};
    case 1:
      return (common >> 3) % 4 == rank ? Element{0, true} : Element{value};
    case 2:
      return {rank + 1 == ranks ? -value * static_cast<int>(rank) : value};
    default:
      return {value + static_cast<int>(rank)};
  }
}

/// What 8 bits carry exactly, added up and sent again, also by a second call on the first one's output: small integers
/// whose sums are smaller still. Four zeros of which the last is negative are a word that means "nothing has arrived".
Element small_element(std::uint64_t data, std::size_t call, std::size_t rank, std::size_t ranks, std::size_t index) {
  SplitMix mixer(data + call * 0x632BE59BD9B4E019ULL + index * 0xD1342543DE82EF95ULL);
  const std::uint64_t common = mixer.next();
  if (common % 4 == 0) return {0, index % 4 == 3};
  const int total = static_cast<int>((common >> 4) % 7) - 3;
  const int mine = static_cast<int>((common >> 8) % 13) - 6;
  if (rank == 0) return {mine};
  // Of three ranks, the one in the middle adds 1, which the last takes away; of four, those in the middle cancel.
  if (rank + 1 == ranks) return {total - mine - (ranks == 3 ? 1 : 0)};
  return {ranks == 3 ? 1 : rank == 1 ? 2 : -2};
}

}  // namespace

LinkWorld::LinkWorld(const LinkCheckOptions& options, std::uint64_t push_buffer_bytes)
    : ranks_(static_cast<std::size_t>(options.world)) {
  const Catalogue& given = options.catalogue ? *options.catalogue : Catalogue::builtin();
  const AlgorithmEntry& tested = given.algorithm(options.backend, options.algorithm);
  eight_bits_ = tested.numerics == Numerics::fp8_transport;
  // Nothing else needs a warp, but barriers want a thread for each rank.
  const int threads = eight_bits_ ? 32 : options.world <= 4 ? 4 : 16;
  const auto catalogue = std::make_shared<const Catalogue>(given.with_axis("threads", {threads}));
  family_ = {flat_pattern, Dtype::fp16, flat_hidden,
             eight_bits_ ? warp_tokens * (tested.two_shot() ? options.world : 1) : flat_tokens, Mode::graph};
  TargetLimits limits;
  limits.capabilities = {"multicast"};  // what the group really has is asked when it loads
  const AlgorithmEntry& entry = catalogue->algorithm(options.backend, options.algorithm);
  const std::vector<Variant> found =
      enumerate(*catalogue, family_.pattern, family_.dtype, options.world, family_.hidden, limits, options.backend)
          .variants;
  rows_ = std::none_of(found.begin(), found.end(), [&](const Variant& v) { return v.algorithm == entry.name; });
  // A row of one and a half blocks: wide enough for a cluster of two, and not too narrow.
  if (rows_) family_ = {rows_pattern, Dtype::fp16, threads * 8 * 3 / 2, rows_tokens, Mode::graph};

  std::vector<std::unique_ptr<Bootstrap>> bootstraps = make_in_process_bootstraps(options.world);
  for (std::size_t r = 0; r < ranks_.size(); ++r) ranks_[r].bootstrap = std::move(bootstraps[r]);
  try {
    on_all_ranks(ranks_.size(), [&](std::size_t r) { set_up(ranks_[r], options, push_buffer_bytes, catalogue); });
  } catch (...) {
    on_all_ranks(ranks_.size(), [&](std::size_t r) { ranks_[r] = Rank{}; });
    throw;
  }
  expected_.resize(most_calls);
  std::vector<int> order(ranks_.size());
  std::iota(order.begin(), order.end(), 0);
  memory_ = std::make_unique<LinkMemory>(std::move(order), owned_ranges());
}

LinkWorld::~LinkWorld() {
  // Groups wait for each other at the end unless they are poisoned, which some may be and others not.
  for (Rank& self : ranks_) *self.group->workspace().fault() = arbiter_abi::FaultRecord{};
  on_all_ranks(ranks_.size(), [&](std::size_t r) {
    ranks_[r].candidates.clear();
    ranks_[r].group.reset();
  });
}

/// The algorithm's own variants first, then one of every other algorithm.
std::vector<CandidateSpec> LinkWorld::choose(const Group& group, const LinkCheckOptions& options) {
  std::vector<CandidateSpec> chosen;
  const auto add = [&](const Variant& variant) {
    CandidateSpec spec;
    spec.kernel = variant;
    chosen.push_back(spec);
  };
  const AlgorithmEntry& own = group.catalogue().algorithm(options.backend, options.algorithm);
  std::vector<Variant> variants = variants_of(group, own, family_);
  if (variants.empty()) {
    throw Unsupported(fmt::format("'{}' has no variant for {} ranks on the CPU device", options.name(), options.world));
  }
  for (const Variant& variant : spread(variants)) add(variant);
  const std::size_t own_count = chosen.size();
  if (group.rank() == 0) own_candidates_ = own_count;
  if (options.alone) return chosen;
  for (const AlgorithmEntry& entry : group.catalogue().algorithms()) {
    if (!entry.exchange || &entry == &own) continue;
    if (const std::vector<Variant> others = variants_of(group, entry, family_); !others.empty()) add(others.front());
  }
  return chosen;
}

void LinkWorld::set_up(Rank& self, const LinkCheckOptions& options, std::uint64_t push_buffer_bytes,
                       const std::shared_ptr<const Catalogue>& catalogue) {
  CpuDeviceOptions device;
  device.sm_count = sms;
  self.device = make_cpu_device(self.bootstrap->rank(), device);
  GroupOptions group;
  group.variables = options.variables;
  group.variables.timeout = wait_deadline;
  group.variables.first_timeout = wait_deadline;
  group.variables.multicast = true;
  group.nccl = false;
  group.cache = options.cache;
  group.push_buffer_bytes = push_buffer_bytes;
  group.first_epoch = first_epoch;
  group.catalogue = catalogue;
  group.templates = options.templates;
  self.group = make_group(self.bootstrap, self.device, group);
  std::vector<LoadRequest> requests;
  for (const CandidateSpec& spec : choose(*self.group, options)) requests.push_back({spec, family_});
  std::vector<LoadResult> loaded = load_on_all_ranks(*self.group, requests);
  WorkspaceNeeds needs;
  for (LoadResult& result : loaded) {
    if (!result.candidate) throw Unsupported(result.reason);
    RunnableCandidate& candidate = *result.candidate;
    const auto& parameters = candidate.spec().kernel->parameters;
    const auto axis = parameters.find("cluster");
    const int cluster = axis == parameters.end() ? 1 : axis->second;
    const int most = candidate.block_limit();
    if (self.bootstrap->rank() == 0) {
      clusters_.push_back(cluster);
      most_blocks_.push_back(most);
    }
    for (int blocks = cluster; blocks <= most; blocks += cluster) {
      candidate.agreed(blocks);
      const WorkspaceNeeds one = candidate.needs(family_.max_tokens);
      needs.push_bytes = std::max(needs.push_bytes, one.push_bytes);
      needs.staging_bytes = std::max(needs.staging_bytes, one.staging_bytes);
    }
    self.candidates.push_back(std::move(result.candidate));
  }
  self.group->reserve(needs.push_bytes, needs.staging_bytes);

  const std::size_t bytes =
      static_cast<std::size_t>(family_.max_tokens) * static_cast<std::size_t>(family_.hidden) * sizeof(std::uint16_t);
  for (std::size_t call = 0; call < most_calls; ++call) {
    self.buffers.push_back(
        {DeviceMemory(*self.device, bytes), DeviceMemory(*self.device, bytes), DeviceMemory(*self.device, bytes)});
  }
  self.stream = self.device->create_stream();
  self.bootstrap->barrier();  // every workspace is ready
  const auto* start = static_cast<const unsigned char*>(self.group->workspace().peer(self.bootstrap->rank()));
  self.fresh.assign(start, start + self.group->workspace().layout().total_bytes);
}

Call LinkWorld::call_of(Rank& self, const std::vector<LinkCall>& calls, std::size_t call) const {
  Buffers& buffers = self.buffers[call];
  Call result;
  result.pattern = family_.pattern;
  result.dtype = family_.dtype;
  result.hidden = family_.hidden;
  result.tokens = calls[call].tokens;
  result.input = calls[call].chained ? self.buffers[call - 1].output.data() : buffers.input.data();
  if (rows_) {
    result.residual_in = calls[call].in_place ? buffers.output.data() : buffers.residual.data();
    result.residual_out = buffers.output.data();
  } else {
    result.output = buffers.output.data();
    if (calls[call].in_place) result.input = buffers.output.data();
  }
  return result;
}

void LinkWorld::prepare_inputs(const std::vector<LinkCall>& calls, std::uint64_t data) {
  for (std::size_t c = 0; c < calls.size(); ++c) {
    const std::size_t count = elements(calls[c]);
    std::vector<int>& expected = expected_[c];
    expected.assign(count, 0);
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      Buffers& buffers = ranks_[r].buffers[c];
      auto* output = static_cast<std::uint16_t*>(buffers.output.data());
      auto* input = calls[c].in_place && !rows_ ? output : static_cast<std::uint16_t*>(buffers.input.data());
      auto* residual = calls[c].in_place ? output : static_cast<std::uint16_t*>(buffers.residual.data());
      std::memset(output, 0xFF, count * sizeof(std::uint16_t));
      for (std::size_t i = 0; i < count; ++i) {
        if (calls[c].chained) {
          expected[i] += expected_[c - 1][i];
        } else {
          const Element mine = (eight_bits_ ? small_element : element)(data, c, r, ranks_.size(), i);
          expected[i] += mine.value;
          input[i] = mine.negative_zero ? negative_zero : half(mine.value);
        }
        if (rows_) residual[i] = half(static_cast<int>(i % 9));
      }
    }
    if (!rows_) continue;
    for (std::size_t i = 0; i < count; ++i) expected[i] += static_cast<int>(i % 9);
  }
}

LinkWorld::Outcome LinkWorld::check(const std::vector<LinkCall>& calls) const {
  Outcome outcome;
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    try {
      ranks_[r].group->check();
    } catch (const Poisoned& error) {
      outcome.wrong = error.what();
      outcome.rank = static_cast<int>(r);
      return outcome;
    }
  }
  for (std::size_t c = 0; c < calls.size(); ++c) {
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      const auto* output = static_cast<const std::uint16_t*>(ranks_[r].buffers[c].output.data());
      for (std::size_t i = 0; i < expected_[c].size(); ++i) {
        if (output[i] == half(expected_[c][i])) continue;
        std::array<char, 64> bits{};
        std::snprintf(bits.data(), bits.size(), "0x%04x, expected 0x%04x", output[i], half(expected_[c][i]));
        outcome.wrong = fmt::format("element {} has the bits {}", i, bits.data());
        outcome.rank = static_cast<int>(r);
        outcome.call = static_cast<int>(c);
        return outcome;
      }
    }
  }
  return outcome;
}

LinkWorld::Outcome LinkWorld::run(const std::vector<LinkCall>& calls, std::uint64_t data, std::uint64_t order,
                                  std::uint64_t delivery, bool explain) {
  prepare_inputs(calls, data);
  std::vector<std::unique_ptr<Graph>> graphs;
  std::vector<std::vector<FiberTask>> tasks;
  std::vector<FiberSequence> sequences;
  for (Rank& self : ranks_) {
    Workspace& workspace = self.group->workspace();
    std::memcpy(workspace.peer(self.bootstrap->rank()), self.fresh.data(), self.fresh.size());
    *workspace.fault() = arbiter_abi::FaultRecord{};
    self.device->begin_capture(self.stream);
    for (std::size_t c = 0; c < calls.size(); ++c) {
      RunnableCandidate& candidate = *self.candidates[calls[c].candidate];
      candidate.agreed(calls[c].blocks);
      candidate.enqueue(call_of(self, calls, c), self.stream);
    }
    graphs.push_back(self.device->end_capture(self.stream));
    tasks.push_back(tasks_of(dynamic_cast<const CpuGraph&>(*graphs.back()).operations()));
  }
  sequences.assign(tasks.begin(), tasks.end());
  memory_->restart(delivery, explain);
  try {
    scheduler_.run(sequences, order, memory_.get());
  } catch (const DeviceError& error) {
    Outcome outcome;
    outcome.wrong = error.what();
    return outcome;
  }
  return check(calls);
}

std::pair<int, std::uint64_t> LinkWorld::workspace_offset(const void* address) const {
  for (const Rank& viewer : ranks_) {
    Workspace& workspace = viewer.group->workspace();
    for (int r = 0; r < ranks(); ++r) {
      const auto* start = static_cast<const unsigned char*>(workspace.peer(r));
      const auto* at = static_cast<const unsigned char*>(address);
      if (std::less_equal<>()(start, at) && std::less<>()(at, start + workspace.bytes())) {
        return {r, static_cast<std::uint64_t>(at - start)};
      }
    }
  }
  return {-1, 0};
}

}  // namespace arbiter
