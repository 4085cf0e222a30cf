// Candidates made runnable: the tuner times these, and the communicator dispatches to them.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arbiter/communicator.hpp"
#include "arbiter/db/kernels.hpp"
#include "arbiter/db/nccl_configuration.hpp"
#include "arbiter/db/records.hpp"
#include "arbiter/generator/cache.hpp"
#include "arbiter/generator/variant.hpp"
#include "arbiter/runtime/nccl.hpp"

namespace arbiter {

/// How a candidate is built: one allreduce (a kernel or NCCL), and, for an unfused candidate of a fused pattern, the
/// stand-alone prologue in front of it and the stand-alone epilogue behind it, as far as the pattern has them.
struct CandidateSpec {
  std::optional<Variant> kernel;    ///< empty: NCCL
  int max_blocks = 0;               ///< launch axis "blocks": grid limit; 0 = all that are resident
  std::string nccl;                 ///< "classic" or "symmetric" when there is no kernel
  NcclConfiguration forced;         ///< of "classic": what NCCL is told to use; empty: it chooses
  std::optional<Variant> prologue;  ///< stand-alone kernel in front of a plain allreduce
  std::optional<Variant> epilogue;  ///< stand-alone kernel behind a plain allreduce

  Backend backend() const noexcept;
  std::string algorithm() const;
  bool fused() const noexcept { return !prologue && !epilogue; }
  /// The canonical text stored as Candidate::name, and its inverse (throws InvalidArgument).
  std::string name() const;
  static CandidateSpec parse(const Catalogue&, std::string_view name, const ProblemFamily&, int world);
  bool operator==(const CandidateSpec&) const = default;
};

/// Grid arithmetic of one kernel on one problem size. Pure.
struct Geometry {
  unsigned blocks = 0;
  unsigned iterations = 0;
  unsigned rows = 0;
  std::uint64_t vectors = 0;
  unsigned push_iterations = 1;  ///< iterations side by side in one rotating buffer
  unsigned push_epochs = 1;      ///< rotating buffers that the launch goes through
  std::uint64_t push_bytes = 0;  ///< of one rotating buffer
  std::uint64_t staging_bytes = 0;
};
Geometry geometry(const Catalogue&, const Variant&, std::int64_t tokens, int hidden, int block_limit);

/// Bytes of symmetric workspace that a candidate needs: one rotating buffer, and the staging area.
struct WorkspaceNeeds {
  std::uint64_t push_bytes = 0;
  std::uint64_t staging_bytes = 0;
};

class Workspace;      // the memory that kernels use; private to the runtime
class SharedBuffers;  // tensors that peers can address; private to the runtime

/// Everything of a group of ranks that candidates share: device, symmetric workspace, NCCL, cache, fault record.
/// Collective creation. The communicator owns one; the tuner owns one.
class Group {
 public:
  virtual ~Group() = default;
  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;
  virtual Device& device() noexcept = 0;
  virtual Bootstrap& bootstrap() noexcept = 0;
  /// The same two, for whatever lives on its own for a while.
  virtual std::shared_ptr<Bootstrap> shared_bootstrap() noexcept { return {}; }
  virtual std::shared_ptr<Device> shared_device() noexcept { return {}; }
  virtual const Environment& environment() const noexcept = 0;
  virtual const Catalogue& catalogue() const noexcept = 0;
  virtual const TemplateMap& templates() const noexcept = 0;
  virtual TargetLimits limits() const = 0;
  /// The most ranks that share one device. More than 1 is for proving kernels on fewer GPUs than ranks, not for use.
  virtual int ranks_on_device() const noexcept = 0;
  virtual NcclCommunicator* nccl() noexcept = 0;  ///< null without NCCL, and until require_nccl() where it has to wait
  /// Collective, outside capture. Creates NCCL's communicator where that was put off. Afterwards there is either one on
  /// every rank, or a reason why not.
  virtual void require_nccl() {}
  virtual std::string nccl_reason() const = 0;  ///< why there is none; empty if there is
  /// Why NCCL configurations cannot be forced on some rank, equal on all ranks; empty if they can, and without NCCL.
  virtual std::string nccl_forcing_reason() const = 0;
  virtual KernelCache& cache() noexcept = 0;
  /// Kernels that came with a snapshot: looked at before the cache.
  virtual const KernelSet& stored_kernels() const noexcept = 0;
  /// Local: equal snapshots on all ranks are the caller's concern.
  virtual void provide(std::shared_ptr<const KernelSet>) = 0;
  virtual const EnvironmentVariables& variables() const noexcept = 0;
  /// The provider all ranks voted for; empty for a single rank, or when none works (then only NCCL is left).
  virtual std::optional<SymmetricProvider> symmetric_provider() const noexcept = 0;
  /// Why there is no symmetric memory; empty if there is.
  virtual std::string symmetric_reason() const = 0;
  /// Why kernels may not use multicast; empty if a store and a load have proven it on all ranks.
  virtual std::string multicast_reason() const = 0;
  virtual Workspace& workspace() noexcept = 0;
  virtual SharedBuffers& shared_buffers() noexcept = 0;
  virtual std::uint64_t push_buffer_bytes() const noexcept = 0;  ///< see GroupOptions; never 0
  /// Collective. A pair of NCCL symmetric windows of at least `bytes`, shared by all candidates of the group.
  virtual NcclCommunicator::SymmetricBuffers& reserve_nccl_symmetric(std::size_t bytes) = 0;
  virtual std::size_t nccl_symmetric_bytes() const noexcept = 0;  ///< of each window; 0 before the first reservation

