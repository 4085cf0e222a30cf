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
constexpr std::uint32_t lazy_intervals[] = {1U << 30, 64, 16, 4};

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
      sequences_(ranks_.size()),
      delivery_interval_(intervals[random_.below(std::size(intervals))]),
      lazy_interval_(lazy_intervals[random_.below(std::size(lazy_intervals))]),
      slow_sequence_(
          random_.below(2) == 0 ? -1 : static_cast<int>(random_.below(static_cast<std::uint32_t>(ranks_.size())))) {}

LinkStores::Place LinkStores::place(const Writer& writer, const void* destination) const noexcept {
  const auto address = reinterpret_cast<std::uintptr_t>(destination);
  const auto next = std::upper_bound(ranges_.begin(), ranges_.end(), address,
                                     [](std::uintptr_t a, const OwnedRange& range) { return a < range.first; });
  if (next == ranges_.begin() || address >= std::prev(next)->last) return Place::elsewhere;
  return std::prev(next)->owner == ranks_[writer.sequence] ? Place::local : Place::remote;
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
  whole.sequence_until = sequences_[writer.sequence].kernel_end;
  const Place where = place(writer, destination);
  whole.local = where == Place::local;
  if (whole.local && !release) {
    // Ranks poll only their own memory, so no peer can tell in which order a plain store here and stores that are
    // still on their way to others became visible.
    whole.own_until = 0;
    whole.sequence_until = 0;
    whole.before.clear();
  }
  if (where == Place::elsewhere || (whole.local && release)) {
    choose_before(whole);
    deliver_chosen();
    write(whole);
    return;
  }
  if (!whole.local) ++statistics_.stores;
  // A link delivers at most 16 bytes whole, and may deliver less.
  const unsigned piece_words = count == 4 ? 1U << random_.below(3) : count;
  if (piece_words < count && !whole.local) ++statistics_.torn;
  for (unsigned first = 0; first < count; first += piece_words) {
    Piece& piece = pending_.emplace_back(whole);
    piece.destination = target + first;
    piece.count = std::min(piece_words, count - first);
    std::copy_n(words + first, piece.count, piece.words);
    for (unsigned i = 0; i < piece.count; ++i) ++words_[piece.destination + i];
    self.pending.push_back(now_);
    self.local += piece.local ? 1 : 0;
    piece.lazy = random_.below(lazy_interval_) == 0;
    lazy_pending_ += piece.lazy ? 1 : 0;
    ++sequences_[writer.sequence].pending;
  }
  if (pending_.size() > most_pending) deliver(random_.below(static_cast<std::uint32_t>(pending_.size())));
  statistics_.most_pending = std::max<std::uint64_t>(statistics_.most_pending, pending_.size());
}

void LinkStores::fence(Writer writer) {
  Thread& self = thread(writer.fiber);
  deliver_local(writer.fiber, writer.fiber + 1);
  self.fence_time = now_;
  self.fenced = self.observed;
}

void LinkStores::barrier(unsigned first, unsigned last) {
  thread(last - 1);
  deliver_local(first, last);
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

void LinkStores::kernel_ended(unsigned sequence) {
  for (std::size_t i = 0; i < pending_.size(); ++i) {
    if (pending_[i].local && pending_[i].writer.sequence == sequence) {
      pending_[i].chosen = true;
      chosen_.push_back(i);
    }
  }
  deliver_chosen();
  sequences_[sequence].kernel_end = now_;
  sequences_[sequence].old_pending = sequences_[sequence].pending;
}

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
  if (sequences_[later.writer.sequence].old_pending != 0) return true;
  const std::vector<Time>& own = threads_[later.writer.fiber].pending;
  if (std::any_of(own.begin(), own.end(), [&](Time time) { return time <= later.own_until; })) return true;
  return std::any_of(later.before.begin(), later.before.end(),
                     [&](const Observation& seen) { return seen.until >= oldest_; });
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

/// What these threads stored to memory of their own rank becomes visible.
void LinkStores::deliver_local(unsigned first_fiber, unsigned last_fiber) {
  const auto waits = [](const Thread& thread) { return thread.local != 0; };
  if (std::none_of(threads_.begin() + first_fiber, threads_.begin() + last_fiber, waits)) return;
  for (std::size_t i = 0; i < pending_.size(); ++i) {
    const Piece& piece = pending_[i];
    if (!piece.local || piece.writer.fiber < first_fiber || piece.writer.fiber >= last_fiber) continue;
    pending_[i].chosen = true;
    chosen_.push_back(i);
  }
  deliver_chosen();
}

void LinkStores::deliver_chosen() {
  std::sort(chosen_.begin(), chosen_.end(),
            [&](std::size_t a, std::size_t b) { return pending_[a].time < pending_[b].time; });
  for (const std::size_t index : chosen_) {
    arrive(pending_[index]);
  }
  // From the back, so that the last piece, which fills each gap, is never one that still has to go.
  std::sort(chosen_.begin(), chosen_.end(), std::greater<>());
  for (const std::size_t index : chosen_) {
    if (index + 1 != pending_.size()) pending_[index] = std::move(pending_.back());
    pending_.pop_back();
  }
  chosen_.clear();
}

void LinkStores::arrive(const Piece& piece) {
  write(piece);
  for (unsigned i = 0; i < piece.count; ++i) {
    const auto word = words_.find(piece.destination + i);
    if (--word->second == 0) words_.erase(word);
  }
  Sequence& sequence = sequences_[piece.writer.sequence];
  --sequence.pending;
  if (piece.time <= sequence.kernel_end) --sequence.old_pending;
  std::vector<Time>& own = threads_[piece.writer.fiber].pending;
  threads_[piece.writer.fiber].local -= piece.local ? 1 : 0;
  lazy_pending_ -= piece.lazy ? 1 : 0;
  *std::find(own.begin(), own.end(), piece.time) = own.back();
  own.pop_back();
  if (piece.time < newest_delivered_) ++statistics_.overtaken;
  newest_delivered_ = std::max(newest_delivered_, piece.time);
}

void LinkStores::write(const Piece& piece) {
  for (unsigned i = 0; i < piece.count; ++i) {
    std::atomic_ref<unsigned>(piece.destination[i]).store(piece.words[i], std::memory_order_release);
  }
}

bool LinkStores::step(bool idle) {
  if (pending_.empty()) return false;
  if (!idle && random_.below(delivery_interval_) != 0) return true;
  // When all wait, sometimes one piece arrives and sometimes many.
  unsigned arriving = idle ? 1U << random_.below(8) : 1;
  for (; arriving != 0 && !pending_.empty(); --arriving) {
    std::size_t chosen = random_.below(static_cast<std::uint32_t>(pending_.size()));
    const bool slow = static_cast<int>(pending_[chosen].writer.sequence) == slow_sequence_;
    if (!idle && (slow || pending_[chosen].lazy)) return true;
    if (lazy_pending_ != pending_.size()) {
      while (pending_[chosen].lazy) chosen = (chosen + 1) % pending_.size();
    } else {
      arriving = 1;
    }
    deliver(chosen);
  }
  return true;
}

void LinkStores::flush() {
  while (!pending_.empty()) deliver(random_.below(static_cast<std::uint32_t>(pending_.size())));
}

}  // namespace arbiter
