#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "arbiter/error.hpp"
#include "arbiter/generator/tensor_table.hpp"
#include "candidate/loaded_kernel.hpp"
#include "memory/workspace.hpp"

namespace arbiter {
namespace {

/// What the caller gave, but for where this kernel reads its input and leaves its output.
void launch(LoadedKernel& kernel, const CallTensors& tensors, Dtype dtype, const void* input, void* output,
            std::uint64_t vectors, StreamHandle stream) {
  arbiter_abi::Arguments& arguments = kernel.arguments(vectors);
  copy_tensors(tensors, arguments);
  arguments.input = input;
  arguments.output = output;
  arguments.epsilon = tensors.epsilon;
  arguments.weight_bias = tensors.weight_bias;
  arguments.gamma_fp32 = tensors.gamma_fp32 || dtype == Dtype::fp32 ? 1 : 0;
  arguments.moe_weights_fp32 = tensors.moe_weights_fp32 || dtype == Dtype::fp32 ? 1 : 0;
  arguments.moe_count = static_cast<unsigned>(tensors.moe_row_map != nullptr ? tensors.moe_top_k : tensors.moe_experts);
  arguments.moe_rows = static_cast<unsigned>(tensors.moe_rows);
  kernel.launch(stream);
}

/// Exchange (a kernel, NCCL, or for one rank nothing), and the pattern's other parts around it where the exchange is
/// plain.
class RunnableCandidateImpl final : public RunnableCandidate {
 public:
  RunnableCandidateImpl(Group& group, const CandidateSpec& spec, const ProblemFamily& family)
      : group_(group), spec_(spec), family_(family), dtype_(family.dtype) {
    if (!spec.kernel && spec.nccl && group.nccl() == nullptr) {
      throw Unsupported("'" + spec.name() + "' needs NCCL: " + group.capabilities().nccl_reason);
    }
    if (spec.forced.forces() && !group.capabilities().nccl_forcing_reason.empty()) {
      throw Unsupported("'" + spec.name() +
                        "' needs Arbiter's NCCL tuner plugin: " + group.capabilities().nccl_forcing_reason);
    }
    if (spec.kernel) kernel_.emplace(group, *spec.kernel, spec.max_blocks);
    whole_ = spec.kernel && spec.fused();
    if (spec.prologue) prologue_.emplace(group, *spec.prologue, 0);
    if (spec.epilogue) epilogue_.emplace(group, *spec.epilogue, 0);
    record_.backend = spec.backend();
    record_.algorithm = spec.algorithm();
    record_.name = spec.name();
    record_.numerics = numerics_of(group.catalogue(), spec);
    record_.source_hash = candidate_source_hash(group.capabilities(), spec);
    scratch_bytes_ = scratch_bytes(spec, family);
    bool first = true;
    for (const auto* kernel : {&kernel_, &prologue_, &epilogue_}) {
      if (!*kernel) continue;
      use_ = first ? (*kernel)->use() : most_of(use_, (*kernel)->use());
      first = false;
    }
  }

  const CandidateSpec& spec() const noexcept override { return spec_; }
  const Candidate& record() const noexcept override { return record_; }
  int rounded_legs() const override { return arbiter::rounded_legs(group_.catalogue(), record_); }
  std::string refusal() const override { return refusal_; }
  int block_limit() const noexcept override { return kernel_ ? kernel_->block_limit() : 0; }

  Geometry geometry(std::int64_t tokens) const override {
    const LoadedKernel* kernel = kernel_ ? &*kernel_ : epilogue_ ? &*epilogue_ : prologue_ ? &*prologue_ : nullptr;
    if (kernel == nullptr) return {};
    return kernel->geometry(message_vectors(tokens, family_.hidden, family_.dtype));
  }

  WorkspaceNeeds needs(std::int64_t tokens) const override {
    if (!kernel_) return {};
    return kernel_->needs(message_vectors(tokens, family_.hidden, family_.dtype));
  }

  KernelUse use() const override { return use_; }
  void agreed_use(const KernelUse& use) override { use_ = use; }

  void agreed(int block_limit) override {
    if (kernel_) kernel_->set_block_limit(block_limit);
    group_.workspace().reserve_scratch(spec_.forced.forces() ? std::max(scratch_bytes_, vector_bytes) : scratch_bytes_);
    if (spec_.nccl == NcclKind::symmetric) group_.reserve_nccl_symmetric(message_bytes(family_.max_tokens));
    if (spec_.forced.forces() && !group_.nccl()->offers(spec_.forced, family_.dtype, group_.workspace().scratch())) {
      refusal_ = "NCCL does not offer " + spec_.forced.text() + " for " + std::string(to_string(family_.dtype)) +
                 " on these GPUs";
    }
    agreed_ = true;
  }

