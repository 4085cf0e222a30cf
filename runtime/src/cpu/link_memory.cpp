#include "cpu/link_memory.hpp"

#include <atomic>
#include <iterator>

namespace arbiter {
namespace {

// Runs differ in how far stores lag behind: not at all, or up to thousands of steps.
constexpr std::uint32_t delays[] = {0, 8, 64, 512, 4096};
constexpr std::uint32_t lazy_intervals[] = {1U << 30, 64, 16, 4};
constexpr std::uint64_t lazy_steps = std::uint64_t{1} << 40;
constexpr std::uint32_t lazy_spread = 1U << 30;

// A thread that loads more lines than this between two polls stays awake.
constexpr std::size_t most_watched = 128;

// A kernel that goes mad does the same thing wrong a million times.
constexpr std::size_t most_events = 1000;

// With more stores than that in one run, everything arrives, so that a kernel that stores for ever needs no memory.
constexpr std::size_t most_messages = std::size_t{1} << 19;

unsigned first_word(const void* address) noexcept {
  return static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(address) / sizeof(unsigned) % 4);
}

}  // namespace

LinkMemory::LinkMemory(std::vector<int> ranks, std::vector<OwnedRange> ranges)
    : ranks_(std::move(ranks)), lines_(std::move(ranges)) {
  restart(0);
}

void LinkMemory::restart(std::uint64_t seed, bool explain) {
  random_ = OrderRandom(seed);
  lines_.restart();
  landings_.clear();
  ended_.assign(ranks_.size(), 0);
  ending_.assign(ranks_.size(), 0);
  now_ = 0;
  time_ = 0;
  newest_landed_ = 0;
  delay_ = delays[random_.below(std::size(delays))];
  lazy_ = lazy_intervals[random_.below(std::size(lazy_intervals))];
  tears_ = random_.below(4) != 0;
  const auto sequences = static_cast<std::uint32_t>(ranks_.size());
  slow_sequence_ = random_.below(2) == 0 ? -1 : static_cast<int>(random_.below(sequences));
  explain_ = explain;
  events_.clear();
  statistics_ = {};
  woken.clear();
}

void LinkMemory::prepare(unsigned threads) {
  clocks_.reset(threads);
  threads_.resize(threads);
  for (Thread& thread : threads_) {
    thread.active = false;
    thread.watched.clear();
    thread.polled.clear();
  }
  last_loads_.clear();
  last_loads_.resize(explain_ ? threads : 0);
}

// ---- What threads know ----

bool LinkMemory::knows(unsigned thread, const LinkMessage& message) const noexcept {
  const Thread& self = threads_[thread];
  return (message.writer == thread && message.time > self.begun) ||
         clocks_.at(self.known, message.writer) >= message.time;
}

void LinkMemory::thread_begins(unsigned thread, const ThreadPlace& place) {
  Thread& self = threads_[thread];
  LinkClocks::Id& ending = ending_[place.sequence];
  if (self.active) {  // its place is taken while its launch runs
    ending = clocks_.begin(ending);
    fold(ending, thread);
  }
  self.place = place;
  self.known = self.initial = self.carried = ended_[place.sequence];
  self.carried_own = 0;
  self.begun = time_;
  self.active = true;
  self.loaded.clear();
}

/// All that the thread did and knows, as if it passed a fence now.
void LinkMemory::fold(LinkClocks::Id into, unsigned thread) noexcept {
  const Thread& self = threads_[thread];
  clocks_.join(into, self.known);
  for (const LinkClocks::Carried& carried : self.loaded) clocks_.join(into, carried);
  clocks_.raise(into, thread, time_);
  if (explain_) explain_last_loads(thread);
}

void LinkMemory::grid_ends(unsigned sequence, unsigned first, unsigned last) {
  const LinkClocks::Id all = clocks_.begin(ended_[sequence]);
  clocks_.join(all, ending_[sequence]);
  for (unsigned thread = first; thread < last; ++thread) {
    if (!threads_[thread].active) continue;
    fold(all, thread);
    threads_[thread].active = false;
  }
  ended_[sequence] = all;
  ending_[sequence] = 0;
}

void LinkMemory::grid_waited(unsigned thread) {
  Thread& self = threads_[thread];
  const LinkClocks::Id ended = ended_[self.place.sequence];
  if (self.known == self.initial) {
    self.known = ended;
  } else {
    const LinkClocks::Id all = clocks_.begin(self.known);
    clocks_.join(all, ended);
    self.known = all;
  }
  self.carried = self.known;
}

void LinkMemory::barrier(unsigned first, unsigned last) {
  const LinkClocks::Id all = clocks_.begin(threads_[first].known);
  for (unsigned thread = first; thread < last; ++thread) {
    clocks_.join(all, threads_[thread].known);
    clocks_.raise(all, thread, time_);
  }
  for (unsigned thread = first; thread < last; ++thread) threads_[thread].known = all;
}

