#include "cpu/memory.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

#include "arbiter/error.hpp"
#include "arbiter/generator/file_size_signal.hpp"
#include "arbiter/vocabulary.hpp"

namespace arbiter {
namespace {

constexpr std::string_view device_prefix = "arbiter-device-";
constexpr std::string_view mapped_prefix = "/memfd:arbiter-device-";

std::size_t round_up(std::size_t value, std::size_t unit) noexcept { return (value + unit - 1) / unit * unit; }

std::size_t page_bytes() noexcept { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

std::string mebibytes(std::size_t bytes) { return fmt::format("{} MiB", (bytes + (1U << 20) - 1) >> 20); }

/// One field of /proc/meminfo in bytes; 0 if it is not there.
std::size_t memory_information(std::string_view field) noexcept {
  try {
    std::ifstream file("/proc/meminfo");
    std::string name;
    std::size_t kibibytes = 0;
    std::string rest;
    while (file >> name >> kibibytes && std::getline(file, rest)) {
      if (name == field) return kibibytes << 10;
    }
  } catch (...) {
  }
  return 0;
}

/// Calls visit(range, owner) for every mapping of this process, in order of addresses; owner is the unique id of a CPU
/// device, or empty, and the range's own `owner` is not filled in.
template <typename Visit>
void visit_mappings(Visit visit) {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  while (std::getline(maps, line)) {
    unsigned long first = 0;
    unsigned long last = 0;
    unsigned long offset = 0;
    unsigned long inode = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx %*s %lx %*s %lu", &first, &last, &offset, &inode) != 4) continue;
    std::string_view owner;
    if (const std::size_t at = line.find(mapped_prefix); at != std::string::npos) {
      owner = std::string_view(line).substr(at + mapped_prefix.size());
      owner = owner.substr(0, owner.find(' '));
    }
    visit(OwnedRange{first, last, 0, inode, offset}, owner);
  }
}

}  // namespace

std::size_t available_host_memory() noexcept { return memory_information("MemAvailable:"); }
std::size_t total_host_memory() noexcept { return memory_information("MemTotal:"); }

MemoryFile::MemoryFile(std::string_view owner, std::size_t bytes) {
  // Such files are not limited by anything but the kernel's out-of-memory killer, so ask before touching.
  const std::size_t available = available_host_memory();
  if (available != 0 && bytes > available) {
    throw Unavailable("not enough host memory for the CPU device: " + mebibytes(bytes) + " asked, " +
                      mebibytes(available) + " available; use smaller messages or fewer ranks");
  }
  const std::string name = std::string(device_prefix) + std::string(owner);
  descriptor_ = ::memfd_create(name.c_str(), MFD_CLOEXEC);
  if (descriptor_ < 0) throw Unavailable(std::string("memfd_create failed: ") + std::strerror(errno));
  const FileSizeSignalBlocked blocked;
  if (::ftruncate(descriptor_, static_cast<off_t>(bytes)) != 0) {
    const int error = errno;
    ::close(descriptor_);
    throw Unavailable("cannot make a memory file of " + mebibytes(bytes) + ": " + std::strerror(error));
  }
}

MemoryFile& MemoryFile::operator=(MemoryFile&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

MemoryFile::~MemoryFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

CpuMemory::~CpuMemory() {
  for (const auto& [address, block] : blocks_) ::munmap(block.mapping, block.mapped_bytes);
}

void* CpuMemory::allocate(std::size_t bytes, PointerKind kind) {
  const std::size_t used = round_up(std::max<std::size_t>(bytes, 1), alignment);
  const std::size_t data_bytes = round_up(used, page_bytes());
  if (used < bytes || data_bytes < used) {
    throw Unavailable(fmt::format("cannot allocate {} bytes: more than the address space", bytes));
  }
  const std::size_t mapped_bytes = data_bytes + page_bytes();
  // Host-visible memory is not device memory, so its mapping must not be named as such.
  const MemoryFile file(kind == PointerKind::here ? owner_ : "", data_bytes);
  void* mapping = ::mmap(nullptr, mapped_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) {
    throw Unavailable("cannot map " + mebibytes(mapped_bytes) + " for the CPU device: " + std::strerror(errno));
  }
  if (::mmap(mapping, data_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file.descriptor(), 0) == MAP_FAILED) {
    const int error = errno;
    ::munmap(mapping, mapped_bytes);
    throw Unavailable("cannot map " + mebibytes(data_bytes) + " for the CPU device: " + std::strerror(error));
  }
  std::byte* data = static_cast<std::byte*>(mapping) + (data_bytes - used);
  try {
    blocks_.emplace(reinterpret_cast<std::uintptr_t>(data), Block{bytes, mapping, mapped_bytes, kind});
  } catch (...) {
    ::munmap(mapping, mapped_bytes);
    throw;
  }
  std::memset(data, 0xFF, used);
  return data;
}

void CpuMemory::release(void* data) noexcept {
  const auto found = blocks_.find(reinterpret_cast<std::uintptr_t>(data));
  if (found == blocks_.end()) return;
  ::munmap(found->second.mapping, found->second.mapped_bytes);
  blocks_.erase(found);
}

PointerKind CpuMemory::classify(const void* pointer) const {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  const auto next = blocks_.upper_bound(address);
  if (next != blocks_.begin()) {
    const auto& [start, block] = *std::prev(next);
    if (address - start < block.bytes) return block.kind;
  }
  // The slow path, for pointers that are about to be refused and for symmetric memory: mappings say whose they are.
  PointerKind kind = PointerKind::unknown;
  visit_mappings([&](const OwnedRange& range, std::string_view owner) {
    if (address < range.first || address >= range.last) return;
    kind = owner.empty() ? PointerKind::host : owner == owner_ ? PointerKind::here : PointerKind::other_device;
  });
  return kind;
}

std::vector<OwnedRange> owned_ranges() {
  std::vector<OwnedRange> ranges;
  visit_mappings([&](OwnedRange range, std::string_view owner) {
    constexpr std::string_view prefix = "cpu:";
    if (!owner.starts_with(prefix)) return;
    const char* end = owner.data() + owner.size();
    if (std::from_chars(owner.data() + prefix.size(), end, range.owner).ptr == end) ranges.push_back(range);
  });
  return ranges;
}

// ---- Multicast ranges ----

namespace {

constexpr std::string_view multicast_owner = "multicast";

/// The page in front of a range.
struct MulticastHeader {
  std::uint64_t identity = 0;  // of this range, among all that there ever were
  std::uint64_t bytes = 0;
  std::uint64_t count = 0;
  std::uint64_t members[max_world] = {};
};

std::uint64_t random_identity() {
  std::random_device random;
  return (static_cast<std::uint64_t>(random()) << 32) | random();
}

/// The identity of the range that begins there now; 0 if there is none, or if the system does not let a process ask.
std::uint64_t identity_at(std::uintptr_t first) noexcept {
  MulticastHeader header;
  const iovec to{&header, sizeof(header)}, from{reinterpret_cast<void*>(first - page_bytes()), sizeof(header)};
  const ssize_t read = ::process_vm_readv(::getpid(), &to, 1, &from, 1, 0);  // of what is not mapped: EFAULT
  return read == static_cast<ssize_t>(sizeof(header)) ? header.identity : 0;
}

}  // namespace

MulticastRange::MulticastRange(const std::vector<void*>& members, std::size_t bytes)
    : mapped_bytes_(page_bytes() + round_up(bytes, page_bytes())) {
  if (members.size() > std::size_t{max_world}) throw InvalidArgument("multicast memory joins at most 16 ranks");
  const MemoryFile file(multicast_owner, page_bytes());
  mapping_ = ::mmap(nullptr, mapped_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED) {
    mapping_ = nullptr;
    throw Unavailable(std::string("cannot reserve multicast addresses: ") + std::strerror(errno));
  }
  if (::mmap(mapping_, page_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file.descriptor(), 0) ==
      MAP_FAILED) {
    const int error = errno;
    ::munmap(mapping_, mapped_bytes_);
    throw Unavailable(std::string("cannot map a multicast range: ") + std::strerror(error));
  }
  MulticastHeader header;
  header.identity = random_identity();
  header.bytes = round_up(bytes, page_bytes());
  header.count = members.size();
  for (std::size_t r = 0; r < members.size(); ++r) header.members[r] = reinterpret_cast<std::uintptr_t>(members[r]);
  std::memcpy(mapping_, &header, sizeof(header));
  address_ = static_cast<std::byte*>(mapping_) + page_bytes();
}

MulticastRange::MulticastRange(MulticastRange&& other) noexcept { *this = std::move(other); }

MulticastRange& MulticastRange::operator=(MulticastRange&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  std::swap(address_, other.address_);
  return *this;
}

MulticastRange::~MulticastRange() {
  if (mapping_ != nullptr) ::munmap(mapping_, mapped_bytes_);
}

const MulticastLookup::Range* MulticastLookup::find(std::uintptr_t address) const noexcept {
  for (const Range& range : ranges_) {
    if (range.first <= address && address < range.last) return &range;
  }
  return nullptr;
}

void MulticastLookup::look() {
  ranges_.clear();
  visit_mappings([&](const OwnedRange& mapping, std::string_view owner) {
    if (owner != multicast_owner) return;
    MulticastHeader header;
    std::memcpy(&header, reinterpret_cast<const void*>(mapping.first), sizeof(header));
    ranges_.push_back({mapping.last, mapping.last + header.bytes, header.identity, {}});
    ranges_.back().members.assign(header.members, header.members + header.count);
  });
}

unsigned MulticastLookup::members(const void* address, const void** members) {
  if (std::exchange(doubted_, false)) {
    std::erase_if(ranges_, [](const Range& range) { return identity_at(range.first) != range.identity; });
  }
  const auto asked = reinterpret_cast<std::uintptr_t>(address);
  const Range* found = find(asked);
  if (found == nullptr) {
    look();
    found = find(asked);
    if (found == nullptr) return 0;
  }
  for (std::size_t r = 0; r < found->members.size(); ++r) {
    members[r] = reinterpret_cast<const void*>(found->members[r] + (asked - found->first));
  }
  return static_cast<unsigned>(found->members.size());
}

}  // namespace arbiter
