// What a group of ranks can do, and the group itself: everything that its candidates share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arbiter/communicator.hpp"
#include "arbiter/db/kernels.hpp"
#include "arbiter/generator/cache.hpp"
#include "arbiter/generator/catalogue.hpp"
#include "arbiter/generator/render.hpp"
#include "arbiter/runtime/nccl.hpp"

namespace arbiter {

/// What a group can do, and why not the rest: all that choosing a candidate needs. A plain value, equal on all ranks.
struct GroupCapabilities {
  int size = 1;
  Environment environment;
  TargetLimits limits;
  NumericsPolicy numerics = NumericsPolicy::any;  ///< which classes may be chosen; equal on all ranks
  /// The most ranks that share one device. More than 1 is for proving kernels on fewer GPUs than ranks, not for use.
  int ranks_on_device = 1;
  /// The provider all ranks voted for; empty for a single rank, or when none works (then only NCCL is left).
  std::optional<SymmetricProvider> symmetric_provider;
  std::string symmetric_reason;  ///< why there is no symmetric memory; empty if there is
  /// Why kernels may not use multicast; empty if a store and a load have proven it on all ranks.
  std::string multicast_reason;
  std::string nccl_reason;  ///< why there is no NCCL; empty if there is, or will be once it is needed
  /// Why NCCL configurations cannot be forced on some rank; empty if they can, and without NCCL.
  std::string nccl_forcing_reason;
  /// What there is to choose from. Whoever makes the value keeps them alive.
  const Catalogue* catalogue = &Catalogue::builtin();
  const TemplateMap* templates = &builtin_templates();

  bool multicast() const noexcept { return multicast_reason.empty(); }
  bool has_nccl() const noexcept { return nccl_reason.empty(); }
};

struct GroupOptions {
  EnvironmentVariables variables;
  bool nccl = true;
  std::shared_ptr<NcclCommunicator> nccl_communicator;  ///< as in CommunicatorOptions
  std::shared_ptr<KernelCache> cache;
  bool nccl_when_needed = false;  ///< as in CommunicatorOptions: create it in Group::require_nccl()
  std::function<std::shared_ptr<NcclCommunicator>(Device&, Bootstrap&)> make_nccl = {};  ///< as in CommunicatorOptions
  /// Where a kernel cache that the group makes itself says what it has to say; empty: standard error.
  std::function<void(const std::string&)> warn = {};
  /// Bytes of one rotating buffer of the push protocol that a long launch may use. 0: 64 MiB on GPUs, where a change of
  /// buffer costs a fence that waits for the links, and 32 KiB on the CPU device, so that long launches change buffers
  /// there too. Equal on all ranks.
  std::uint64_t push_buffer_bytes = 0;
  /// Where the protocol's counters start. Equal on all ranks. Not 0 only to see them wrap around.
  std::uint32_t first_epoch = 0;
  /// Null: what is built in. Equal on all ranks. Others are for tests of kernels.
  std::shared_ptr<const Catalogue> catalogue = nullptr;
  std::shared_ptr<const TemplateMap> templates = nullptr;
};

class Workspace;      // the memory that kernels use; private to the runtime
class SharedBuffers;  // tensors that peers can address; private to the runtime

/// Everything of a group of ranks that candidates share: device, symmetric workspace, NCCL, cache, fault record.
/// Collective creation, by make_group(). The communicator owns one; the tuner owns one.
class Group {
 public:
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  const GroupCapabilities& capabilities() const noexcept { return capabilities_; }
  int rank() const noexcept { return bootstrap_->rank(); }
  int size() const noexcept { return capabilities_.size; }
  const Environment& environment() const noexcept { return capabilities_.environment; }
  const Catalogue& catalogue() const noexcept { return *capabilities_.catalogue; }
  const EnvironmentVariables& variables() const noexcept { return options_.variables; }
  Device& device() noexcept { return *device_; }
  Bootstrap& bootstrap() noexcept { return *bootstrap_; }
  /// The same two, for whatever lives on its own for a while.
  const std::shared_ptr<Bootstrap>& shared_bootstrap() const noexcept { return bootstrap_; }
  const std::shared_ptr<Device>& shared_device() const noexcept { return device_; }

