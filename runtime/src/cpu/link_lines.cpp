#include "cpu/link_lines.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <iterator>

namespace arbiter {
namespace {

constexpr std::size_t first_table_size = 4096;

}  // namespace

LinkLines::LinkLines(std::vector<OwnedRange> ranges) : ranges_(std::move(ranges)) {
  table_.resize(first_table_size);
  shift_ = static_cast<unsigned>(64 - std::countr_zero(table_.size()));
}

void LinkLines::restart() {
  for (LinkLine& line : lines_) {
    line.newest = 0;
    line.watchers = 0;
  }
  messages_.resize(1);
  watches.resize(1);
}

std::uint32_t LinkLines::insert(std::uintptr_t unit, std::size_t at) {
  const std::uintptr_t address = unit * 16;
  const auto next = std::upper_bound(ranges_.begin(), ranges_.end(), address,
                                     [](std::uintptr_t a, const OwnedRange& range) { return a < range.first; });
  if (next == ranges_.begin() || address >= std::prev(next)->last) return untracked;
  const OwnedRange& range = *std::prev(next);
  const std::uint64_t offset = address - range.first + range.offset;
  const auto first = std::find_if(ranges_.begin(), ranges_.end(), [&](const OwnedRange& other) {
    return other.file == range.file && offset >= other.offset && offset - other.offset < other.last - other.first;
  });
  const std::uintptr_t memory = first->first + (offset - first->offset);
  std::uint32_t line = 0;
  if (memory == address) {
    line = static_cast<std::uint32_t>(lines_.size());
    lines_.push_back({0, 0, 0, reinterpret_cast<unsigned*>(memory), range.owner});
  } else {
    line = find(reinterpret_cast<const void*>(memory));
    at = table_.size();  // it may have moved
  }
  if (2 * ++used_ > table_.size()) {
    std::vector<Entry> old(table_.size() * 2);
    old.swap(table_);
    --shift_;
    for (const Entry& entry : old) {
      if (entry.unit != 0) put(entry);
    }
    at = table_.size();
  }
  if (at < table_.size()) {
    table_[at] = {unit, line};
  } else {
    put({unit, line});
  }
  return line;
}

void LinkLines::put(const Entry& entry) noexcept {
  std::size_t at = hash(entry.unit);
  while (table_[at].unit != 0) at = (at + 1) & (table_.size() - 1);
  table_[at] = entry;
}

void LinkLines::settle() noexcept {
  for (LinkLine& line : lines_) {
    unsigned missing = 0xF;
    for (std::uint32_t id = line.newest; id != 0 && missing != 0; id = messages_[id].older) {
      const LinkMessage& message = messages_[id];
      for (unsigned i = 0; i < 4; ++i) {
        if ((message.mask & missing & (1U << i)) == 0) continue;
        std::atomic_ref<unsigned>(line.memory[i]).store(message.words[i], std::memory_order_release);
      }
      missing &= ~static_cast<unsigned>(message.mask);
    }
    line.newest = 0;
  }
  messages_.resize(1);
}

}  // namespace arbiter
