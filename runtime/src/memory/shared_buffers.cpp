#include "memory/shared_buffers.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>

#include "arbiter/error.hpp"
#include "group/collective.hpp"

namespace arbiter {

std::vector<void*> seen_by_peers(const SymmetricMemory& memory, Bootstrap& bootstrap) {
  const auto ranks = static_cast<std::size_t>(bootstrap.size());
  std::vector<std::uint64_t> mine(ranks);
  std::vector<std::uint64_t> all(ranks * ranks);
  for (std::size_t r = 0; r < ranks; ++r) {
    mine[r] = reinterpret_cast<std::uintptr_t>(memory.peer(static_cast<int>(r)));
  }
  bootstrap.allgather(mine.data(), ranks * sizeof(std::uint64_t), all.data());
  std::vector<void*> seen(ranks);
  for (std::size_t r = 0; r < ranks; ++r) {
    const std::uint64_t address = all[r * ranks + static_cast<std::size_t>(bootstrap.rank())];
    seen[r] = reinterpret_cast<void*>(static_cast<std::uintptr_t>(address));
  }
  return seen;
}

SharedBuffers::SharedBuffers(Device& device, Bootstrap& bootstrap, std::optional<SymmetricProvider> provider,
                             bool multicast)
    : device_(device), bootstrap_(bootstrap), provider_(provider), multicast_(multicast) {}

void SharedBuffers::require_provider() const {
  if (!provider_) throw Unavailable("tensors cannot be shared: this group has no symmetric memory");
}

void* SharedBuffers::allocate(std::size_t bytes) {
  everywhere(bootstrap_, "allocate symmetric memory", [&] {
    require_provider();
    if (bytes == 0) throw InvalidArgument("symmetric memory of 0 bytes was asked for; expected at least 1");
  });
  require_equal(bootstrap_, "allocating symmetric memory", {{"bytes", std::to_string(bytes)}});
  std::unique_ptr<SymmetricMemory> memory = allocate_symmetric(device_, bootstrap_, *provider_, bytes, multicast_);
  void* data = memory->local();
  insert(std::move(memory), true);
  return data;
}

void SharedBuffers::add(void* data, std::size_t bytes) {
  everywhere(bootstrap_, "register a buffer", [&] {
    require_provider();
    if (data == nullptr || bytes == 0) {
      throw InvalidArgument(fmt::format("a buffer to register needs an address and a size; got {} bytes at {}", bytes,
                                        (data == nullptr ? "null" : "an address")));
    }
    if (device_.classify(data) != PointerKind::here) {
      throw InvalidArgument("a buffer to register must be memory of this rank's device");
    }
    const auto begin = reinterpret_cast<std::uintptr_t>(data);
    for (const Buffer& known : buffers_) {
      if (begin < known.end && known.begin < begin + bytes) {
        throw InvalidArgument("the buffer overlaps one that is already registered; release that one first");
      }
    }
  });
  require_equal(bootstrap_, "registering a buffer", {{"bytes", std::to_string(bytes)}});
  insert(share_memory(device_, bootstrap_, data, bytes), false);
}

void SharedBuffers::insert(std::unique_ptr<SymmetricMemory> memory, bool allocated) {
  Buffer buffer;
  buffer.begin = reinterpret_cast<std::uintptr_t>(memory->local());
  buffer.end = buffer.begin + memory->bytes();
  buffer.number = ++created_;
  buffer.allocated = allocated;
  buffer.seen_by = seen_by_peers(*memory, bootstrap_);
  buffer.memory = std::move(memory);
  const auto place = std::upper_bound(buffers_.begin(), buffers_.end(), buffer.begin,
                                      [](std::uintptr_t begin, const Buffer& other) { return begin < other.begin; });
  buffers_.insert(place, std::move(buffer));
}

void SharedBuffers::release(const void* data) {
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  const auto found =
      std::find_if(buffers_.begin(), buffers_.end(), [&](const Buffer& buffer) { return buffer.begin == begin; });
  // No rank unmaps what a peer's kernel still uses.
  everywhere(bootstrap_, "release a shared buffer", [&] {
    if (found == buffers_.end()) {
      throw InvalidArgument(
          "the address is not that of a registered buffer or of symmetric memory of this communicator");
    }
    device_.synchronize(nullptr);
  });
  require_equal(bootstrap_, "releasing a shared buffer", {{"buffer", std::to_string(found->number)}});
  buffers_.erase(found);
}

const SharedBuffers::Buffer* SharedBuffers::find(const void* data, std::uint64_t bytes) const noexcept {
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  const auto next = std::upper_bound(buffers_.begin(), buffers_.end(), begin,
                                     [](std::uintptr_t address, const Buffer& other) { return address < other.begin; });
  if (next == buffers_.begin()) return nullptr;
  const Buffer& buffer = *std::prev(next);
  return begin < buffer.end && bytes <= buffer.end - begin ? &buffer : nullptr;
}

}  // namespace arbiter