  /// Null without NCCL, and until require_nccl() where it has to wait.
  NcclCommunicator* nccl() noexcept { return nccl_.get(); }
  /// Collective, outside capture. Creates NCCL's communicator where that was put off. Afterwards there is either one on
  /// every rank, or a reason why not.
  void require_nccl();
  KernelCache& cache() noexcept { return *options_.cache; }
  /// Kernels that came with a snapshot: looked at before the cache.
  const KernelSet& stored_kernels() const noexcept { return *kernels_; }
  /// Local: equal snapshots on all ranks are the caller's concern.
  void provide(std::shared_ptr<const KernelSet> kernels) { kernels_ = std::move(kernels); }

  Workspace& workspace() noexcept { return *workspace_; }
  SharedBuffers& shared_buffers() noexcept { return *shared_buffers_; }
  std::uint64_t push_buffer_bytes() const noexcept;  ///< see GroupOptions; never 0
  /// Collective. A pair of NCCL symmetric windows of at least `bytes`, shared by all candidates of the group.
  NcclCommunicator::RegisteredBuffers& reserve_nccl_symmetric(std::size_t bytes);
  /// Of each window; 0 before the first reservation.
  std::size_t nccl_symmetric_bytes() const noexcept { return symmetric_bytes_; }
  /// Collective. A pair of buffers of at least `bytes` that NCCL's classic kernels use without a copy. To be reserved
  /// once, as large as they will ever be: NCCL may still remember the address of a smaller pair that has gone.
  NcclCommunicator::RegisteredBuffers& reserve_nccl_buffers(std::size_t bytes);
  /// Collective. Make sure the workspace holds these needs; moves it if it must grow.
  void reserve(std::uint64_t push_bytes, std::uint64_t staging_bytes);
  std::size_t workspace_bytes() const noexcept;

  /// Throws Poisoned after a deadline has passed or an abort was received.
  void check() const {
    if (poisoned()) [[unlikely]]
      throw_fault();
    if (nccl_) nccl_->check();
  }
  /// Tell the peers to stop waiting: sets their abort words.
  void abort() noexcept;
  /// Collective, after every rank knows that the group is poisoned and its streams are idle: resets epochs, buffers,
  /// flags and the fault record, so that the tuner can go on with the next candidate.
  void recover();

 private:
  friend std::unique_ptr<Group> make_group(std::shared_ptr<Bootstrap>, std::shared_ptr<Device>, const GroupOptions&);
  Group(std::shared_ptr<Bootstrap>, std::shared_ptr<Device>, const GroupOptions&);
  void prove_multicast();
  bool nccl_can_wait() const;
  void find_nccl();
  void create_nccl();
  bool poisoned() const noexcept { return __atomic_load_n(fault_state_, __ATOMIC_ACQUIRE) != 0 || aborted_; }
  [[noreturn]] void throw_fault() const;

  // First what every call looks at.
  std::shared_ptr<Device> device_;
  std::shared_ptr<NcclCommunicator> nccl_;
  static constexpr unsigned no_fault = 0;
  const unsigned* fault_state_ = &no_fault;  // later of the workspace's fault record; not 0: there is one
  bool aborted_ = false;
  std::shared_ptr<Bootstrap> bootstrap_;
  GroupOptions options_;
  int uncaught_;
  GroupCapabilities capabilities_;
  std::unique_ptr<NcclCommunicator::RegisteredBuffers> symmetric_buffers_;
  std::size_t symmetric_bytes_ = 0;
  std::unique_ptr<NcclCommunicator::RegisteredBuffers> nccl_buffers_;
  std::size_t nccl_buffer_bytes_ = 0;
  std::unique_ptr<Workspace> workspace_;
  std::unique_ptr<SharedBuffers> shared_buffers_;
  std::shared_ptr<const KernelSet> kernels_ = std::make_shared<const KernelSet>();
};

/// Collective. Throws Disagreement where the ranks differ in what must be equal, Unavailable where nothing connects
/// them.
std::unique_ptr<Group> make_group(std::shared_ptr<Bootstrap>, std::shared_ptr<Device>, const GroupOptions&);

}  // namespace arbiter
