#include "cpu/stack_pool.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "arbiter/error.hpp"
#include "cpu/sanitizer.hpp"

namespace arbiter {
namespace {

constexpr std::size_t stacks_per_mapping = 128;

// All fibers of a launch run the same kernel, so a frame that is too large overflows on every stack. Guarding the
// first ones is enough to turn that into a fault, and keeps the number of mappings far below the system's limit.
constexpr std::size_t guarded_stacks = 256;

// Fibers suspend at the same depth. If all stacks began at the same offset within a page, their hot lines would
// compete for the same few cache sets.
constexpr std::size_t colours = 16;
constexpr std::size_t colour_bytes = 256;

}  // namespace

FiberStackPool::~FiberStackPool() {
  for (const Mapping& mapping : mappings_) {
    forget_stack_contents(mapping.address, mapping.bytes);  // the address may be somebody else's memory next
    ::munmap(mapping.address, mapping.bytes);
  }
}

void FiberStackPool::grow() {
  const std::size_t bytes = stacks_per_mapping * stack_bytes;
  mappings_.reserve(mappings_.size() + 1);
  free_.reserve(created_ + stacks_per_mapping);
  void* address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) {
    throw Unavailable(
        fmt::format("cannot map {} MiB of stacks for the CPU device after {} stacks: {}; use fewer blocks, threads or "
                    "ranks, or raise the memory limit",
                    bytes >> 20, created_, std::strerror(errno)));
  }
  mappings_.push_back({address, bytes});
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  for (std::size_t i = stacks_per_mapping; i-- > 0;) {
    std::byte* bottom = static_cast<std::byte*>(address) + i * stack_bytes;
    std::byte* top = bottom + stack_bytes - (i % colours) * colour_bytes;
    if (created_ + i < guarded_stacks && ::mprotect(bottom, page, PROT_NONE) == 0) bottom += page;
    free_.push_back({bottom, top});
  }
  created_ += stacks_per_mapping;
}

}  // namespace arbiter