  void enqueue(const CallTensors& tensors, std::int64_t elements, StreamHandle stream) override {
    if (!agreed_) throw InvalidArgument("'" + record_.name + "' was not agreed on by all ranks; call agree() first");
    const std::uint64_t vectors = message_vectors(elements, 1, dtype_);
    if (whole_) {
      launch(*kernel_, tensors, dtype_, tensors.input, tensors.output, vectors, stream);
      return;
    }
    const void* input = tensors.input;
    void* output = epilogue_ ? intermediate(tensors, vectors) : tensors.output;
    if (prologue_) {
      void* contribution = output != nullptr ? output : scratch(vectors);  // where the sum will be, in place
      launch(*prologue_, tensors, dtype_, input, contribution, vectors, stream);
      input = contribution;
    }
    const void* sum = exchange(input, output, elements, vectors, stream);
    if (!epilogue_) return;
    void* rest = sum == tensors.output ? nullptr : tensors.output;  // null: it is there already
    launch(*epilogue_, tensors, dtype_, sum, rest, vectors, stream);
  }

  KernelLaunch last_launch() const noexcept override { return whole_ ? kernel_->last_launch() : KernelLaunch{}; }

 private:
  std::size_t message_bytes(std::int64_t tokens) const {
    return message_vectors(tokens, family_.hidden, family_.dtype) * vector_bytes;
  }

  /// Where the sum lies before the epilogue; null for NCCL's own window. In a tensor that is written later anyway if
  /// nothing there is still needed: no extra memory.
  void* intermediate(const CallTensors& tensors, std::uint64_t vectors) const {
    if (spec_.nccl == NcclKind::symmetric) return nullptr;
    const bool adds_residual = tensors.residual_in != nullptr;
    if (adds_residual && tensors.residual_out != nullptr && tensors.residual_out != tensors.residual_in)
      return tensors.residual_out;
    if (!adds_residual && tensors.output != nullptr) return tensors.output;
    return scratch(vectors);
  }

  void* scratch(std::uint64_t vectors) const {
    const Workspace& workspace = group_.workspace();
    if (workspace.scratch_bytes() < vectors * vector_bytes) {
      throw Unsupported(
          fmt::format("'{}' needs {} bytes of scratch memory for this call; it has {}. Prepare this size first.",
                      record_.name, vectors * vector_bytes, workspace.scratch_bytes()));
    }
    return workspace.scratch();
  }

  /// The plain allreduce. Returns where the sum is: `output`, or NCCL's own window when `output` is null.
  const void* exchange(const void* input, void* output, std::int64_t elements, std::uint64_t vectors,
                       StreamHandle stream) {
    if (kernel_) {
      arbiter_abi::Arguments& arguments = kernel_->arguments(vectors);
      arguments.input = input;
      arguments.output = output;
      kernel_->launch(stream);
      return output;
    }
    const Dtype dtype = family_.dtype;
    const auto count = static_cast<std::size_t>(elements);
    const std::size_t bytes = count * element_bytes(dtype);
    Device& device = group_.device();
    if (!spec_.nccl) {  // one rank
      if (input != output) device.copy(output, input, bytes, stream);
      return output;
    }
    NcclCommunicator& nccl = *group_.nccl();
    if (spec_.forced.forces()) {
      if (nccl.all_reduce_forced(spec_.forced, input, output, count, dtype, stream)) return output;
      // It did when this candidate was loaded, so nobody may go on believing that this is it.
      throw DeviceError(fmt::format(
          "'{}': NCCL did not offer this configuration for a message of {} bytes; the call was made as NCCL chooses",
          record_.name, bytes));
    }
    if (spec_.nccl == NcclKind::classic) {
      nccl.all_reduce(input, output, count, dtype, stream);
      return output;
    }
    if (bytes > group_.nccl_symmetric_bytes()) {
      throw Unsupported(fmt::format("'{}' has windows of {} bytes; this call needs {}. Prepare this size first.",
                                    record_.name, group_.nccl_symmetric_bytes(), bytes));
    }
    NcclCommunicator::RegisteredBuffers& windows = group_.reserve_nccl_symmetric(bytes);
    device.copy(windows.input(), input, bytes, stream);
    nccl.all_reduce(windows.input(), windows.output(), count, dtype, stream);
    if (output == nullptr) return windows.output();
    device.copy(output, windows.output(), bytes, stream);
    return output;
  }

  Group& group_;
  CandidateSpec spec_;
  ProblemFamily family_;
  Candidate record_;
  // What a call looks at lies together: little of it is in the caches by then.
  bool agreed_ = false;
  bool whole_ = false;  // the kernel does all of the pattern
  Dtype dtype_;
  std::optional<LoadedKernel> kernel_;
  std::optional<LoadedKernel> prologue_;
  std::optional<LoadedKernel> epilogue_;
  std::size_t scratch_bytes_ = 0;
  KernelUse use_;
  std::string refusal_;
};

}  // namespace

std::unique_ptr<RunnableCandidate> load_candidate(Group& group, const CandidateSpec& spec,
                                                  const ProblemFamily& family) {
  return std::make_unique<RunnableCandidateImpl>(group, spec, family);
}

}  // namespace arbiter
