// Memory of the CPU device: who owns which address, also across the ranks of one process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/device.hpp"

namespace arbiter {

/// A closed-on-exec file descriptor of shared memory that is not in any file system.
class MemoryFile {
 public:
  MemoryFile() = default;
  /// `bytes` of zeros. The owner's name becomes part of every mapping's name (see /proc/self/maps), which is how a
  /// pointer is recognised as another rank's. Throws Unavailable.
  MemoryFile(std::string_view owner, std::size_t bytes);
  /// Takes over a descriptor.
  explicit MemoryFile(int descriptor) noexcept : descriptor_(descriptor) {}
  MemoryFile(MemoryFile&& other) noexcept : descriptor_(other.descriptor_) { other.descriptor_ = -1; }
  MemoryFile& operator=(MemoryFile&& other) noexcept;
  ~MemoryFile();
  int descriptor() const noexcept { return descriptor_; }

 private:
  int descriptor_ = -1;
};

/// Bytes that can still be allocated on this host, and bytes that it has. 0 if the system does not say.
std::size_t available_host_memory() noexcept;
std::size_t total_host_memory() noexcept;

/// Every mapping of a CPU device's memory in this process, by address, with the number in the owner's id "cpu:<n>".
/// The same memory may be mapped more than once: then file and offset are the same.
struct OwnedRange {
  std::uintptr_t first = 0;
  std::uintptr_t last = 0;  ///< one past the end
  int owner = 0;
  std::uint64_t file = 0;
  std::uint64_t offset = 0;  ///< of `first` in the file
};
std::vector<OwnedRange> owned_ranges();

/// Addresses that stand for the same place in the memory of several ranks: multicast memory of the CPU device. Nothing
/// is mapped there, so only kernels that ask the executor where an address leads can use it. The executor recognises
/// ranges by the name of their mapping.
class MulticastRange {
 public:
  MulticastRange() = default;
  /// `members`: each rank's memory as this process addresses it, at most max_world. Throws Unavailable.
  MulticastRange(const std::vector<void*>& members, std::size_t bytes);
  MulticastRange(MulticastRange&& other) noexcept;
  MulticastRange& operator=(MulticastRange&& other) noexcept;
  ~MulticastRange();
  void* address() const noexcept { return address_; }

 private:
  void* mapping_ = nullptr;
  std::size_t mapped_bytes_ = 0;
  void* address_ = nullptr;
};

/// What an address in a multicast range stands for. Reading the process's mappings takes milliseconds where there are
/// thousands (stacks of fibers), so what was found is kept, and after doubt() looked at again before it is believed.
class MulticastLookup {
 public:
  /// Ranges may have come or gone since the last look.
  void doubt() noexcept { doubted_ = true; }
  /// Fills `members`, which has room for max_world addresses, and returns how many there are; 0 if the address lies in
  /// no multicast range.
  unsigned members(const void* address, const void** members);

 private:
  struct Range {
    std::uintptr_t first;
    std::uintptr_t last;
    std::uint64_t identity;
    std::vector<std::uintptr_t> members;
  };
  const Range* find(std::uintptr_t address) const noexcept;
  void look();
  std::vector<Range> ranges_;
  bool doubted_ = false;
};

/// Memory of one CPU device. Every block ends at an inaccessible page (rounded up to 512 bytes), so that a kernel that
/// runs past the end faults, and holds 0xFF bytes (not a number in every format), so that reading what was never
/// written shows.
class CpuMemory {
 public:
  /// `owner` is the device's unique id.
  explicit CpuMemory(std::string owner) : owner_(std::move(owner)) {}
  CpuMemory(const CpuMemory&) = delete;
  CpuMemory& operator=(const CpuMemory&) = delete;
  ~CpuMemory();

  static constexpr std::size_t alignment = 512;

  /// Throws Unavailable.
  void* allocate(std::size_t bytes, PointerKind kind);
  /// Null is ignored; so is an address that allocate() did not return, because there is nobody to tell.
  void release(void*) noexcept;
  /// here: this device's; other_device: another rank's CPU device in this process; unknown: not mapped at all.
  PointerKind classify(const void*) const;

 private:
  struct Block {
    std::size_t bytes;
    void* mapping;
    std::size_t mapped_bytes;
    PointerKind kind;
  };
  std::string owner_;
  std::map<std::uintptr_t, Block> blocks_;
};

}  // namespace arbiter
