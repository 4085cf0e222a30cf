// The front door of the runtime: allreduce, plain or fused, with the fastest proven kernel for every size.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/bootstrap.hpp"
#include "arbiter/device.hpp"
#include "arbiter/error.hpp"
#include "arbiter/problem.hpp"
#include "arbiter/variables.hpp"

namespace arbiter {

// Private to Arbiter: the tuner and the command line give them, programs that call the library need not.
struct DecisionSet;      // arbiter/db/database.hpp
class KernelCache;       // arbiter/generator/cache.hpp
class NcclCommunicator;  // arbiter/runtime/nccl.hpp

/// Families that would need more device memory than CommunicatorOptions::workspace_limit.
class WorkspaceLimit : public Unsupported {
 public:
  using Unsupported::Unsupported;
};

struct StartupTuneOrder;
struct StartupTuneAnswer;
/// Collective: measures, and gives equal answers on all ranks. Whoever has the tuner has one: startup_tuner() of
/// arbiter/startup_tune.hpp.
using StartupTuner = std::function<StartupTuneAnswer(const StartupTuneOrder&)>;

struct CommunicatorOptions {
  EnvironmentVariables variables = EnvironmentVariables::read();
  /// Decisions to use; when null, `variables.db` is loaded by rank 0 and broadcast.
  std::shared_ptr<const std::vector<DecisionSet>> decisions;
  /// The bytes of a snapshot or database, in place of the file `variables.db`. Those of rank 0 serve all ranks.
  std::string decisions_data;
  /// Run the compiled kernels in `decisions_data`, which are code that runs as this user. Bytes have no owner that
  /// could be looked at, so `variables.kernels`, which is for files, is not enough. Rank 0's counts.
  bool trust_decisions_data = false;
  /// Refuse to start (DatabaseError) when the file or the bytes cannot be used, instead of warning. Rank 0's counts.
  bool require_decisions = false;
  /// The candidate to use wherever it can, as Candidate::name spells it; "oneshot" or "twoshot": the built-in choice
  /// among kernels of that kind; empty: none. Equal on all ranks.
  std::string candidate;
  /// Where messages go; empty: standard error. `variables.log` says from which level.
  LogSink log;
  /// Let shipped_decisions() serve where nothing better is known. Equal on all ranks.
  bool shipped_decisions = true;
  /// Use NCCL as a backend if it can be opened. Always false on the CPU device.
  bool nccl = true;
  /// A communicator of NCCL over the same ranks that exists already, to use instead of creating one; on all ranks or on
  /// none, and on any device. Its abort() is called by this communicator's abort().
  std::shared_ptr<NcclCommunicator> nccl_communicator;
  /// Create NCCL's communicator when prepare() finds that something is to be served by NCCL, not at once. Until then
  /// there is none: plain messages that are no whole vectors go through a copy, and what no prepared family covers is
  /// refused. prepare_nccl() creates it for those. It is created at once all the same where nothing else is left (no
  /// symmetric memory, backend `nccl`, `off`). Equal on all ranks.
  bool nccl_when_needed = false;
  /// Collective: makes it, instead of the library; on all ranks or on none, and on any device. What it throws on one
  /// rank means that no rank has NCCL.
  std::function<std::shared_ptr<NcclCommunicator>(Device&, Bootstrap&)> make_nccl = {};
  /// Refuse tensors that are not memory of this device. Without it, that is the caller's concern: what the device can
  /// address works (pinned and managed host memory), anything else is a device fault.
  bool check_pointers = true;
  /// prepare() makes small NCCL calls of the sizes that NCCL may have to serve, because it connects at the first call
  /// of each of its algorithms, which is not possible in a capture. Switch it off where somebody else sees to that.
  bool warm_nccl = true;
  /// Most bytes of device memory that prepare() lets workspace_bytes() and scratch_bytes() grow to together; 0: any.
  /// Equal on all ranks. Families that need more are refused: WorkspaceLimit, on all ranks, and what is there stays.
  std::size_t workspace_limit = 0;
  /// Kernel cache shared with other communicators; created from `variables` when null.
  std::shared_ptr<KernelCache> cache;
  /// What measures when prepare() meets families for which nothing was measured and `variables.startup_tune` allows it,
  /// with no backend and no candidate pinned. What it finds is kept in startup.db in `variables.cache_dir` of rank 0,
  /// and the next start finds it there. Empty: nothing is measured. On all ranks or on none.
  StartupTuner startup_tuner = {};
};

/// What prepare() makes ready: every token count from 1 to max_tokens.
struct ProblemFamily {
  std::string pattern = "allreduce";
  Dtype dtype = Dtype::bf16;
  int hidden = 0;  ///< elements of a row, > 0 also for plain allreduce (a message is tokens * hidden)
  std::int64_t max_tokens = 0;
  Mode mode = Mode::graph;  ///< which decisions apply; calls may be captured or eager in either mode
  bool operator==(const ProblemFamily&) const = default;
};

/// What prepare() asks to be measured.
struct StartupTuneOrder {
  std::shared_ptr<Bootstrap> bootstrap;
  std::shared_ptr<Device> device;
  std::vector<ProblemFamily> families;  ///< for which nothing was measured
  std::chrono::milliseconds budget{0};  ///< for all of it, > 0
  std::filesystem::path database;       ///< of rank 0: keeps what is measured; empty: nobody does
  CommunicatorOptions options;          ///< of the communicator
};
struct StartupTuneAnswer {
  std::shared_ptr<const std::vector<DecisionSet>> decisions;  ///< what was found; null: nothing
  std::vector<std::string> notes;                             ///< one sentence each
  std::chrono::milliseconds spent{0};                         ///< on rank 0
};

/// Tensors of one call; device pointers, contiguous, aligned to their elements; to 16 bytes if a copy on the way is to
/// be saved, on every rank for itself. T: tokens, H: hidden. Which ones a pattern needs follows from its parts
/// (docs/catalogue.md); what it does not have is ignored. A stage's result that a later stage goes on from is optional:
/// null means that nobody wants to read it. output may equal input (without a prologue), residual_out may equal
/// residual_in; otherwise what is written must not overlap anything.
struct CallTensors {
  const void* input = nullptr;        ///< [T, H]; moe_reduce: [moe_experts, T, H]; moe_finalize: [moe_rows, H]
  void* output = nullptr;             ///< [T, H], the sum; absent with a residual, optional before other stages
  const void* residual_in = nullptr;  ///< [T, H]
  void* residual_out = nullptr;       ///< [T, H]; optional before other stages
  const void* gamma = nullptr;        ///< [H], in dtype or (gamma_fp32) fp32
  void* norm_out = nullptr;           ///< [T, H]; optional before a quantisation
  float epsilon = 1e-6F;
  float weight_bias = 0.0F;  ///< the norm multiplies by (gamma + weight_bias): 0, or 1 for Gemma-style weights
  bool gamma_fp32 = false;

