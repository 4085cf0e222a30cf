#include "arbiter/tuner/link_check.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>

#include "arbiter/error.hpp"
#include "conformance/link_check_world.hpp"

namespace arbiter {
namespace {

// One iteration (two, where push.h asks for it) in a rotating buffer, or everything in one.
constexpr std::array<std::uint64_t, 2> push_buffers = {1, std::uint64_t{1} << 20};
constexpr std::size_t most_told = 6;

/// What a seed decides.
struct Plan {
  std::size_t world = 0;  // which of the two
  std::vector<LinkCall> calls;
  std::uint64_t data = 0;
  std::uint64_t order = 0;
  std::uint64_t delivery = 0;
};

std::string text(std::uint64_t number) { return std::to_string(number); }

}  // namespace

struct LinkCheck::Impl {
  explicit Impl(const LinkCheckOptions& options) : name(options.name()) {
    for (const std::uint64_t bytes : push_buffers) worlds.push_back(std::make_unique<LinkWorld>(options, bytes));
  }

  Plan plan(std::uint64_t seed) const {
    SplitMix random(seed);
    const auto below = [&](std::uint64_t bound) { return random.next() % bound; };
    Plan result;
    result.world = below(push_buffers.size());
    const LinkWorld& world = *worlds[result.world];
    const std::size_t count = 2 + below(LinkWorld::most_calls - 1);
    for (std::size_t c = 0; c < count; ++c) {
      LinkCall call;
      call.candidate = below(4) == 0 ? below(world.candidates()) : below(world.own_candidates());
      const int cluster = world.cluster(call.candidate);
      const auto grids = static_cast<std::uint64_t>(world.most_blocks(call.candidate) / cluster);
      const auto most = static_cast<std::uint64_t>(world.most_tokens());
      if (below(6) == 0) {  // a long one, that goes around all rotating buffers
        call.blocks = cluster;
        call.tokens = static_cast<std::int64_t>(most - below(most / 3));
      } else {  // small messages leave threads and blocks without work
        call.blocks = cluster * static_cast<int>(1 + below(grids));
        call.tokens = static_cast<std::int64_t>(1 + below(std::max<std::uint64_t>(most / (below(2) == 0 ? 20 : 4), 2)));
      }
      call.chained = c != 0 && !result.calls.back().chained && below(4) == 0;
      if (call.chained) call.tokens = std::min(call.tokens, result.calls.back().tokens);
      call.in_place = !call.chained && below(4) == 0;
      result.calls.push_back(call);
    }
    result.data = random.next();
    result.order = random.next();
    result.delivery = random.next();
    return result;
  }

  std::string place(const ThreadPlace& where) const {
    return "rank " + text(where.sequence) + " (call " + text(where.launch + 1) + ", block " + text(where.block) +
           ", thread " + text(where.thread) + ")";
  }

  std::string describe(const Plan& plan, std::size_t c) const {
    const LinkWorld& world = *worlds[plan.world];
    const LinkCall& call = plan.calls[c];
    RunnableCandidate& candidate = world.candidate(call.candidate);
    candidate.agreed(call.blocks);
    const Geometry grid = candidate.geometry(call.tokens);
    std::string result = "call " + text(c + 1) + ": " + candidate.spec().name() + ", " +
                         text(static_cast<std::uint64_t>(call.tokens)) + " tokens, " + text(grid.blocks) + " blocks, " +
                         text(grid.iterations) + " iterations";
    if (candidate.needs(call.tokens).push_bytes != 0) {
      result += ", epochs " + text(first_epoch(plan, c)) + " to " + text(first_epoch(plan, c) + grid.push_epochs - 1);
    }
    if (call.chained) result += ", on the output of the call before";
    if (call.in_place) result += ", in place";
    return result;
  }

  /// Of the push protocol, at the beginning of a call.
  std::uint32_t first_epoch(const Plan& plan, std::size_t c) const {
    const LinkWorld& world = *worlds[plan.world];
    std::uint32_t epoch = LinkWorld::first_epoch;
    for (std::size_t i = 0; i < c; ++i) {
      RunnableCandidate& candidate = world.candidate(plan.calls[i].candidate);
      candidate.agreed(plan.calls[i].blocks);
      if (candidate.needs(plan.calls[i].tokens).push_bytes == 0) continue;
      epoch += candidate.geometry(plan.calls[i].tokens).push_epochs;
    }
    return epoch;
  }

