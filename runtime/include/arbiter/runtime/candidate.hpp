// Candidates made runnable: the tuner times these, and the communicator dispatches to them.
#pragma once

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
#include "arbiter/runtime/group.hpp"

namespace arbiter {

/// Which of NCCL's allreduces a candidate is.
enum class NcclKind : std::uint8_t {
  classic,   ///< of any memory
  symmetric  ///< of NCCL's own symmetric windows, through copies
};
/// As it is stored: "classic", "symmetric".
std::string_view to_string(NcclKind) noexcept;

/// How a candidate is built: one allreduce (a kernel or NCCL), and, for an unfused candidate of a fused pattern, the
/// stand-alone prologue in front of it and the stand-alone epilogue behind it, as far as the pattern has them.
struct CandidateSpec {
  std::optional<Variant> kernel;
  int max_blocks = 0;               ///< launch axis "blocks": grid limit; 0 = all that are resident
  std::optional<NcclKind> nccl;     ///< when there is no kernel; without either, a lone rank's copy
  NcclConfiguration forced;         ///< of `classic`: what NCCL is told to use; empty: it chooses
  std::optional<Variant> prologue;  ///< stand-alone kernel in front of a plain allreduce
  std::optional<Variant> epilogue;  ///< stand-alone kernel behind a plain allreduce

  /// NCCL alone, as it chooses.
  static CandidateSpec classic_nccl();

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

/// One launch of one kernel: everything but the stream.
struct KernelLaunch {
  const Kernel* kernel = nullptr;
  Launch shape;
  std::span<const std::byte> arguments;
};

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
  /// What the compiler gave its kernels: on this rank; after agree(), the most of any rank.
  virtual KernelUse use() const { return {}; }
  /// Collective; the second half of agree(): fixes the grid limit that every rank uses from here on.
  virtual void agreed(int block_limit) = 0;
  /// Before that: what its kernels use on all ranks together.
  virtual void agreed_use(const KernelUse&) {}
  /// Launches, and nothing else: no allocation, no compilation. `elements` of the family's dtype are summed: whole rows
  /// of its hidden size, or a plain message of any length. The call must have been validated: 16-byte aligned tensors
  /// and a message of whole 16-byte vectors, unless the candidate is plain NCCL. Throws InvalidArgument before agree(),
  /// Unsupported when the workspace or the scratch memory is smaller than this call needs.
  virtual void enqueue(const CallTensors&, std::int64_t elements, StreamHandle) = 0;
  /// What the last enqueue() launched, if it was one kernel and nothing else: launching it again is the same call
  /// again, as long as neither the workspace moves nor other memory is shared. A null kernel otherwise. Good until the
  /// next one.
  virtual KernelLaunch last_launch() const noexcept { return {}; }
  /// The same for a call that says its size itself.
  void enqueue(const Call& call, StreamHandle stream) { enqueue(call, call.tokens * call.hidden, stream); }
};

Numerics numerics_of(const Catalogue&, const Variant&);
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
std::vector<CandidateSpec> enumerate_candidates(const GroupCapabilities&, const ProblemFamily&,
                                                std::span<const CandidateSpec> best_plain,
                                                std::vector<Excluded>* excluded = nullptr, bool exhaustive = false);

/// The built-in choice when nothing was measured. Always a candidate that can run; equal on all ranks.
CandidateSpec heuristic(const GroupCapabilities&, const ProblemFamily&, std::int64_t tokens);

}  // namespace arbiter