  // Quantisation.
  void* quant_out = nullptr;        ///< fp8: [T, H] bytes; nvfp4: [T, H/2] bytes, the even element in the low half
  const float* scale_in = nullptr;  ///< one number, aligned to 4: the scale of fp8_static, the global scale of nvfp4
  void* scale_out = nullptr;        ///< laid out as ScaleLayout says, padding included (written as 0)
  std::size_t scale_out_bytes = 0;  ///< bytes that may be written there; at least scale_out_bytes(pattern, H, T)

  // MoE prologues.
  const void* moe_weights = nullptr;  ///< [moe_experts, T] or [T, moe_top_k]; aligned to its element
  bool moe_weights_fp32 = true;       ///< false: in dtype
  const int* moe_row_map = nullptr;   ///< [T, moe_top_k] rows of input; -1: none. Aligned to 4
  const void* moe_shared = nullptr;   ///< [T, H]; optional: added last
  int moe_experts = 0;                ///< moe_reduce: of this rank
  int moe_top_k = 0;                  ///< moe_finalize
  std::int64_t moe_rows = 0;          ///< moe_finalize: rows of input; with 0 of them input may be null

  bool operator==(const CallTensors&) const = default;
};

/// A call that says for itself which family it belongs to: for Communicator::run(), which looks the family up.
struct Call : CallTensors {
  std::string_view pattern = "allreduce";
  Dtype dtype = Dtype::bf16;
  int hidden = 0;
  std::int64_t tokens = 0;
};

/// Bytes of Call::quant_out and Call::scale_out; 0 where the pattern has no such tensor. Throw InvalidArgument for
/// an unknown pattern, a hidden size that is not positive or that the pattern cannot divide, or negative tokens.
std::size_t quant_out_bytes(std::string_view pattern, int hidden, std::int64_t tokens);
std::size_t scale_out_bytes(std::string_view pattern, int hidden, std::int64_t tokens);

/// Why a candidate serves a problem. Spelled by to_string() as it is written here.
enum class Rule : std::uint8_t {
  decision,             ///< measured in this environment, for this hidden size
  nearest_environment,  ///< measured in a compatible one
  nearest_hidden,       ///< measured for another hidden size, at as many bytes
  shipped_default,      ///< measured elsewhere on the same hardware, and shipped with Arbiter
  heuristic,            ///< nothing was measured
  pinned,               ///< the backend or the candidate that the user asked for
  fallback              ///< what every request can be served with
};
std::string_view to_string(Rule) noexcept;

/// Which rule chose, what, and what the alternatives were.
struct Explanation {
  Rule rule = Rule::fallback;
  std::string reason;  ///< one sentence for people
  Candidate candidate;
  std::optional<Decision> decision;
};

/// How often a candidate served a family by a rule. A captured call counts once, when it is captured.
struct CallCount {
  ProblemFamily family;  ///< hidden 0: plain messages that no prepared family covers, or that no kernel takes
  std::string candidate;
  Rule rule = Rule::fallback;
  std::uint64_t calls = 0;
};

class Communicator;
class FamilyTable;  // private to the runtime

/// What prepare() returns for one family: the way to call it often. A family has one table, whatever the number of its
/// handles: preparing it again with more tokens renews what all of them serve, up to the larger number and perhaps by
/// other candidates. Graphs that were captured before stay as they are. Cheap to copy; good as long as its communicator
/// lives and is not moved from. Which candidate serves which token count was settled by prepare(), so that a call
/// compares no names and searches no families.
class PreparedFamily {
 public:
  const ProblemFamily& family() const noexcept;
  /// As Communicator::run(), with the family's pattern, dtype and hidden size. `tokens` from 0 to family().max_tokens;
  /// more throws Unsupported. The family's mode says which decisions apply, whether or not `stream` is being captured.
  void run(const CallTensors&, std::int64_t tokens, StreamHandle stream) const;
  /// Plain families: Communicator::all_reduce() of a message of 0 to family().max_tokens * family().hidden elements,
  /// whole rows or not; more throws Unsupported. `call_mode` says whether `stream` is being captured, for callers that
  /// have asked already.
  void all_reduce(const void* input, void* output, std::int64_t count, StreamHandle stream, Mode call_mode) const;
  /// Plain families: would all_reduce() run a kernel, neither NCCL nor nothing? False beyond what is prepared. Pure,
  /// equal on all ranks, and quick.
  bool runs_kernel(std::int64_t count) const noexcept;
  /// What run() would do with as many tokens, and why.
  Explanation explain(std::int64_t tokens) const;