void LinkMemory::learn(Thread& self, const LinkClocks::Carried& carried) {
  if (clocks_.covers(self.known, carried)) return;
  self.known = clocks_.begin(self.known);
  clocks_.join(self.known, carried);
}

void LinkMemory::fence(unsigned thread) {
  Thread& self = threads_[thread];
  for (const LinkClocks::Carried& carried : self.loaded) learn(self, carried);
  self.loaded.clear();
  self.carried = self.known;
  self.carried_own = time_;
}

// ---- Loads and stores ----

void LinkMemory::load(unsigned thread, const void* source, unsigned* words, unsigned count, LoadOrder order) {
  const std::uint32_t line = lines_.find(source);
  const unsigned first = first_word(source);
  unsigned missing = ((1U << count) - 1) << first;
  Thread& self = threads_[thread];
  if (line != LinkLines::untracked) {
    if (order != LoadOrder::plain) self.watched.push_back({line, lines_[line].version});
    for (std::uint32_t id = lines_[line].newest; id != 0 && missing != 0;) {
      LinkMessage& message = lines_.message(id);
      id = message.older;
      const unsigned taken = message.mask & missing;
      if (taken == 0) continue;
      const bool landed = message.landing <= now_;
      const bool visible = landed || knows(thread, message);
      if (explain_) explain_load(thread, line, message, visible, order);
      if (!visible) continue;
      for (unsigned i = 0; i < 4; ++i) {
        if ((taken & (1U << i)) != 0) words[i - first] = message.words[i];
      }
      missing &= ~taken;
      message.read = true;
      if (landed && message.mask == 0xF) message.older = 0;  // nobody can see behind it any more
      if (!message.carries) continue;
      if (order == LoadOrder::acquire) {
        learn(self, message.carried);
      } else {
        const auto known = std::find_if(self.loaded.begin(), self.loaded.end(), [&](const LinkClocks::Carried& other) {
          return other.clock == message.carried.clock && other.writer == message.carried.writer;
        });
        if (known == self.loaded.end()) {
          self.loaded.push_back(message.carried);
        } else {
          known->time = std::max(known->time, message.carried.time);
        }
      }
    }
  }
  for (unsigned i = 0; i < count; ++i) {
    if ((missing & (1U << (first + i))) == 0) continue;
    auto* word = const_cast<unsigned*>(static_cast<const unsigned*>(source) + i);
    words[i] = std::atomic_ref<unsigned>(*word).load(std::memory_order_acquire);
  }
}

LinkMemory::Step LinkMemory::landing_step(unsigned sequence) noexcept {
  if (static_cast<int>(sequence) == slow_sequence_ || random_.below(lazy_) == 0) {
    return now_ + lazy_steps + random_.below(lazy_spread);
  }
  return now_ + random_.below(delay_ + 1);
}

void LinkMemory::store(unsigned thread, void* destination, const unsigned* words, unsigned count, bool release) {
  if (lines_.messages() > most_messages) settle();
  const std::uint32_t line = lines_.find(destination);
  if (line == LinkLines::untracked) {
    auto* target = static_cast<unsigned*>(destination);
    for (unsigned i = 0; i < count; ++i) {
      std::atomic_ref<unsigned>(target[i]).store(words[i], std::memory_order_release);
    }
    return;
  }
  const Thread& self = threads_[thread];
  LinkMessage whole;
  whole.writer = thread;
  whole.place = self.place;
  whole.carried = release ? LinkClocks::Carried{self.known, thread, time_}
                          : LinkClocks::Carried{self.carried, thread, self.carried_own};
  whole.carries = whole.carried.clock != 0 || whole.carried.time != 0;
  whole.time = ++time_;
  const unsigned first = first_word(destination);
  std::copy_n(words, count, whole.words + first);
  const bool remote = lines_[line].owner != ranks_[self.place.sequence];
  // A link delivers at most 16 bytes whole, and may deliver less.
  const unsigned piece = count == 4 && tears_ ? 1U << random_.below(3) : count;
  if (remote) ++statistics_.stores;
  if (remote && piece < count) ++statistics_.torn;
  for (unsigned i = 0; i < count; i += piece) {
    LinkMessage message = whole;
    message.mask = static_cast<std::uint8_t>(((1U << piece) - 1) << (first + i));
    message.landing = landing_step(self.place.sequence);
    insert(thread, line, message);
    if (message.landing <= now_) {
      changed(line);
      continue;
    }
    landings_.push_back({message.landing, message.time, line});
    std::push_heap(landings_.begin(), landings_.end());
  }
  statistics_.most_pending = std::max<std::uint64_t>(statistics_.most_pending, landings_.size());
}

