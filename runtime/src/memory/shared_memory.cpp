#include "memory/shared_memory.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "cpu/memory.hpp"

namespace arbiter {
namespace {

constexpr std::size_t page = 4096;

class Mapping {
 public:
  Mapping() = default;
  Mapping(int descriptor, std::size_t bytes)
      : address_(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)), bytes_(bytes) {
    if (address_ == MAP_FAILED) {
      throw Unavailable(fmt::format("cannot map {} bytes of shared memory: {}", bytes, std::strerror(errno)));
    }
  }
  Mapping(Mapping&& other) noexcept
      : address_(std::exchange(other.address_, MAP_FAILED)), bytes_(std::exchange(other.bytes_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(address_, other.address_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Mapping() {
    if (address_ != MAP_FAILED) ::munmap(address_, bytes_);
  }
  void* address() const noexcept { return address_; }

 private:
  void* address_ = MAP_FAILED;
  std::size_t bytes_ = 0;
};

/// What a rank tells its peers so that they can open its memory. Fixed layout: it crosses processes.
struct Announcement {
  std::uint64_t asked_bytes = 0;  // by the caller
  std::uint64_t device = 0;       // of the file, to be sure that the descriptor still means the same
  std::uint64_t inode = 0;
  std::int64_t process = 0;
  std::int32_t descriptor = -1;  // -1: this rank failed
  std::int32_t reserved = 0;
};

class SharedMemory final : public SymmetricMemory {
 public:
  SharedMemory(int rank, std::size_t bytes, std::vector<Mapping> ranks, MulticastRange multicast)
      : rank_(rank), bytes_(bytes), ranks_(std::move(ranks)), multicast_(std::move(multicast)) {}
  SymmetricProvider provider() const noexcept override { return SymmetricProvider::shared_memory; }
  std::size_t bytes() const noexcept override { return bytes_; }
  void* local() const noexcept override { return peer(rank_); }
  void* peer(int rank) const noexcept override { return ranks_[static_cast<std::size_t>(rank)].address(); }
  void* multicast() const noexcept override { return multicast_.address(); }

 private:
  int rank_;
  std::size_t bytes_;
  std::vector<Mapping> ranks_;
  MulticastRange multicast_;
};

Mapping open_peer(const Announcement& peer, int rank, std::size_t mapped_bytes) {
  const std::string path = fmt::format("/proc/{}/fd/{}", peer.process, peer.descriptor);
  const MemoryFile file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (file.descriptor() < 0) {
    throw Unavailable(
        fmt::format("cannot open the memory of rank {} at {}: {}; ranks on the CPU device must be processes of one "
                    "user, host and process-id namespace",
                    rank, path, std::strerror(errno)));
  }
  struct stat status {};
  if (::fstat(file.descriptor(), &status) != 0 || status.st_dev != peer.device || status.st_ino != peer.inode) {
    throw Unavailable(
        fmt::format("what is at {} is not the memory of rank {}; ranks on the CPU device must run on one host and in "
                    "one process-id namespace",
                    path, rank));
  }
  return Mapping(file.descriptor(), mapped_bytes);
}

/// The reasons of all ranks in one text; empty when every rank succeeded. The collective vote.
std::string vote(Bootstrap& bootstrap, const std::string& mine) {
  const std::vector<std::string> reasons = bootstrap.allgather(mine);
  std::string text;
  for (std::size_t r = 0; r < reasons.size(); ++r) {
    if (reasons[r].empty()) continue;
    text += fmt::format("{}{}: {}", (text.empty() ? "rank " : "; rank "), r, reasons[r]);
  }
  return text;
}

/// What `writer` writes for `reader`: different for each pair, never zero.
std::uint64_t pattern(int writer, int reader) {
  return 0xA5B1'0000'0000'0001ULL + (static_cast<std::uint64_t>(writer) << 32) +
         (static_cast<std::uint64_t>(reader) << 8);
}

/// Writes to every peer, and reads what every peer wrote here.
std::string exchange_patterns(const SymmetricMemory& memory, Bootstrap& bootstrap) {
  const int ranks = bootstrap.size();
  const int mine = bootstrap.rank();
  const auto word = [](void* base, int index) {
    return std::atomic_ref<std::uint64_t>(static_cast<std::uint64_t*>(base)[index]);
  };
  for (int r = 0; r < ranks; ++r) word(memory.peer(r), mine).store(pattern(mine, r), std::memory_order_release);
  bootstrap.barrier();
  for (int r = 0; r < ranks; ++r) {
    if (word(memory.local(), r).load(std::memory_order_acquire) != pattern(r, mine)) {
      return fmt::format("what rank {} wrote did not arrive", r);
    }
    if (word(memory.peer(r), mine).load(std::memory_order_acquire) != pattern(mine, r)) {
      return fmt::format("what was written to rank {} cannot be read back", r);
    }
  }
  return {};
}

}  // namespace

std::unique_ptr<SymmetricMemory> allocate_shared_memory(Device& device, Bootstrap& bootstrap, std::size_t bytes,
                                                        bool multicast) {
  const auto ranks = static_cast<std::size_t>(bootstrap.size());
  const std::size_t mapped_bytes = (std::max<std::size_t>(bytes, 1) + page - 1) / page * page;
  std::string failure;
  Announcement mine;
  mine.asked_bytes = bytes;
  MemoryFile file;
  try {
    if (mapped_bytes < bytes) throw Unavailable(fmt::format("{} bytes are more than the address space", bytes));
    file = MemoryFile(device.properties().unique_id, mapped_bytes);
    struct stat status {};
    if (::fstat(file.descriptor(), &status) != 0) throw Unavailable(std::string("fstat: ") + std::strerror(errno));
    mine.device = status.st_dev;
    mine.inode = status.st_ino;
    mine.process = ::getpid();
    mine.descriptor = file.descriptor();
  } catch (const Error& error) {
    failure = error.what();
  }
  std::vector<Announcement> all(ranks);
  bootstrap.allgather(&mine, sizeof(mine), all.data());

  std::vector<Mapping> mappings;
  for (std::size_t r = 0; r < ranks && failure.empty(); ++r) {
    try {
      if (all[r].asked_bytes != bytes || all[r].descriptor < 0) break;  // that rank, or the check below, tells why
      mappings.push_back(open_peer(all[r], static_cast<int>(r), mapped_bytes));
    } catch (const Error& error) {
      failure = error.what();
    }
  }
  MulticastRange range;
  if (multicast && mappings.size() == ranks) {
    try {
      std::vector<void*> members;
      for (const Mapping& mapping : mappings) members.push_back(mapping.address());
      range = MulticastRange(members, mapped_bytes);
    } catch (const Error& error) {
      failure = error.what();
    }
  }
  // Behind the vote every rank has opened every file, so the descriptors may be closed.
  const std::string reasons = vote(bootstrap, failure);
  for (std::size_t r = 1; r < ranks; ++r) {
    if (all[r].asked_bytes == all[0].asked_bytes) continue;
    throw Disagreement(fmt::format("rank 0 asked for {} bytes of symmetric memory, rank {} for {}", all[0].asked_bytes,
                                   r, all[r].asked_bytes));
  }
  if (!reasons.empty()) throw Unavailable("no symmetric memory from provider shared_memory: " + reasons);
  return std::make_unique<SharedMemory>(bootstrap.rank(), bytes, std::move(mappings), std::move(range));
}

namespace {

/// Memory of ranks that are threads of this process: everybody may use everybody's addresses.
class OwnMemory final : public SymmetricMemory {
 public:
  OwnMemory(int rank, std::size_t bytes, std::vector<void*> ranks)
      : rank_(rank), bytes_(bytes), ranks_(std::move(ranks)) {}
  SymmetricProvider provider() const noexcept override { return SymmetricProvider::shared_memory; }
  std::size_t bytes() const noexcept override { return bytes_; }
  void* local() const noexcept override { return peer(rank_); }
  void* peer(int rank) const noexcept override { return ranks_[static_cast<std::size_t>(rank)]; }

 private:
  int rank_;
  std::size_t bytes_;
  std::vector<void*> ranks_;
};

}  // namespace

std::unique_ptr<SymmetricMemory> share_own_memory(Bootstrap& bootstrap, void* data, std::size_t bytes) {
  struct Offer {
    std::int64_t process = 0;
    std::uint64_t address = 0;
  };
  const Offer mine{::getpid(), reinterpret_cast<std::uintptr_t>(data)};
  std::vector<Offer> all(static_cast<std::size_t>(bootstrap.size()));
  bootstrap.allgather(&mine, sizeof(mine), all.data());
  std::vector<void*> ranks;
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (all[r].process != all[0].process) {
      throw Unavailable(
          fmt::format("ranks 0 and {} are different processes, and the CPU device shares only memory that it allocates "
                      "for all ranks together; use symmetric memory of the communicator",
                      r));
    }
    ranks.push_back(reinterpret_cast<void*>(static_cast<std::uintptr_t>(all[r].address)));
  }
  return std::make_unique<OwnMemory>(bootstrap.rank(), bytes, std::move(ranks));
}

ProviderProbe probe_shared_memory(Device& device, Bootstrap& bootstrap) {
  ProviderProbe probe;
  probe.provider = SymmetricProvider::shared_memory;
  std::unique_ptr<SymmetricMemory> memory;
  try {
    memory = allocate_shared_memory(device, bootstrap, page, false);
  } catch (const Unavailable& error) {
    probe.reason = error.what();  // the same on every rank
    return probe;
  }
  probe.reason = vote(bootstrap, exchange_patterns(*memory, bootstrap));
  probe.usable = probe.reason.empty();
  return probe;
}

}  // namespace arbiter