 private:
  friend class Communicator;
  PreparedFamily(void* impl, const FamilyTable* table) : impl_(impl), table_(table) {}
  void* impl_;  // Communicator::Impl, which is private to it
  const FamilyTable* table_;
};

/// A group of ranks with one device each. Create it on every rank, in the same order, with equal options: creation,
/// prepare and destruction are collective. Calls are issued from one host thread, in the same order on all ranks.
///
/// Destroy it when its work has completed: kernels are unloaded and the workspace is freed. The destructor waits for
/// the peers' destructors, but not on a poisoned communicator and not while an exception unwinds the stack; in the
/// latter case it tells the peers to stop waiting for this rank.
class Communicator {
 public:
  /// `bootstrap` and `device` stay alive as long as the communicator. Throws Disagreement if the ranks' options,
  /// catalogue or decisions differ, Unavailable if no symmetric-memory provider works and NCCL cannot be used either.
  Communicator(std::shared_ptr<Bootstrap> bootstrap, std::shared_ptr<Device> device, CommunicatorOptions options = {});
  Communicator(Communicator&&) noexcept;
  ~Communicator();

  int rank() const noexcept;
  int size() const noexcept;

  /// Collective, outside capture. Resolves decisions, compiles or loads kernels, grows the workspace, and checks that
  /// all ranks chose the same candidates (else Disagreement). May be called again with more families; nothing that a
  /// captured graph uses moves unless a larger workspace is needed, which is refused once a graph was captured
  /// (Unsupported; prepare everything before the first capture).
  void prepare(std::span<const ProblemFamily> families);
  /// The same for one family, and a handle to call it with.
  PreparedFamily prepare(const ProblemFamily& family);
  /// Collective, outside capture. NCCL for plain messages of this dtype, of up to `max_count` elements and in any
  /// number, that no prepared family covers: starts it where it was put off (nccl_when_needed), and calls it first at
  /// sizes of every order (warm_nccl). Throws Unsupported, saying why, where there is no NCCL; a single rank needs
  /// none.
  void prepare_nccl(Dtype dtype, std::int64_t max_count);

