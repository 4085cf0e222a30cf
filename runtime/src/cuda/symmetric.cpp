#include "cuda/symmetric.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "arbiter/error.hpp"
#include "cuda/multicast.hpp"
#include "group/collective.hpp"

namespace arbiter {
namespace {

class CudaSymmetricMemory final : public SymmetricMemory {
 public:
  CudaSymmetricMemory(SymmetricProvider provider, std::size_t bytes, int rank,
                      std::vector<std::shared_ptr<CudaMapping>> ranks, std::shared_ptr<CudaMapping> multicast)
      : provider_(provider), bytes_(bytes), rank_(rank), ranks_(std::move(ranks)), multicast_(std::move(multicast)) {}
  SymmetricProvider provider() const noexcept override { return provider_; }
  std::size_t bytes() const noexcept override { return bytes_; }
  void* local() const noexcept override { return peer(rank_); }
  void* peer(int rank) const noexcept override { return ranks_[static_cast<std::size_t>(rank)]->data(); }
  void* multicast() const noexcept override { return multicast_ ? multicast_->data() : nullptr; }

 private:
  SymmetricProvider provider_;
  std::size_t bytes_;
  int rank_;
  std::vector<std::shared_ptr<CudaMapping>> ranks_;
  std::shared_ptr<CudaMapping> multicast_;  // released before the memory that it holds
};

// A private stream: the default stream would wait for kernels of other ranks that share the GPU.
class ScopedStream {
 public:
  explicit ScopedStream(Device& device) : device_(device), stream_(device.create_stream()) {}
  ~ScopedStream() { device_.destroy_stream(stream_); }
  ScopedStream(const ScopedStream&) = delete;
  ScopedStream& operator=(const ScopedStream&) = delete;
  StreamHandle get() const noexcept { return stream_; }