  /// Where a store went, with the words of the protocol. Slots are numbered as in the call that stored last.
  std::string address(const Plan& plan, const ThreadPlace& writer, const void* memory) const {
    const LinkWorld& world = *worlds[plan.world];
    const auto [rank, offset] = world.workspace_offset(memory);
    if (rank < 0) return "a tensor";
    const WorkspaceLayout& layout = world.layout();
    const std::string whose = fmt::format("rank {}'s ", rank);
    if (offset < layout.push_offset) return whose + "control block, byte " + text(offset);
    if (offset >= layout.staging_offset) return whose + "staging area, byte " + text(offset - layout.staging_offset);
    const std::uint64_t buffer = (offset - layout.push_offset) / layout.push_stride;
    const std::uint64_t inside = (offset - layout.push_offset) % layout.push_stride;
    std::string result = whose + "rotating buffer " + text(buffer);
    RunnableCandidate& candidate = world.candidate(plan.calls[writer.launch].candidate);
    candidate.agreed(plan.calls[writer.launch].blocks);
    const Geometry grid = candidate.geometry(plan.calls[writer.launch].tokens);
    const auto threads = static_cast<std::uint64_t>(candidate.spec().kernel->parameter("threads"));
    const std::uint64_t vector = inside / 16;
    result += ", slot " + text(vector / (threads * grid.blocks)) + " of block " + text(vector / threads % grid.blocks) +
              ", thread " + text(vector % threads);
    for (std::uint32_t e = 0; e < grid.push_epochs; ++e) {
      const std::uint32_t epoch = first_epoch(plan, writer.launch) + e;
      if (epoch % arbiter_abi::push_buffers == buffer) return result + ", epoch " + text(epoch);
    }
    return result;
  }

  std::string tell(const Plan& plan, const LinkEvent& event) const {
    const std::string by = place(event.by);
    const std::string other = place(event.other);
    const std::string where = address(plan, event.other, event.address);
    switch (event.kind) {
      case LinkEvent::Kind::overtaken:
        return by + " stored to " + where + " too early: nothing orders that behind a store of " + other +
               " to the same place, which arrived later and hid it";
      case LinkEvent::Kind::overwritten:
        return by + " stored to " + where + " and hid what " + other +
               " had stored there before anybody had read that: one was too late or the other too early";
      case LinkEvent::Kind::stale:
        return by + " loaded from " + where + " too early: a store of " + other +
               " was on its way, and nothing orders it before the load";
      case LinkEvent::Kind::other_launch:
        return by + " took from " + where + " what " + other + " had stored for another call: too " +
               (event.other.launch < event.by.launch ? "late" : "early");
      case LinkEvent::Kind::waits:
        return by + " waits in vain at " + where + ", where the last store was that of " + other;
    }
    return {};
  }

  /// The events that can have led to the failure, each once.
  std::string explain(const Plan& plan, const LinkWorld::Outcome& outcome) const {
    std::vector<std::string> told;
    const auto add = [&](const LinkEvent& event) {
      std::string line = tell(plan, event);
      if (std::find(told.begin(), told.end(), line) == told.end()) told.push_back(std::move(line));
    };
    const std::vector<LinkEvent>& events = worlds[plan.world]->memory().events();
    for (const LinkEvent& event : events) {
      const bool failed_here =
          static_cast<int>(event.by.sequence) == outcome.rank && static_cast<int>(event.by.launch) == outcome.call;
      if (event.kind != LinkEvent::Kind::other_launch || outcome.call < 0 || failed_here) add(event);
    }
    std::string result;
    for (std::size_t i = 0; i < told.size() && i < most_told; ++i) result += "\n  - " + told[i];
    if (told.size() > most_told) result += "\n  - and " + text(told.size() - most_told) + " more";
    return result;
  }

  std::string run(std::uint64_t seed) {
    const Plan chosen = plan(seed);
    LinkWorld& world = *worlds[chosen.world];
    const auto once = [&](bool explain) {
      return world.run(chosen.calls, chosen.data, chosen.order, chosen.delivery, explain);
    };
    ++statistics.runs;
    LinkWorld::Outcome outcome = once(false);
    const CpuLinkStatistics& run = world.memory().statistics();
    statistics.stores += run.stores;
    statistics.torn += run.torn;
    statistics.overtaken += run.overtaken;
    statistics.most_pending = std::max(statistics.most_pending, run.most_pending);
    if (outcome.wrong.empty()) return {};
    outcome = once(true);  // the same run, told
    std::string result = fmt::format("{} with {} ranks, seed {}: ", name, world.ranks(), text(seed));
    if (outcome.call >= 0) {
      result += fmt::format("call {} on rank {}: ", outcome.call + 1, outcome.rank);
    }
    result += outcome.wrong + explain(chosen, outcome);
    for (std::size_t c = 0; c < chosen.calls.size(); ++c) result += "\n  " + describe(chosen, c);
    return result;
  }

  std::string name;
  std::vector<std::unique_ptr<LinkWorld>> worlds;
  CpuLinkStatistics statistics;
};

std::vector<LinkCheckOptions> link_check_algorithms() {
  std::vector<LinkCheckOptions> all;
  for (const AlgorithmEntry& entry : Catalogue::builtin().algorithms()) {
    if (!entry.exchange) continue;
    LinkCheckOptions options;
    options.backend = entry.backend;
    options.algorithm = entry.name;
    all.push_back(options);
  }
  return all;
}

LinkCheck::LinkCheck(const LinkCheckOptions& options) {
  if (options.world < 2 || options.world > max_world) {
    throw InvalidArgument(fmt::format("a link check of {} ranks; expected 2 to {}", options.world, max_world));
  }
  impl_ = std::make_unique<Impl>(options);
}
LinkCheck::~LinkCheck() = default;
std::string LinkCheck::run(std::uint64_t seed) { return impl_->run(seed); }
const CpuLinkStatistics& LinkCheck::statistics() const noexcept { return impl_->statistics; }

}  // namespace arbiter
