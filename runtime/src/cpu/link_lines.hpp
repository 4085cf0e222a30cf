// The lines of memory that the link model knows something about, and the messages of each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/link_clocks.hpp"
#include "cpu/memory.hpp"
#include "cpu/memory_model.hpp"

namespace arbiter {

/// A store, or a piece of one.
struct LinkMessage {
  std::uint32_t older = 0;  // of the same line; 0: what memory holds
  std::uint32_t writer = 0;
  LinkClocks::Time time = 0;
  std::uint8_t mask = 0;  // words that it has
  bool carries = false;   // knowledge
  bool read = false;      // by anybody
  std::uint64_t landing = 0;
  LinkClocks::Carried carried;
  ThreadPlace place;  // of the writer
  unsigned words[4] = {};
};

/// 16 bytes of memory that one address range owns, whatever the number of its mappings.
struct LinkLine {
  std::uint32_t newest = 0;    // message
  std::uint32_t watchers = 0;  // first of a list of LinkLines::watches
  std::uint32_t version = 0;   // counts what became visible to everybody
  unsigned* memory = nullptr;  // in the first mapping
  int owner = 0;
};

class LinkLines {
 public:
  explicit LinkLines(std::vector<OwnedRange> ranges);

  static constexpr std::uint32_t untracked = 0;
  /// The line of an address; `untracked` outside all ranges.
  std::uint32_t find(const void* address) {
    const auto unit = reinterpret_cast<std::uintptr_t>(address) / 16;
    for (std::size_t at = hash(unit);; at = (at + 1) & (table_.size() - 1)) {
      if (table_[at].unit == unit) return table_[at].line;
      if (table_[at].unit == 0) return insert(unit, at);
    }
  }
  LinkLine& operator[](std::uint32_t line) noexcept { return lines_[line]; }
  LinkMessage& message(std::uint32_t id) noexcept { return messages_[id]; }
  std::uint32_t add(const LinkMessage& message) {
    messages_.push_back(message);
    return static_cast<std::uint32_t>(messages_.size() - 1);
  }
  std::size_t messages() const noexcept { return messages_.size(); }
  /// Forgets all messages and all lines.
  void restart();
  /// Writes the newest value of every word to memory and forgets all messages. Lines keep their numbers.
  void settle() noexcept;

  struct Watch {
    std::uint32_t next = 0;
    std::uint32_t thread = 0;
  };
  std::vector<Watch> watches{1};

 private:
  struct Entry {
    std::uintptr_t unit = 0;
    std::uint32_t line = 0;
  };
  std::size_t hash(std::uintptr_t unit) const noexcept {
    return static_cast<std::size_t>((unit * 0x9E3779B97F4A7C15ULL) >> shift_);
  }
  std::uint32_t insert(std::uintptr_t unit, std::size_t at);
  void put(const Entry&) noexcept;

  std::vector<OwnedRange> ranges_;
  std::vector<Entry> table_;  // open addressing; a power of two
  unsigned shift_ = 0;
  std::size_t used_ = 0;
  std::vector<LinkLine> lines_{1};
  std::vector<LinkMessage> messages_{1};
};

}  // namespace arbiter
