#include "cpu/link.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "arbiter/error.hpp"
#include "arbiter/generator/joined.hpp"
#include "arbiter/vocabulary.hpp"
#include "cpu/link_memory.hpp"

namespace arbiter {

CpuLink::CpuLink(int ranks, const CpuLinkOptions& options)
    : options_(options),
      presence_(static_cast<std::size_t>(ranks), Presence::not_yet),
      waiting_(static_cast<std::size_t>(ranks)),
      arrived_(static_cast<std::size_t>(ranks), false),
      seeds_(options.seed) {}

CpuLinkStatistics CpuLink::statistics() const {
  const std::lock_guard lock(mutex_);
  return statistics_;
}

void CpuLink::restart(std::uint64_t seed) {
  const std::lock_guard lock(mutex_);
  seeds_ = SplitMix(seed);
}

void CpuLink::join(int rank) {
  const std::lock_guard lock(mutex_);
  if (rank < 0 || rank >= static_cast<int>(presence_.size())) {
    throw InvalidArgument(fmt::format("rank {} is not part of a link model of {} ranks", rank, presence_.size()));
  }
  Presence& presence = presence_[static_cast<std::size_t>(rank)];
  if (presence == Presence::here) {
    throw InvalidArgument(fmt::format("rank {} has a device on this link model already", rank));
  }
  presence = Presence::here;
}

void CpuLink::leave(int rank) noexcept {
  const std::lock_guard lock(mutex_);
  presence_[static_cast<std::size_t>(rank)] = Presence::left;
  changed_.notify_all();
}

std::string CpuLink::absent(bool only_left) const {
  std::vector<std::size_t> ranks;
  for (std::size_t r = 0; r < arrived_.size(); ++r) {
    if (!arrived_[r] && (!only_left || presence_[r] == Presence::left)) ranks.push_back(r);
  }
  return joined(ranks, ", ");
}

void CpuLink::run(int rank, FiberSequence tasks) {
  std::unique_lock lock(mutex_);
  if (!broken_.empty()) throw DeviceError(broken_);
  waiting_[static_cast<std::size_t>(rank)] = tasks;
  arrived_[static_cast<std::size_t>(rank)] = true;
  if (++arrivals_ == waiting_.size()) {
    run_all();
    std::fill(arrived_.begin(), arrived_.end(), false);
    arrivals_ = 0;
    ++meeting_;
    changed_.notify_all();
  } else {
    const std::uint64_t meeting = meeting_;
    const auto until = std::chrono::steady_clock::now() + options_.deadline;
    const auto give_up = [&](const std::string& what) {
      broken_ = fmt::format(
          "rank {} launched on a link model, but {}; all ranks of a link model must launch equally often", rank, what);
      changed_.notify_all();
    };
    while (meeting_ == meeting) {
      if (!broken_.empty()) throw DeviceError(broken_);
      if (const std::string left = absent(true); !left.empty()) {
        give_up("the device of rank " + left + " was destroyed");
      } else if (changed_.wait_until(lock, until) == std::cv_status::timeout && meeting_ == meeting &&
                 broken_.empty()) {
        give_up(fmt::format("rank {} did not within {} ms", absent(false), options_.deadline.count()));
      }
    }
  }
  if (!failure_.empty()) throw DeviceError(failure_);
}

void CpuLink::run_all() {
  failure_.clear();
  ++statistics_.runs;
  const std::uint64_t order_seed = seeds_.next();
  const std::uint64_t delivery_seed = seeds_.next();
  try {
    std::vector<int> ranks(waiting_.size());
    std::iota(ranks.begin(), ranks.end(), 0);
    LinkMemory memory(std::move(ranks), owned_ranges());
    memory.restart(delivery_seed);
    scheduler_.run(waiting_, order_seed, &memory);
    const CpuLinkStatistics& run = memory.statistics();
    statistics_.stores += run.stores;
    statistics_.torn += run.torn;
    statistics_.overtaken += run.overtaken;
    statistics_.most_pending = std::max(statistics_.most_pending, run.most_pending);
  } catch (const std::exception& error) {
    failure_ = error.what();  // for every rank
  }
}

std::shared_ptr<CpuLinkModel> make_cpu_link_model(int ranks, const CpuLinkOptions& options) {
  if (ranks < 1 || ranks > max_world) {
    throw InvalidArgument(fmt::format("a link model joins 1 to {} ranks, not {}", max_world, ranks));
  }
  return std::make_shared<CpuLink>(ranks, options);
}

}  // namespace arbiter