  /// Collective. Make sure the workspace holds these needs; moves it if it must grow.
  virtual void reserve(std::uint64_t push_bytes, std::uint64_t staging_bytes) = 0;
  virtual std::size_t workspace_bytes() const noexcept = 0;
  /// Throws Poisoned after a deadline has passed or an abort was received.
  virtual void check() const = 0;
  /// Tell the peers to stop waiting: sets their abort words.
  virtual void abort() noexcept = 0;
  /// Collective, after every rank knows that the group is poisoned and its streams are idle: resets epochs, buffers,
  /// flags and the fault record, so that the tuner can go on with the next candidate.
  virtual void recover() = 0;
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
std::unique_ptr<Group> make_group(std::shared_ptr<Bootstrap>, std::shared_ptr<Device>, const GroupOptions&);

/// A candidate with its kernels loaded on this rank. `enqueue` only launches.
class RunnableCandidate {
 public:
  virtual ~RunnableCandidate() = default;
  virtual const CandidateSpec& spec() const noexcept = 0;
  virtual const Candidate& record() const noexcept = 0;  ///< with the source hash over all ranks
  /// How often a value is rounded to 8 bits on its way: 0 unless the record is of class fp8_transport.
  virtual int rounded_legs() const { return 0; }
  /// After agreed(): why it cannot be used after all, equal on all ranks; empty if it can. Not empty only for a forced
  /// NCCL configuration that NCCL does not offer.
  virtual std::string refusal() const { return {}; }
  /// Of the exchanging kernel (of a stand-alone one where there is no other kernel); zeros for NCCL.
  virtual Geometry geometry(std::int64_t tokens) const = 0;
  /// What the group's workspace must have, by Group::reserve, before enqueue() is called with up to `tokens`.
  virtual WorkspaceNeeds needs(std::int64_t tokens) const = 0;
  /// Blocks that are resident together on this rank; after agree(), on every rank.
  virtual int block_limit() const noexcept = 0;
  /// Collective; the second half of agree(): fixes the grid limit that every rank uses from here on.
  virtual void agreed(int block_limit) = 0;
  /// Launches, and nothing else: no allocation, no compilation. The call must have been validated: 16-byte aligned
  /// tensors and a message of whole 16-byte vectors, unless the candidate is plain NCCL. Throws InvalidArgument before
  /// agree(), Unsupported when the workspace or the scratch memory is smaller than this call needs.
  virtual void enqueue(const Call&, StreamHandle) = 0;
};

Numerics numerics_of(const Catalogue&, const CandidateSpec&);
/// RunnableCandidate::rounded_legs() of what has this record.
int rounded_legs(const Catalogue&, const Candidate&);

/// Local: compiles (or loads from the cache) and loads. Throws CompileError, Unsupported. The result may be launched
/// only after agree(): a grid that differs between ranks would hang.
std::unique_ptr<RunnableCandidate> load_candidate(Group&, const CandidateSpec&, const ProblemFamily&);

/// Local, from any thread: compiles one of the kernels of a candidate into the group's cache, where load_candidate will
/// find it. Throws CompileError.
void compile_kernel(Group&, const Variant&);

/// Collective. Every rank passes its own instance of the same candidate, or null where loading failed. Fixes the grid
/// limit to the smallest of all ranks. Returns false on every rank if any rank passed null.
/// Throws Disagreement if the ranks' source hashes differ.
bool agree(Group&, RunnableCandidate*);

/// A candidate to load for a family, and what became of it.
struct LoadRequest {
  CandidateSpec spec;
  ProblemFamily family;
};
struct LoadResult {
  std::unique_ptr<RunnableCandidate> candidate;  ///< null on every rank if it failed on any rank
  std::string reason;                            ///< then: which rank, and why
};

/// Collective: load_candidate and agree for every request, with one exchange. Every rank passes the same requests.
std::vector<LoadResult> load_on_all_ranks(Group&, std::span<const LoadRequest>);

/// Every candidate of a family on this group, in a fixed order that is equal on all ranks: kernels x launch shapes,
/// NCCL, and, for fused patterns, unfused ones built from `best_plain` (candidates of the plain pattern) and the
/// stand-alone prologue and epilogue. `excluded` receives what cannot run here, is not allowed (fp8_transport), or is
/// pruned, and why; with `exhaustive` nothing is pruned.
std::vector<CandidateSpec> enumerate_candidates(const Group&, const ProblemFamily&,
                                                std::span<const CandidateSpec> best_plain,
                                                std::vector<Excluded>* excluded = nullptr, bool exhaustive = false);

/// The built-in choice when nothing was measured. Always a candidate that can run; equal on all ranks.
CandidateSpec heuristic(const Group&, const ProblemFamily&, std::int64_t tokens);

}  // namespace arbiter
