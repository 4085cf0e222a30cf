// Candidates made runnable: the tuner times these, and the communicator dispatches to them.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arbiter/db/records.hpp"
#include "arbiter/generator/cache.hpp"
#include "arbiter/generator/variant.hpp"
#include "arbiter/runtime/communicator.hpp"
#include "arbiter/runtime/nccl.hpp"

namespace arbiter {

/// How a candidate is built: one allreduce (a kernel or NCCL), and, for an unfused candidate of a fused pattern, the
/// stand-alone epilogue behind it.
struct CandidateSpec {
  std::optional<Variant> kernel;      ///< empty: NCCL
  int max_blocks = 0;                 ///< launch axis "blocks": grid limit; 0 = all that are resident
  std::string nccl;                   ///< "classic" or "symmetric" when there is no kernel
  std::optional<Variant> epilogue;    ///< stand-alone kernel behind a plain allreduce

  Backend backend() const noexcept;
  std::string algorithm() const;
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
  std::uint64_t push_bytes = 0;     ///< of one rotating buffer
  std::uint64_t staging_bytes = 0;
};
Geometry geometry(const Catalogue&, const Variant&, std::int64_t tokens, int hidden, int block_limit);

/// Everything of a group of ranks that candidates share: device, symmetric workspace, NCCL, cache, fault record.
/// Collective creation. The communicator owns one; the tuner owns one.
class Group {
 public:
  virtual ~Group() = default;
  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;
  virtual Device& device() noexcept = 0;
  virtual Bootstrap& bootstrap() noexcept = 0;
  virtual const Environment& environment() const noexcept = 0;
  virtual const Catalogue& catalogue() const noexcept = 0;
  virtual TargetLimits limits() const = 0;
  virtual NcclCommunicator* nccl() noexcept = 0;  ///< null without NCCL
  virtual std::string nccl_reason() const = 0;    ///< why there is none; empty if there is
  virtual KernelCache& cache() noexcept = 0;

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
  std::shared_ptr<KernelCache> cache;
};
std::unique_ptr<Group> make_group(std::shared_ptr<Bootstrap>, std::shared_ptr<Device>, const GroupOptions&);

/// A candidate with its kernels loaded on this rank. `enqueue` only launches.
class RunnableCandidate {
 public:
  virtual ~RunnableCandidate() = default;
  virtual const CandidateSpec& spec() const noexcept = 0;
  virtual const Candidate& record() const noexcept = 0;   ///< with the source hash over all ranks
  virtual Geometry geometry(std::int64_t tokens) const = 0;
  /// Bytes the group's workspace must have before enqueue (push, staging) for up to `tokens`.
  virtual void enqueue(const Call&, StreamHandle) = 0;
};

/// Local: compiles (or loads from the cache) and loads. Throws CompileError, Unsupported.
std::unique_ptr<RunnableCandidate> load_candidate(Group&, const CandidateSpec&, const ProblemFamily&);

/// Every candidate of a family on this group, in a fixed order that is equal on all ranks: kernels x launch shapes,
/// NCCL, and, for fused patterns, unfused ones built from `best_plain` (candidates of the plain pattern) and the
/// stand-alone epilogue. `excluded` receives what cannot run here and why.
std::vector<CandidateSpec> enumerate_candidates(const Group&, const ProblemFamily&,
                                                std::span<const CandidateSpec> best_plain,
                                                std::vector<Excluded>* excluded = nullptr);

/// The built-in choice when nothing was measured. Always a candidate that can run; equal on all ranks.
CandidateSpec heuristic(const Group&, const ProblemFamily&, std::int64_t tokens);

}  // namespace arbiter