  /// Stream-ordered on `stream`; legal during capture. Nothing is compiled, allocated or resolved here. All ranks make
  /// the same calls in the same order; where both modes of a family are prepared, all capture or none does. A call
  /// with 0 tokens does nothing. The device must be current in the calling thread.
  /// Pointers aligned to their elements are enough, on every rank for itself: kernels that need 16 bytes get aligned
  /// copies on the ranks that have less. Fused calls allocate the memory for them when it is needed for the first time.
  /// Throws InvalidArgument (shape, pointer, alignment), Unsupported (not prepared),
  /// Poisoned. A refused call changes no state.
  void run(const Call&, StreamHandle stream);

  /// Plain allreduce of `count` elements: sum over ranks in rank order. Any prepared plain family of this dtype that
  /// covers `count` serves it. Counts that no kernel takes go to NCCL (through an aligned copy where there is none),
  /// with the reason available from explain(). Pointers aligned to their elements are enough, on every rank for itself:
  /// a kernel that needs 16 bytes gets an aligned copy on the ranks that have less. `input` may be `output`. Throws
  /// Unsupported, naming what to prepare, when nothing covers `count` and there is no NCCL.
  void all_reduce(const void* input, void* output, std::int64_t count, Dtype, StreamHandle);

  /// residual_out = allreduce(input) + residual_in; norm_out = rmsnorm(residual_out) * (gamma + weight_bias).
  void all_reduce_residual_rmsnorm(const Call&, StreamHandle);

  /// Collective, outside capture. Zero-filled device memory that all ranks can address; all ranks ask for as many
  /// bytes. Released by release_shared(), or with the communicator. Throws Unavailable where nothing can be shared.
  void* allocate_symmetric(std::size_t bytes);
  /// Collective, outside capture. Make `bytes` of the caller's memory addressable by all ranks, until release_shared().
  /// Throws Unavailable on every rank if the memory of any rank cannot be shared (on CUDA: what does not come from
  /// cudaMalloc, such as PyTorch's expandable segments); calls on it work all the same, through a copy.
  ///
  /// Kernels that pull (`custom`) read an input inside shared memory where it lies, and twoshot_pull writes a plain sum
  /// into a shared output. Each rank decides this for itself in each call and tells the others, so ranks may pass
  /// different buffers and offsets, or shared memory on some ranks only.
  void register_buffer(void* data, std::size_t bytes);
  /// Collective, outside capture, when no call and no graph uses the memory any more. `data` is what
  /// allocate_symmetric() returned or register_buffer() was given. All ranks release the same buffer.
  void release_shared(const void* data);

  /// Would run() accept this problem after prepare()? Pure and equal on all ranks.
  bool can_use(const Problem&) const;
  Explanation explain(const Problem&) const;

  /// Throws Poisoned with who waited for whom if a deadline has passed. Cheap; does not synchronise.
  void check() const;

  /// Give up on this group: peers that wait for this rank stop waiting and are poisoned, and so is this rank. For a
  /// host-side watchdog; also ends NCCL operations that wait for a dead rank, which have no deadline of their own.
  void abort() noexcept;

  /// One entry for each family, candidate and rule that was prepared or used. From any thread, at any time.
  std::vector<CallCount> call_counts() const;

  /// Device memory for the exchanges between ranks, and for copies of this rank's messages.
  std::size_t workspace_bytes() const noexcept;
  std::size_t scratch_bytes() const noexcept;
  const Environment& environment() const noexcept;
  /// Throws Unsupported where no symmetric memory is in use (a single rank, or NCCL only).
  SymmetricProvider symmetric_provider() const;

 private:
  friend class PreparedFamily;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The library's version, "0.1.0".
std::string_view version() noexcept;

}  // namespace arbiter