/// Puts a message behind all that its writer knows, and among the others in order of landing.
void LinkMemory::insert(unsigned thread, std::uint32_t line, LinkMessage& message) {
  std::uint32_t newer = 0;
  std::uint32_t older = lines_[line].newest;
  while (older != 0) {
    const LinkMessage& other = lines_.message(older);
    if (other.landing <= message.landing || knows(thread, other)) break;
    newer = older;
    older = other.older;
  }
  message.older = older;
  if (explain_) {
    const auto note_other = [&](LinkEvent::Kind kind, const LinkMessage& other) {
      note({kind, message.place, other.place, lines_[line].memory});
    };
    for (std::uint32_t id = lines_[line].newest; newer != 0 && id != older; id = lines_.message(id).older) {
      const LinkMessage& other = lines_.message(id);
      if ((other.mask & message.mask) != 0) note_other(LinkEvent::Kind::overtaken, other);
    }
    for (std::uint32_t id = older; id != 0; id = lines_.message(id).older) {
      const LinkMessage& other = lines_.message(id);
      if ((other.mask & message.mask) == 0) continue;
      if (!other.read && other.place.sequence != message.place.sequence && !knows(thread, other)) {
        note_other(LinkEvent::Kind::overwritten, other);
      }
      break;
    }
  }
  const std::uint32_t id = lines_.add(message);
  if (newer == 0) {
    lines_[line].newest = id;
  } else {
    lines_.message(newer).older = id;
  }
}

// ---- Arriving ----

void LinkMemory::step() {
  ++now_;
  while (!landings_.empty() && landings_.front().step <= now_) land_first();
}

bool LinkMemory::idle() {
  if (landings_.empty()) {
    if (explain_) explain_standstill();
    return false;
  }
  // Sometimes one store lands and sometimes many.
  for (unsigned landing = 1U << random_.below(6); landing != 0 && !landings_.empty(); --landing) {
    now_ = std::max(now_, landings_.front().step);
    land_first();
  }
  return true;
}

void LinkMemory::land_first() {
  const Landing landing = landings_.front();
  std::pop_heap(landings_.begin(), landings_.end());
  landings_.pop_back();
  if (landing.time < newest_landed_) ++statistics_.overtaken;
  newest_landed_ = std::max(newest_landed_, landing.time);
  changed(landing.line);
}

void LinkMemory::changed(std::uint32_t line) {
  LinkLine& changed_line = lines_[line];
  ++changed_line.version;
  for (std::uint32_t watch = changed_line.watchers; watch != 0; watch = lines_.watches[watch].next) {
    woken.push_back(lines_.watches[watch].thread);
  }
  changed_line.watchers = 0;
}

bool LinkMemory::watch(unsigned thread) {
  Thread& self = threads_[thread];
  bool unchanged = !self.watched.empty() && self.watched.size() <= most_watched;
  for (const Watched& watched : self.watched) {
    unchanged = unchanged && lines_[watched.line].version == watched.version;
  }
  if (unchanged) {
    for (const Watched& watched : self.watched) {
      LinkLine& line = lines_[watched.line];
      if (line.watchers != 0 && lines_.watches[line.watchers].thread == thread) continue;
      lines_.watches.push_back({line.watchers, thread});
      line.watchers = static_cast<std::uint32_t>(lines_.watches.size() - 1);
    }
  }
  if (explain_) self.polled = self.watched;
  self.watched.clear();
  return unchanged;
}

void LinkMemory::settle() {
  while (!landings_.empty()) land_first();
  lines_.settle();
}

// ---- Explanations ----

void LinkMemory::note(const LinkEvent& event) {
  if (events_.size() < most_events) events_.push_back(event);
}

void LinkMemory::explain_load(unsigned thread, std::uint32_t line, const LinkMessage& message, bool taken,
                              LoadOrder order) {
  const ThreadPlace& place = threads_[thread].place;
  if (!taken) {
    if (order == LoadOrder::plain) {
      note({LinkEvent::Kind::stale, place, message.place, lines_[line].memory});
    }
    return;
  }
  auto& last = last_loads_[thread];
  std::erase_if(last, [&](const auto& one) { return one.first == line; });
  if (message.place.sequence == place.sequence || message.place.launch == place.launch) return;
  last.emplace_back(line, LinkEvent{LinkEvent::Kind::other_launch, place, message.place, lines_[line].memory});
}

void LinkMemory::explain_last_loads(unsigned thread) {
  for (const auto& [line, event] : last_loads_[thread]) note(event);
  last_loads_[thread].clear();
}

/// Nothing is on the way and every thread polls. What follows is only that deadlines pass.
void LinkMemory::explain_standstill() {
  for (unsigned thread = 0; thread < threads_.size(); ++thread) {
    if (!threads_[thread].active) continue;
    explain_last_loads(thread);
    for (const Watched& polled : threads_[thread].polled) {
      const std::uint32_t newest = lines_[polled.line].newest;
      if (newest == 0) continue;
      note({LinkEvent::Kind::waits, threads_[thread].place, lines_.message(newest).place, lines_[polled.line].memory});
    }
  }
  explain_ = false;
}

}  // namespace arbiter
