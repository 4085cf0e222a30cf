#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "arbiter/error.hpp"
#include "candidate/loaded_kernel.hpp"
#include "memory/workspace.hpp"

namespace arbiter {
namespace {

arbiter_abi::Arguments tensors_of(const Call& call) {
  arbiter_abi::Arguments arguments{};
  arguments.input = call.input;
  arguments.output = call.output;
  arguments.residual_in = call.residual_in;
  arguments.residual_out = call.residual_out;
  arguments.gamma = call.gamma;
  arguments.norm_out = call.norm_out;
  arguments.quant_out = call.quant_out;
  arguments.scale_in = call.scale_in;
  arguments.scale_out = call.scale_out;
  arguments.moe_weights = call.moe_weights;
  arguments.moe_row_map = call.moe_row_map;
  arguments.moe_shared = call.moe_shared;
  arguments.epsilon = call.epsilon;
  arguments.weight_bias = call.weight_bias;
  arguments.gamma_fp32 = call.gamma_fp32 || call.dtype == Dtype::fp32 ? 1 : 0;
  arguments.moe_weights_fp32 = call.moe_weights_fp32 || call.dtype == Dtype::fp32 ? 1 : 0;
  arguments.moe_count = static_cast<unsigned>(call.moe_row_map != nullptr ? call.moe_top_k : call.moe_experts);
  arguments.moe_rows = static_cast<unsigned>(call.moe_rows);
  return arguments;
}

/// Exchange (a kernel, NCCL, or for one rank nothing), and the pattern's other parts around it where the exchange is
/// plain.
class RunnableCandidateImpl final : public RunnableCandidate {
 public:
  RunnableCandidateImpl(Group& group, const CandidateSpec& spec, const ProblemFamily& family)
      : group_(group), spec_(spec), family_(family) {
    if (!spec.kernel && !spec.nccl.empty() && group.nccl() == nullptr) {
      throw Unsupported("'" + spec.name() + "' needs NCCL: " + group.capabilities().nccl_reason);
    }
    if (spec.forced.forces() && !group.capabilities().nccl_forcing_reason.empty()) {
      throw Unsupported("'" + spec.name() +
                        "' needs Arbiter's NCCL tuner plugin: " + group.capabilities().nccl_forcing_reason);
    }
    if (spec.kernel) kernel_.emplace(group, *spec.kernel, spec.max_blocks);
    if (spec.prologue) prologue_.emplace(group, *spec.prologue, 0);
    if (spec.epilogue) epilogue_.emplace(group, *spec.epilogue, 0);
    record_.backend = spec.backend();
    record_.algorithm = spec.algorithm();
    record_.name = spec.name();
    record_.numerics = numerics_of(group.catalogue(), spec);
    record_.source_hash = candidate_source_hash(group.capabilities(), spec);
    scratch_bytes_ = scratch_bytes(spec, family);
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

  void agreed(int block_limit) override {
    if (kernel_) kernel_->set_block_limit(block_limit);
    group_.workspace().reserve_scratch(spec_.forced.forces() ? std::max(scratch_bytes_, vector_bytes) : scratch_bytes_);
    if (spec_.nccl == "symmetric") group_.reserve_nccl_symmetric(message_bytes(family_.max_tokens));
    if (spec_.forced.forces() && !group_.nccl()->offers(spec_.forced, family_.dtype, group_.workspace().scratch())) {
      refusal_ = "NCCL does not offer " + spec_.forced.text() + " for " + std::string(to_string(family_.dtype)) +
                 " on these GPUs";
    }
    agreed_ = true;
  }

  void enqueue(const Call& call, StreamHandle stream) override {
    if (!agreed_) throw InvalidArgument("'" + record_.name + "' was not agreed on by all ranks; call agree() first");
    const std::uint64_t vectors = message_vectors(call.tokens, call.hidden, call.dtype);
    if (kernel_ && spec_.fused()) {
      kernel_->launch(tensors_of(call), vectors, stream);
      return;
    }
    const void* input = call.input;
    void* output = epilogue_ ? intermediate(call, vectors) : call.output;
    if (prologue_) {
      Call contribution = call;
      contribution.output = output != nullptr ? output : scratch(vectors);  // where the sum will be, in place
      prologue_->launch(tensors_of(contribution), vectors, stream);
      input = contribution.output;
    }
    const void* sum = exchange(input, output, call, vectors, stream);
    if (!epilogue_) return;
    Call rest = call;
    rest.input = sum;
    if (sum == call.output) rest.output = nullptr;  // it is there already
    epilogue_->launch(tensors_of(rest), vectors, stream);
  }

 private:
  std::size_t message_bytes(std::int64_t tokens) const {
    return message_vectors(tokens, family_.hidden, family_.dtype) * vector_bytes;
  }

  /// Where the sum lies before the epilogue; null for NCCL's own window. In a tensor that is written later anyway if
  /// nothing there is still needed: no extra memory.
  void* intermediate(const Call& call, std::uint64_t vectors) const {
    if (spec_.nccl == "symmetric") return nullptr;
    const bool adds_residual = call.residual_in != nullptr;
    if (adds_residual && call.residual_out != nullptr && call.residual_out != call.residual_in)
      return call.residual_out;
    if (!adds_residual && call.output != nullptr) return call.output;
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
  const void* exchange(const void* input, void* output, const Call& call, std::uint64_t vectors, StreamHandle stream) {
    if (kernel_) {
      arbiter_abi::Arguments arguments{};
      arguments.input = input;
      arguments.output = output;
      kernel_->launch(arguments, vectors, stream);
      return output;
    }
    const auto count = static_cast<std::size_t>(call.tokens) * static_cast<std::size_t>(call.hidden);
    const std::size_t bytes = count * element_bytes(call.dtype);
    Device& device = group_.device();
    if (spec_.nccl.empty()) {  // one rank
      if (input != output) device.copy(output, input, bytes, stream);
      return output;
    }
    NcclCommunicator& nccl = *group_.nccl();
    if (spec_.forced.forces()) {
      if (nccl.all_reduce_forced(spec_.forced, input, output, count, call.dtype, stream)) return output;
      // It did when this candidate was loaded, so nobody may go on believing that this is it.
      throw DeviceError(fmt::format(
          "'{}': NCCL did not offer this configuration for a message of {} bytes; the call was made as NCCL chooses",
          record_.name, bytes));
    }
    if (spec_.nccl == "classic") {
      nccl.all_reduce(input, output, count, call.dtype, stream);
      return output;
    }
    if (bytes > group_.nccl_symmetric_bytes()) {
      throw Unsupported(fmt::format("'{}' has windows of {} bytes; this call needs {}. Prepare this size first.",
                                    record_.name, group_.nccl_symmetric_bytes(), bytes));
    }
    NcclCommunicator::SymmetricBuffers& windows = group_.reserve_nccl_symmetric(bytes);
    device.copy(windows.input(), input, bytes, stream);
    nccl.all_reduce(windows.input(), windows.output(), count, call.dtype, stream);
    if (output == nullptr) return windows.output();
    device.copy(output, windows.output(), bytes, stream);
    return output;
  }

  Group& group_;
  CandidateSpec spec_;
  ProblemFamily family_;
  Candidate record_;
  std::optional<LoadedKernel> kernel_;
  std::optional<LoadedKernel> prologue_;
  std::optional<LoadedKernel> epilogue_;
  std::size_t scratch_bytes_ = 0;
  std::string refusal_;
  bool agreed_ = false;
};

}  // namespace

std::unique_ptr<RunnableCandidate> load_candidate(Group& group, const CandidateSpec& spec,
                                                  const ProblemFamily& family) {
  return std::make_unique<RunnableCandidateImpl>(group, spec, family);
}

}  // namespace arbiter