 private:
  Device& device_;
  StreamHandle stream_;
};

void zero_fill(Device& device, void* memory, std::size_t bytes) {
  const ScopedStream stream(device);
  device.fill_words(memory, 0, (bytes + 3) / 4, stream.get());
  device.synchronize(stream.get());
}

std::vector<CudaPeer> introduce(CudaDevice& device, Bootstrap& bootstrap, const DescriptorMailbox* mailbox) {
  const ProcessIdentity identity = process_identity();
  const DescriptorMailbox::Address address = mailbox != nullptr ? mailbox->address() : DescriptorMailbox::Address{};
  const std::vector<std::string> all = bootstrap.allgather(
      pack({identity.host, identity.process, identity.network_namespace, std::to_string(device.ordinal()),
            device.properties().unique_id, address.socket, address.token, address.folder}));
  std::vector<CudaPeer> peers;
  for (const std::string& text : all) {
    const std::vector<std::string> fields = unpack(text);
    CudaPeer peer;
    peer.rank = static_cast<int>(peers.size());
    peer.identity = {fields.at(0), fields.at(1), fields.at(2)};
    peer.ordinal = std::stoi(fields.at(3));
    peer.gpu = fields.at(4);
    peer.mailbox = {fields.at(5), fields.at(6), fields.at(7)};
    peers.push_back(std::move(peer));
  }
  return peers;
}

// Hosts and namespaces are checked first, because the errors that CUDA gives later do not tell.
void require_reachable(const CudaPeer& self, const std::vector<CudaPeer>& peers, bool by_socket) {
  for (const CudaPeer& peer : peers) {
    if (peer.rank == self.rank || same_process(self.identity, peer.identity)) continue;
    const std::string ranks = fmt::format("ranks {} and {}", self.rank, peer.rank);
    if (!same_host(self.identity, peer.identity)) {
      throw Unavailable(ranks + " run on different hosts; this provider reaches one host only");
    }
    if (by_socket && self.identity.network_namespace != peer.identity.network_namespace) {
      throw Unavailable(ranks + " live in different network namespaces, through which no file descriptor can be " +
                        "passed; start the containers with a shared network");
    }
  }
}

}  // namespace

namespace {

/// `existing` not null: memory of the caller, to be shared as it is.
std::unique_ptr<SymmetricMemory> establish(Device& device, Bootstrap& bootstrap, SymmetricProvider provider,
                                           std::size_t bytes, void* existing, bool multicast) {
  if (provider != SymmetricProvider::vmm && provider != SymmetricProvider::cuda_ipc) {
    throw InvalidArgument("the cuda device has no symmetric-memory provider '" + std::string(to_string(provider)) +
                          "'; valid: vmm, cuda_ipc");
  }
  if (bytes == 0) throw InvalidArgument("symmetric memory of 0 bytes was asked for; expected at least 1");
  CudaDevice& cuda = as_cuda(device);
  const std::string name(to_string(provider));
  const std::string what = existing != nullptr ? fmt::format("share {} bytes of its memory", bytes)
                                               : fmt::format("allocate {} bytes of {} memory", bytes, name);
  require_equal(bootstrap, what, {{"bytes", std::to_string(bytes)}, {"provider", name}});

  std::optional<DescriptorMailbox> mailbox;
  if (provider == SymmetricProvider::vmm && bootstrap.size() > 1) {
    together(bootstrap, what, [&] { mailbox.emplace(); });
  }
  const std::vector<CudaPeer> peers = introduce(cuda, bootstrap, mailbox ? &*mailbox : nullptr);
  const CudaPeer& self = peers[static_cast<std::size_t>(bootstrap.rank())];
  std::vector<CudaPeer> here;    // ranks of this process, with this one
  std::vector<CudaPeer> abroad;  // ranks of other processes
  for (const CudaPeer& peer : peers) {
    const bool shares = peer.rank == self.rank || same_process(self.identity, peer.identity);
    (shares ? here : abroad).push_back(peer);
  }

  const std::unique_ptr<CudaShareMethod> method =
      provider == SymmetricProvider::vmm
          ? make_vmm_method(cuda, self.rank, mailbox ? &*mailbox : nullptr, multicast ? bootstrap.size() : 0)
          : make_cuda_ipc_method(cuda, existing);
  std::shared_ptr<CudaMapping> mine;
  together(bootstrap, what, [&] {
    require_reachable(self, peers, provider == SymmetricProvider::vmm);
    mine = method->create(bytes, here, !abroad.empty());
    if (existing == nullptr) zero_fill(device, mine->data(), bytes);
  });

  // Ranks of this process pick the mapping up through this pointer. It is weak and on the heap, so that a rank that
  // gives up in between (the bootstrap throws) leaves its peers something valid to look at: a few leaked bytes then.
  auto* published = new std::weak_ptr<CudaMapping>(mine);
  const std::vector<std::string> offers =
      bootstrap.allgather(pack({std::to_string(reinterpret_cast<std::uintptr_t>(published)), method->handle()}));

  std::vector<std::shared_ptr<CudaMapping>> ranks(peers.size());
  const auto attach = [&] {
    for (const CudaPeer& peer : here) {
      const auto index = static_cast<std::size_t>(peer.rank);
      if (peer.rank == self.rank) {
        ranks[index] = mine;
        continue;
      }
      const auto address = static_cast<std::uintptr_t>(std::stoull(unpack(offers[index]).at(0)));
      ranks[index] = reinterpret_cast<const std::weak_ptr<CudaMapping>*>(address)->lock();
      if (!ranks[index]) throw Unavailable(fmt::format("rank {} has given up", peer.rank));
      method->reach(peer);
    }
    std::vector<std::string> handles;
    for (const CudaPeer& peer : abroad) handles.push_back(unpack(offers[static_cast<std::size_t>(peer.rank)]).at(1));
    std::vector<std::shared_ptr<CudaMapping>> opened = method->open(abroad, handles);
    for (std::size_t i = 0; i < abroad.size(); ++i) {
      ranks[static_cast<std::size_t>(abroad[i].rank)] = std::move(opened[i]);
    }
  };
  try {
    together(bootstrap, "map its peers' " + name + " memory", attach);
  } catch (const Unavailable&) {  // voted: every rank is past attach()
    delete published;
    throw;
  }
  delete published;
  std::shared_ptr<CudaMapping> all_at_once;
  if (multicast) {
    const auto [handle, physical_bytes] = method->physical();
    all_at_once = join_multicast(cuda.driver(), bootstrap,
                                 {self.rank, peers, mailbox ? &*mailbox : nullptr, handle, physical_bytes});
  }
  return std::make_unique<CudaSymmetricMemory>(provider, bytes, self.rank, std::move(ranks), std::move(all_at_once));
}

}  // namespace

std::unique_ptr<SymmetricMemory> allocate_cuda_symmetric(Device& device, Bootstrap& bootstrap,
                                                         SymmetricProvider provider, std::size_t bytes,
                                                         bool multicast) {
  if (multicast && provider != SymmetricProvider::vmm) {
    throw Unavailable("memory of provider " + std::string(to_string(provider)) + " has no multicast address; vmm has");
  }
  return establish(device, bootstrap, provider, bytes, nullptr, multicast);
}

std::unique_ptr<SymmetricMemory> share_cuda_memory(Device& device, Bootstrap& bootstrap, void* data,
                                                   std::size_t bytes) {
  return establish(device, bootstrap, SymmetricProvider::cuda_ipc, bytes, data, false);
}

namespace {

constexpr std::size_t slot_words = 64;
using Slot = std::vector<std::uint32_t>;

Slot pattern(int from, int to) {
  Slot slot(slot_words);
  for (std::size_t i = 0; i < slot_words; ++i) {
    slot[i] = 0x5A000000U | static_cast<std::uint32_t>(from) << 16U | static_cast<std::uint32_t>(to) << 8U |
              static_cast<std::uint32_t>(i);
  }
  return slot;
}

void expect_slot(Device& device, StreamHandle stream, const SymmetricMemory& memory, int owner, int from,
                 const char* reader) {
  Slot found(slot_words);
  const char* base = static_cast<const char*>(memory.peer(owner));
  device.copy(found.data(), base + static_cast<std::size_t>(from) * slot_words * 4, slot_words * 4, stream);
  device.synchronize(stream);
  if (found != pattern(from, owner)) {
    throw Unavailable(fmt::format("what rank {} wrote to rank {} reads back wrong at {}", from, owner, reader));
  }
}

// Every rank writes a slot of every rank through its own mapping; then owners read their memory and everybody reads
// everybody's: a capability flag is not a capability.
void exercise(Device& device, Bootstrap& bootstrap, SymmetricProvider provider) {
  const int size = bootstrap.size();
  const int rank = bootstrap.rank();
  const std::unique_ptr<SymmetricMemory> memory =
      allocate_cuda_symmetric(device, bootstrap, provider, static_cast<std::size_t>(size) * slot_words * 4, false);
  std::optional<ScopedStream> stream;
  together(bootstrap, "write to its peers", [&] {
    stream.emplace(device);
    for (int peer = 0; peer < size; ++peer) {
      const Slot slot = pattern(rank, peer);
      char* base = static_cast<char*>(memory->peer(peer));
      device.copy(base + static_cast<std::size_t>(rank) * slot_words * 4, slot.data(), slot_words * 4, stream->get());
    }
    device.synchronize(stream->get());
  });
  together(bootstrap, "read what its peers wrote", [&] {
    for (int from = 0; from < size; ++from) {
      expect_slot(device, stream->get(), *memory, rank, from, "its owner");
      expect_slot(device, stream->get(), *memory, from, rank, "its writer");
    }
  });
}

}  // namespace

std::vector<ProviderProbe> probe_cuda_symmetric(Device& device, Bootstrap& bootstrap) {
  std::vector<ProviderProbe> probes;
  for (const SymmetricProvider provider : {SymmetricProvider::vmm, SymmetricProvider::cuda_ipc}) {
    ProviderProbe probe;
    probe.provider = provider;
    try {
      exercise(device, bootstrap, provider);
      probe.usable = true;
    } catch (const Unavailable& error) {
      probe.reason = error.what();
    }
    probes.push_back(std::move(probe));
  }
  return probes;
}

}  // namespace arbiter
