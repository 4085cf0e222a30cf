#include "cpu_link_stores.hpp"

#include <algorithm>
#include <atomic>
#include <functional>
#include <iterator>
#include <utility>

namespace arbiter {
namespace {

// Runs differ in how far stores lag behind: from the next step to thousands of steps.
constexpr std::uint32_t intervals[] = {1, 2, 8, 32, 256};

// More than this on the way, and one arrives with every store: looking for what must arrive first takes time.
constexpr std::size_t most_pending = 2048;

bool overlap(const unsigned* a, unsigned a_count, const unsigned* b, unsigned b_count) noexcept {
  return a < b + b_count && b < a + a_count;
}

}  // namespace

LinkStores::LinkStores(std::uint64_t seed, std::vector<int> ranks, std::vector<OwnedRange> ranges)
    : random_(seed),
      ranks_(std::move(ranks)),
      ranges_(std::move(ranges)),
      kernel_end_(ranks_.size(), 0),
      delivery_interval_(intervals[random_.below(std::size(intervals))]),
      slow_sequence_(random_.below(2) == 0
                         ? -1
                         : static_cast<int>(random_.below(static_cast<std::uint32_t>(ranks_.size())))) {}

bool LinkStores::remote(const Writer& writer, const void* destination) const noexcept {
  const auto address = reinterpret_cast<std::uintptr_t>(destination);
  const auto next = std::upper_bound(ranges_.begin(), ranges_.end(), address,
                                     [](std::uintptr_t a, const OwnedRange& range) { return a < range.first; });
  if (next == ranges_.begin()) return false;
  const OwnedRange& range = *std::prev(next);
  return address < range.last && range.owner != ranks_[writer.sequence];
}

LinkStores::Thread& LinkStores::thread(unsigned fiber) {
  if (fiber >= threads_.size()) threads_.resize(fiber + 1);
  return threads_[fiber];
}

void LinkStores::store(Writer writer, void* destination, const unsigned* words, unsigned count, bool release) {
  auto* target = static_cast<unsigned*>(destination);
  Thread& self = thread(writer.fiber);
  ++now_;
  Piece whole;
  whole.destination = target;
  whole.count = count;
  std::copy_n(words, count, whole.words);
  whole.writer = writer;
  whole.time = now_;
  whole.own_until = release ? now_ - 1 : self.fence_time;
  whole.before = release ? self.observed : self.fenced;
  whole.sequence_until = kernel_end_[writer.sequence];
  if (!remote(writer, destination)) {
    // Visible to the own rank at once. Ranks only poll their own memory, so no peer can tell in which order a plain
    // store here and stores that are still on their way happened.
    if (release) {
      choose_before(whole);
      deliver_chosen();
    }
    write(whole);
    return;
  }
  ++statistics_.stores;
  // A link delivers at most 16 bytes whole, and may deliver less.
  const unsigned piece_words = count == 4 ? 1U << random_.below(3) : count;
  if (piece_words < count) ++statistics_.torn;
  for (unsigned first = 0; first < count; first += piece_words) {
    Piece piece = whole;
    piece.destination = target + first;
    piece.count = std::min(piece_words, count - first);
    std::copy_n(words + first, piece.count, piece.words);
    for (unsigned i = 0; i < piece.count; ++i) ++words_[piece.destination + i];
    pending_.push_back(std::move(piece));
  }
  if (pending_.size() > most_pending) deliver(random_.below(static_cast<std::uint32_t>(pending_.size())));
  statistics_.most_pending = std::max<std::uint64_t>(statistics_.most_pending, pending_.size());
}

void LinkStores::fence(Writer writer) {
  Thread& self = thread(writer.fiber);
  self.fence_time = now_;
  self.fenced = self.observed;
}

void LinkStores::barrier(unsigned first, unsigned last) {
  thread(last - 1);
  // What any of them had observed is now observed by all; observations of one range keep only the latest time.
  Observations all{{first, last, now_}};
  for (unsigned fiber = first; fiber < last; ++fiber) {
    for (const Observation& seen : threads_[fiber].observed) {
      const auto same = std::find_if(all.begin(), all.end(), [&](const Observation& known) {
        return known.first <= seen.first && seen.last <= known.last && known.until >= seen.until;
      });
      if (same == all.end()) all.push_back(seen);
    }
  }
  for (unsigned fiber = first; fiber < last; ++fiber) threads_[fiber].observed = all;
}

void LinkStores::kernel_ended(unsigned sequence) { kernel_end_[sequence] = now_; }

bool LinkStores::must_precede(const Piece& earlier, const Piece& later) noexcept {
  if (earlier.time >= later.time) return false;
  if (overlap(earlier.destination, earlier.count, later.destination, later.count)) return true;
  if (earlier.writer.sequence != later.writer.sequence) return false;
  if (earlier.time <= later.sequence_until) return true;
  if (earlier.writer.fiber == later.writer.fiber && earlier.time <= later.own_until) return true;
  return std::any_of(later.before.begin(), later.before.end(), [&](const Observation& seen) {
    return seen.first <= earlier.writer.fiber && earlier.writer.fiber < seen.last && earlier.time <= seen.until;
  });
}

/// False if certainly nothing that is pending must arrive before `later`.
bool LinkStores::may_wait(const Piece& later) const {
  for (unsigned i = 0; i < later.count; ++i) {
    const auto known = words_.find(later.destination + i);
    if (known != words_.end() && known->second > 1) return true;
  }
  Time until = std::max(later.own_until, later.sequence_until);
  for (const Observation& seen : later.before) until = std::max(until, seen.until);
  return until >= oldest_;
}

/// Chooses everything that must arrive before `later`, and what must arrive before that.
void LinkStores::choose_before(const Piece& later) {
  std::size_t next = chosen_.size();
  const Piece* current = &later;
  for (;;) {
    if (may_wait(*current)) {
      Time oldest = now_;
      for (std::size_t i = 0; i < pending_.size(); ++i) {
        oldest = std::min(oldest, pending_[i].time);
        if (pending_[i].chosen || !must_precede(pending_[i], *current)) continue;
        pending_[i].chosen = true;
        chosen_.push_back(i);
      }
      oldest_ = oldest;
    }
    if (next == chosen_.size()) return;
    current = &pending_[chosen_[next++]];
  }
}

void LinkStores::deliver(std::size_t index) {
  pending_[index].chosen = true;
  chosen_.push_back(index);
  choose_before(pending_[index]);
  deliver_chosen();
}

void LinkStores::deliver_chosen() {
  std::sort(chosen_.begin(), chosen_.end(), [&](std::size_t a, std::size_t b) {
    return pending_[a].time < pending_[b].time;
  });
  for (const std::size_t index : chosen_) {
    const Piece& piece = pending_[index];
    write(piece);
    for (unsigned i = 0; i < piece.count; ++i) {
      const auto word = words_.find(piece.destination + i);
      if (--word->second == 0) words_.erase(word);
    }
    if (piece.time < newest_delivered_) ++statistics_.overtaken;
    newest_delivered_ = std::max(newest_delivered_, piece.time);
  }
  // From the back, so that the last piece, which fills each gap, is never one that still has to go.
  std::sort(chosen_.begin(), chosen_.end(), std::greater<>());
  for (const std::size_t index : chosen_) {
    if (index + 1 != pending_.size()) pending_[index] = std::move(pending_.back());
    pending_.pop_back();
  }
  chosen_.clear();
}

void LinkStores::write(const Piece& piece) {
  for (unsigned i = 0; i < piece.count; ++i) {
    std::atomic_ref<unsigned>(piece.destination[i]).store(piece.words[i], std::memory_order_release);
  }
}

bool LinkStores::step(bool idle) {
  if (pending_.empty()) return false;
  if (!idle && random_.below(delivery_interval_) != 0) return true;
  const std::size_t chosen = random_.below(static_cast<std::uint32_t>(pending_.size()));
  if (!idle && static_cast<int>(pending_[chosen].writer.sequence) == slow_sequence_) return true;
  deliver(chosen);
  return true;
}

void LinkStores::flush() {
  while (!pending_.empty()) deliver(random_.below(static_cast<std::uint32_t>(pending_.size())));
}

}  // namespace arbiter
