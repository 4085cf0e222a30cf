// Symmetric memory on CUDA: the providers `vmm` and `cuda_ipc`.
//
// Ranks of one process use the owner's address directly, so any number of ranks may share one GPU. Ranks of other
// processes map the same physical memory. Memory lives until the last rank of its process has released it, so a rank
// that leaves early cannot make a peer's kernel fault.
#pragma once

#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arbiter/error.hpp"
#include "arbiter/runtime/symmetric_memory.hpp"
#include "cuda/device.hpp"
#include "environment/process_identity.hpp"
#include "group/collective.hpp"
#include "memory/descriptor_exchange.hpp"

namespace arbiter {

/// Collective. Both providers, in the order of preference. Throws only what the bootstrap throws.
std::vector<ProviderProbe> probe_cuda_symmetric(Device& device, Bootstrap& bootstrap);

/// Collective. `provider` is vmm or cuda_ipc (else InvalidArgument). Zero-filled. When any rank fails, every rank
/// throws Unavailable with the first failing rank's reason. `bytes` must be equal on all ranks, else Disagreement.
std::unique_ptr<SymmetricMemory> allocate_cuda_symmetric(Device& device, Bootstrap& bootstrap,
                                                         SymmetricProvider provider, std::size_t bytes, bool multicast);

/// Collective. See share_memory.
std::unique_ptr<SymmetricMemory> share_cuda_memory(Device& device, Bootstrap& bootstrap, void* data, std::size_t bytes);

/// Memory of some rank, mapped where this process can address it. Released by the destructor.
class CudaMapping {
 public:
  virtual ~CudaMapping() = default;
  virtual void* data() const noexcept = 0;
};

/// Collective. Runs `step` on all ranks; whatever goes wrong anywhere becomes Unavailable everywhere.
template <typename Step>
void together(Bootstrap& bootstrap, const std::string& what, Step step) {
  everywhere(bootstrap, what, [&] {
    try {
      step();
    } catch (const Unavailable&) {
      throw;
    } catch (const std::exception& error) {
      throw Unavailable(error.what());
    }
  });
}

/// What a rank knows about a peer before memory is allocated.
struct CudaPeer {
  int rank = 0;
  ProcessIdentity identity;
  int ordinal = 0;  ///< means something only within its process
  std::string gpu;  ///< unique id
  DescriptorMailbox::Address mailbox;
};

/// What differs between the providers. One object serves one allocation of one rank.
class CudaShareMethod {
 public:
  virtual ~CudaShareMethod() = default;
  /// Local memory of at least `bytes`, which the devices of `here` (ranks of this process, own one included) can
  /// address; exportable if `exported`.
  virtual std::shared_ptr<CudaMapping> create(std::size_t bytes, const std::vector<CudaPeer>& here, bool exported) = 0;
  /// What peers in other processes need besides what they already know.
  virtual std::string handle() const = 0;
  /// The physical memory behind what create() returned, and its size in bytes; 0 where there is none to speak of.
  virtual std::pair<CUmemGenericAllocationHandle, std::size_t> physical() const { return {0, 0}; }
  /// Make a mapping of this process addressable by this rank's device.
  virtual void reach(const CudaPeer& owner) = 0;
  /// Map the memory of ranks in other processes; in the order of `owners`. All ranks call it together.
  virtual std::vector<std::shared_ptr<CudaMapping>> open(const std::vector<CudaPeer>& owners,
                                                         const std::vector<std::string>& handles) = 0;
};

/// `mailbox` outlives the method; null if no rank lives in another process.
/// `multicast_ranks`: size the memory so that a multicast object of so many ranks can hold it; 0: that is not needed.
std::unique_ptr<CudaShareMethod> make_vmm_method(CudaDevice& device, int rank, DescriptorMailbox* mailbox,
                                                 int multicast_ranks);
/// `borrowed` not null: share this memory of the caller instead of allocating some.
std::unique_ptr<CudaShareMethod> make_cuda_ipc_method(CudaDevice& device, void* borrowed = nullptr);

}  // namespace arbiter
