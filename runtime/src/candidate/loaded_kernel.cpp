#include "candidate/loaded_kernel.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "arbiter/error.hpp"
#include "arbiter/generator/render.hpp"
#include "environment/hash.hpp"
#include "memory/shared_buffers.hpp"
#include "memory/workspace.hpp"

namespace arbiter {
namespace {

Dialect dialect_of(const Environment& environment) {
  return environment.device == "cpu" ? Dialect::host : Dialect::cuda;
}

Source render_for(const Group& group, const Variant& variant, int rank) {
  const TemplateMap& templates = *group.capabilities().templates;
  return render_kernel(group.catalogue(), variant, rank, dialect_of(group.environment()), templates);
}

/// How the other ranks address a tensor of this one.
struct SharedPlace {
  unsigned char** seen_at;     // nulls if they cannot
  unsigned char** multicast;   // null if it does not lie in multicast memory
  unsigned long long* number;  // then 0; otherwise the same for the same place on all ranks
};

void locate(const SharedBuffers& buffers, const void* tensor, std::uint64_t bytes, int ranks, SharedPlace place) {
  const SharedBuffers::Buffer* buffer = tensor == nullptr ? nullptr : buffers.find(tensor, bytes);
  if (buffer == nullptr) return;
  const std::uintptr_t offset = reinterpret_cast<std::uintptr_t>(tensor) - buffer->begin;
  for (int rank = 0; rank < ranks; ++rank) {
    place.seen_at[rank] = static_cast<unsigned char*>(buffer->seen_by[static_cast<std::size_t>(rank)]) + offset;
  }
  void* multicast = buffer->memory->multicast();
  if (multicast == nullptr) return;
  constexpr unsigned offset_bits = 48;  // more than any GPU has memory
  *place.multicast = static_cast<unsigned char*>(multicast) + offset;
  *place.number = buffer->number << offset_bits | offset;
}

/// The stand-alone kernel talks to nobody: it has one rank, which is 0 everywhere.
int compiled_rank(const Group& group, const Variant& variant) { return variant.world == 1 ? 0 : group.rank(); }

CompiledKernel compiled(Group& group, const Variant& variant) {
  const int rank = compiled_rank(group, variant);
  const Source source = render_for(group, variant, rank);
  Device& device = group.device();
  const std::string name = fmt::format("{} rank={}", variant.full_name(), rank);
  // A kernel that came with the decisions needs no compiler. Where NVRTC is older than the GPU, or missing, the device
  // asks for another target than the machine that compiled it could.
  const int capability = device.properties().compute_capability;
  const std::string native = fmt::format("sm_{}{}", capability, (capability >= 90 ? "a" : ""));
  for (const std::string& target : {device.properties().compile_target, native}) {
    if (const CompiledKernel* stored = group.stored_kernels().find(source, target)) return *stored;
  }
  return group.cache().get(source, *make_compiler(device.properties().compile_target), name);
}

}  // namespace

void compile_kernel(Group& group, const Variant& variant) { compiled(group, variant); }

LoadedKernel::LoadedKernel(Group& group, const Variant& variant, int max_blocks)
    : group_(group),
      device_(group.device()),
      workspace_(group.workspace()),
      exchange_(group.catalogue().algorithm(variant.backend, variant.algorithm).exchange),
      name_(variant.full_name()) {
  if (const auto reason = unavailable(group.catalogue(), variant, group.capabilities().limits)) {
    throw Unsupported("'" + name_ + "' cannot run here: " + *reason);
  }
  if (exchange_ && variant.world != group.size()) {
    throw Unsupported(fmt::format("'{}' is for {} ranks; this group has {}", name_, variant.world, group.size()));
  }
  if (exchange_ && !workspace_.has_symmetric_memory()) {
    throw Unsupported("'" + name_ +
                      "' needs symmetric memory, and there is none: " + group.capabilities().symmetric_reason);
  }
  shape_ = kernel_shape(group.catalogue(), variant, group.capabilities().limits);
  shape_.push_buffer_bytes = group.push_buffer_bytes();
  const DeviceProperties& properties = device_.properties();
  if (shape_.shared_bytes > properties.shared_bytes_per_block) {
    throw Unsupported(fmt::format("'{}' needs {} bytes of shared memory per block; this device has {}", name_,
                                  shape_.shared_bytes, properties.shared_bytes_per_block));
  }
  device_.activate();
  kernel_ = device_.load(compiled(group, variant), compiled_rank(group, variant));
  launch_.threads = shape_.threads;
  launch_.cluster = shape_.cluster;
  launch_.shared_bytes = shape_.shared_bytes;
  // Every kernel waits for its predecessors before it touches a tensor, so it may always start early where that exists.
  // Not where ranks share a device: a kernel that waits for its predecessor takes the room of the kernel that the
  // predecessor waits for.
  const int sharing = group.capabilities().ranks_on_device;
  const bool early_launch = device_.kind() == DeviceKind::cpu || properties.compute_capability >= 90;
  launch_.programmatic = early_launch && sharing == 1;
  block_limit_ =
      std::min(device_.resident_blocks(*kernel_, launch_) / sharing, static_cast<int>(arbiter_abi::max_blocks));
  if (max_blocks > 0) block_limit_ = std::min(block_limit_, max_blocks);
  // As many blocks cannot take more multiprocessors, however they are spread over them.
  if (const int sms = group.variables().max_sms; sms > 0) block_limit_ = std::min(block_limit_, sms);
  if (block_limit_ < static_cast<int>(shape_.cluster)) {
    throw Unsupported(fmt::format("'{}' needs {} blocks at once; {} fit on this device or are allowed", name_,
                                  shape_.cluster, block_limit_));
  }
}

arbiter_abi::Arguments& LoadedKernel::arguments(std::uint64_t vectors) {
  if (filled_.vectors != vectors || filled_.generation != workspace_.generation()) fill(vectors);
  return filled_.arguments;
}

void LoadedKernel::fill(std::uint64_t vectors) {
  filled_ = {};
  const Geometry grid = geometry(vectors);
  arbiter_abi::Arguments& arguments = filled_.arguments;
  if (exchange_) {
    if (!workspace_.fits(grid.push_bytes, grid.staging_bytes) || workspace_.generation() == 0) {
      throw Unsupported(
          fmt::format("'{}' needs {} push and {} staging bytes of workspace for this call; it has {} and {}. Prepare "
                      "this size first.",
                      name_, grid.push_bytes, grid.staging_bytes, workspace_.push_bytes(), workspace_.staging_bytes()));
    }
    const WorkspaceLayout& layout = workspace_.layout();
    for (int rank = 0; rank < group_.size(); ++rank) {
      arguments.workspace[rank] = static_cast<unsigned char*>(workspace_.peer(rank));
      arguments.workspace_at[rank] = static_cast<unsigned char*>(workspace_.seen_by(rank));
    }
    arguments.multicast = static_cast<unsigned char*>(workspace_.multicast());
    arguments.push_offset = layout.push_offset;
    arguments.push_stride = static_cast<unsigned>(layout.push_stride);
    arguments.staging_offset = layout.staging_offset;
    arguments.results_offset = layout.results_offset;
    const auto nanoseconds = [](std::chrono::milliseconds time) {
      return static_cast<unsigned long long>(std::chrono::nanoseconds(time).count());
    };
    arguments.timeout_ns = nanoseconds(group_.variables().timeout);
    arguments.first_timeout_ns = nanoseconds(first_deadline(group_.variables()));
    arguments.fault = workspace_.fault();
  }
  arguments.rows = grid.rows;
  arguments.iterations = grid.iterations;
  arguments.push_iterations = grid.push_iterations;
  arguments.push_epochs = grid.push_epochs;
  arguments.vectors = static_cast<unsigned>(grid.vectors);
  launch_.blocks = grid.blocks;
  filled_.generation = workspace_.generation();
  filled_.vectors = vectors;
}

void LoadedKernel::locate_tensors() {
  arbiter_abi::Arguments& arguments = filled_.arguments;
  if (filled_.located) {
    std::fill(std::begin(arguments.input_at), std::end(arguments.input_at), nullptr);
    std::fill(std::begin(arguments.output_at), std::end(arguments.output_at), nullptr);
    arguments.multicast_input = arguments.multicast_output = nullptr;
    arguments.input_id = arguments.output_id = 0;
    filled_.located = false;
  }
  const SharedBuffers& buffers = group_.shared_buffers();
  if (buffers.empty()) return;
  const std::uint64_t bytes = filled_.vectors * vector_bytes;
  locate(buffers, arguments.input, bytes, group_.size(),
         {arguments.input_at, &arguments.multicast_input, &arguments.input_id});
  locate(buffers, arguments.output, bytes, group_.size(),
         {arguments.output_at, &arguments.multicast_output, &arguments.output_id});
  filled_.located = true;
}

void LoadedKernel::launch(StreamHandle stream) {
  if (exchange_) locate_tensors();
  device_.launch(*kernel_, launch_, &filled_.arguments, sizeof(filled_.arguments), stream);
}

std::string candidate_source_hash(const GroupCapabilities& group, const CandidateSpec& spec) {
  return candidate_source_hash(*group.catalogue, dialect_of(group.environment), spec, *group.templates);
}

std::string candidate_source_hash(const Catalogue& catalogue, Dialect dialect, const CandidateSpec& spec,
                                  const TemplateMap& templates) {
  std::vector<std::string> hashes;
  const auto add = [&](const Variant& variant, int rank) {
    hashes.push_back(render_kernel(catalogue, variant, rank, dialect, templates).hash);
  };
  if (spec.kernel) {
    // On the CPU device one source holds the kernels of all ranks.
    const int sources = dialect == Dialect::host ? 1 : spec.kernel->world;
    for (int rank = 0; rank < sources; ++rank) add(*spec.kernel, rank);
  }
  if (spec.prologue) add(*spec.prologue, 0);
  if (spec.epilogue) add(*spec.epilogue, 0);
  return hashes.empty() ? std::string() : hash_of_fields(hashes);
}

std::size_t scratch_bytes(const CandidateSpec& spec, const ProblemFamily& family) {
  // Between kernels the message lies in a tensor that is written later anyway, but not every call has one; behind
  // NCCL's symmetric windows only what a prologue makes has no place of its own.
  if (spec.fused() || (spec.nccl == NcclKind::symmetric && !spec.prologue)) return 0;
  return message_vectors(family.max_tokens, family.hidden, family.dtype) * vector_bytes;
}

}  // namespace arbiter
