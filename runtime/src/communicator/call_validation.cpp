#include "communicator/call_validation.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <string>

#include "arbiter/error.hpp"
#include "candidate/geometry.hpp"

namespace arbiter {
namespace {

/// The caller's pointer for a tensor.
const void* pointer_of(const Call& call, Tensor tensor) {
  switch (tensor) {
    case Tensor::output:
      return call.output;
    case Tensor::residual_in:
      return call.residual_in;
    case Tensor::residual_out:
      return call.residual_out;
    case Tensor::gamma:
      return call.gamma;
    case Tensor::norm_out:
      return call.norm_out;
    case Tensor::quant_out:
      return call.quant_out;
    case Tensor::scale_in:
      return call.scale_in;
    case Tensor::scale_out:
      return call.scale_out;
    case Tensor::moe_weights:
      return call.moe_weights;
    case Tensor::moe_row_map:
      return call.moe_row_map;
    case Tensor::moe_shared:
      return call.moe_shared;
  }
  return nullptr;
}

bool is_written(Tensor tensor) {
  return tensor == Tensor::output || tensor == Tensor::residual_out || tensor == Tensor::norm_out ||
         tensor == Tensor::quant_out || tensor == Tensor::scale_out;
}

std::uintptr_t moe_element_bytes(const Call& call) { return call.moe_weights_fp32 ? 4 : element_bytes(call.dtype); }

/// Weights (or map entries) of a MoE prologue.
std::uintptr_t moe_entries(const Pattern& pattern, const Call& call) {
  const int count = pattern.needs(Tensor::moe_row_map) ? call.moe_top_k : call.moe_experts;
  return static_cast<std::uintptr_t>(call.tokens) * static_cast<std::uintptr_t>(count);
}

std::uintptr_t bytes_of(const Pattern& pattern, const Call& call, Tensor tensor) {
  const auto hidden = static_cast<std::uintptr_t>(call.hidden);
  const std::uintptr_t row = hidden * element_bytes(call.dtype);
  switch (tensor) {
    case Tensor::gamma:
      return call.gamma_fp32 ? 4 * hidden : row;
    case Tensor::quant_out:
      return pattern.quant_out_bytes(call.hidden, call.tokens);
    case Tensor::scale_in:
      return sizeof(float);
    case Tensor::scale_out:
      return pattern.scale_out_bytes(call.hidden, call.tokens);
    case Tensor::moe_weights:
      return moe_entries(pattern, call) * moe_element_bytes(call);
    case Tensor::moe_row_map:
      return moe_entries(pattern, call) * sizeof(int);
    default:
      return static_cast<std::uintptr_t>(call.tokens) * row;
  }
}

/// Rows of `input`.
std::uintptr_t input_rows(const Pattern& pattern, const Call& call) {
  if (pattern.needs(Tensor::moe_row_map)) return static_cast<std::uintptr_t>(call.moe_rows);
  const auto tokens = static_cast<std::uintptr_t>(call.tokens);
  return pattern.needs(Tensor::moe_weights) ? tokens * static_cast<std::uintptr_t>(call.moe_experts) : tokens;
}

/// Of its elements; scales may be fp32 whatever the pattern.
std::size_t element_alignment(const Call& call, Tensor tensor) {
  switch (tensor) {
    case Tensor::scale_in:
    case Tensor::scale_out:
    case Tensor::moe_row_map:
      return 4;
    case Tensor::quant_out:
      return 1;
    case Tensor::moe_weights:
      return moe_element_bytes(call);
    case Tensor::gamma:
      return call.gamma_fp32 ? 4 : element_bytes(call.dtype);
    default:
      return element_bytes(call.dtype);
  }
}

bool is_read_in_vectors(Tensor tensor) {
  return tensor != Tensor::scale_in && tensor != Tensor::moe_row_map && tensor != Tensor::moe_weights;
}

bool may_be_the_same(const Pattern& pattern, const TensorRange& a, const TensorRange& b) {
  const auto pair = [&](std::string_view x, std::string_view y) {
    return (a.name == x && b.name == y) || (a.name == y && b.name == x);
  };
  if (a.begin != b.begin) return false;
  // With a prologue several rows of the input make one of the sum.
  if (pair("input", "output")) return !pattern.has(PartKind::prologue);
  return pair("residual_in", "residual_out");
}

[[noreturn]] void refuse_null(const Pattern& pattern, const TensorRange& range) {
  throw InvalidArgument("'" + pattern.name + "' needs the tensor '" + std::string(range.name) + "'; it is null");
}

[[noreturn]] void refuse_alignment(const TensorRange& range) {
  throw InvalidArgument(
      fmt::format("'{}' is not aligned to {} bytes (its address is {} bytes past one); pass a tensor that starts at an "
                  "aligned address",
                  range.name, range.alignment, range.begin % range.alignment));
}

[[noreturn]] void refuse_overlap(const TensorRange& a, const TensorRange& b) {
  throw InvalidArgument("'" + std::string(a.name) + "' and '" + std::string(b.name) +
                        "' overlap; only output may be input (without a prologue), and residual_out may be "
                        "residual_in, and then they must start at the same address");
}

void validate_norm(const Call& call) {
  if (!std::isfinite(call.epsilon) || call.epsilon < 0.0F) {
    throw InvalidArgument(fmt::format("epsilon is {}; expected a finite number, 0 or more", call.epsilon));
  }
  if (!std::isfinite(call.weight_bias)) {
    throw InvalidArgument(fmt::format("weight_bias is {}; expected 0 or 1", call.weight_bias));
  }
}

void validate_count(std::string_view name, std::int64_t value, std::int64_t least) {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  if (value >= least && value <= most) return;
  throw InvalidArgument(fmt::format("'{}' is {}; expected {} to {}", name, value, least, most));
}

void validate_moe(const Pattern& pattern, const Call& call) {
  if (pattern.needs(Tensor::moe_row_map)) {
    validate_count("moe_top_k", call.moe_top_k, 1);
    validate_count("moe_rows", call.moe_rows, 0);
  } else {
    validate_count("moe_experts", call.moe_experts, 1);
  }
  // Kernels number the vectors of the input and the entries of the weights in 32 bits.
  constexpr std::uintptr_t most = std::uintptr_t{1} << 32;
  const std::uintptr_t row_vectors =
      static_cast<std::uintptr_t>(call.hidden) * element_bytes(call.dtype) / vector_bytes;
  std::uintptr_t vectors = 0;
  if (__builtin_mul_overflow(input_rows(pattern, call), row_vectors, &vectors) || vectors >= most) {
    throw InvalidArgument(fmt::format("'input' has {} rows of hidden={}; kernels read less than 64 GiB",
                                      input_rows(pattern, call), call.hidden));
  }
  if (moe_entries(pattern, call) >= most) {
    throw InvalidArgument(
        fmt::format("'moe_weights' has {} elements; kernels read less than 2^32", moe_entries(pattern, call)));
  }
}

void validate_scales(const Pattern& pattern, const Call& call) {
  const std::size_t needed = pattern.scale_out_bytes(call.hidden, call.tokens);
  if (call.scale_out_bytes >= needed) return;
  throw InvalidArgument(fmt::format(
      "'scale_out' has {} bytes (scale_out_bytes); '{}' writes {} for {} tokens of hidden={}, padding included",
      call.scale_out_bytes, pattern.name, needed, call.tokens, call.hidden));
}

}  // namespace

TensorRanges tensor_ranges(const Pattern& pattern, const Call& call) {
  TensorRanges ranges;
  const auto add = [&](std::string_view name, std::optional<Tensor> tensor, const void* pointer, std::uintptr_t bytes,
                       std::size_t alignment) {
    const auto begin = reinterpret_cast<std::uintptr_t>(pointer);
    ranges.items[ranges.count++] = {name,
                                    tensor,
                                    begin,
                                    begin + bytes,
                                    alignment,
                                    !tensor || is_read_in_vectors(*tensor),
                                    tensor && is_written(*tensor)};
  };
  const std::uintptr_t rows = input_rows(pattern, call);
  if (rows != 0 || call.input != nullptr) {
    const std::uintptr_t row = static_cast<std::uintptr_t>(call.hidden) * element_bytes(call.dtype);
    add("input", std::nullopt, call.input, rows * row, element_bytes(call.dtype));
  }
  for (std::size_t i = 0; i < tensor_count; ++i) {
    const auto tensor = static_cast<Tensor>(i);
    const void* pointer = pointer_of(call, tensor);
    // Most of them are absent: that is asked first.
    if (!(pointer != nullptr ? pattern.uses(tensor) : pattern.needs(tensor))) continue;
    add(to_string(tensor), tensor, pointer, bytes_of(pattern, call, tensor), element_alignment(call, tensor));
  }
  return ranges;
}

void set_pointer(Call& call, std::optional<Tensor> tensor, void* pointer) noexcept {
  if (!tensor) {
    call.input = pointer;
    return;
  }
  switch (*tensor) {
    case Tensor::output:
      call.output = pointer;
      return;
    case Tensor::residual_in:
      call.residual_in = pointer;
      return;
    case Tensor::residual_out:
      call.residual_out = pointer;
      return;
    case Tensor::gamma:
      call.gamma = pointer;
      return;
    case Tensor::norm_out:
      call.norm_out = pointer;
      return;
    case Tensor::quant_out:
      call.quant_out = pointer;
      return;
    case Tensor::scale_in:
      call.scale_in = static_cast<const float*>(pointer);
      return;
    case Tensor::scale_out:
      call.scale_out = pointer;
      return;
    case Tensor::moe_weights:
      call.moe_weights = pointer;
      return;
    case Tensor::moe_row_map:
      call.moe_row_map = static_cast<const int*>(pointer);
      return;
    case Tensor::moe_shared:
      call.moe_shared = pointer;
      return;
  }
}

TensorRanges validate_tensors(const Pattern& pattern, const Call& call) {
  if (pattern.needs(Tensor::moe_weights)) validate_moe(pattern, call);
  const TensorRanges ranges = tensor_ranges(pattern, call);
  for (std::size_t i = 0; i < ranges.count; ++i) {
    const TensorRange& range = ranges.items[i];
    if (range.begin == 0) refuse_null(pattern, range);
    if (range.begin % range.alignment != 0) refuse_alignment(range);
    for (std::size_t j = 0; j < i; ++j) {
      const TensorRange& other = ranges.items[j];
      if (!range.written && !other.written) continue;
      if (range.begin < other.end && other.begin < range.end && !may_be_the_same(pattern, range, other)) {
        refuse_overlap(other, range);
      }
    }
  }
  if (pattern.needs(Tensor::scale_out)) validate_scales(pattern, call);
  if (pattern.has(PartKind::norm)) validate_norm(call);
  return ranges;
}

void validate_family(const Catalogue& catalogue, const ProblemFamily& family) {
  const Pattern pattern = catalogue.pattern(family.pattern);  // refuses unknown names
  const std::string name = fmt::format("{} {} hidden={}", family.pattern, to_string(family.dtype), family.hidden);
  if (family.hidden <= 0) {
    throw InvalidArgument(name + ": hidden must be a positive number of elements");
  }
  if (const auto reason = impossible(pattern, family.dtype, family.hidden)) throw InvalidArgument(*reason);
  if (family.max_tokens <= 0) {
    throw InvalidArgument(fmt::format("{}: max_tokens is {}; expected 1 or more", name, family.max_tokens));
  }
  message_vectors(family.max_tokens, family.hidden, family.dtype);  // refuses what does not fit 63 bits
  if (pattern.rows && family.max_tokens > std::numeric_limits<std::int32_t>::max()) {
    throw InvalidArgument(fmt::format("{}: max_tokens is {}; kernels count rows in 31 bits", name, family.max_tokens));
  }
}

namespace {

/// The pattern, after a check that its sizes can be computed for this shape.
Pattern sized(std::string_view name, int hidden, std::int64_t tokens) {
  Pattern pattern = Catalogue::builtin().pattern(name);
  if (tokens < 0) throw InvalidArgument(fmt::format("tokens is {}; expected 0 or more", tokens));
  // Sizes do not depend on the dtype: one that can have this row is enough.
  if (pattern.rows && impossible(pattern, Dtype::fp32, hidden)) {
    if (const auto reason = impossible(pattern, Dtype::bf16, hidden)) throw InvalidArgument(*reason);
  }
  return pattern;
}

}  // namespace

std::size_t quant_out_bytes(std::string_view pattern, int hidden, std::int64_t tokens) {
  return sized(pattern, hidden, tokens).quant_out_bytes(hidden, tokens);
}

std::size_t scale_out_bytes(std::string_view pattern, int hidden, std::int64_t tokens) {
  return sized(pattern, hidden, tokens).scale_out_bytes(hidden, tokens);
}

void PointerCheck::require_device_memory(const Pattern& pattern, const Call& call) {
  if (call.input != nullptr) require_device_memory("input", call.input);
  for (const std::vector<Tensor>* tensors : {&pattern.required, &pattern.optional}) {
    for (const Tensor tensor : *tensors) {
      const void* pointer = pointer_of(call, tensor);
      if (pointer != nullptr) require_device_memory(to_string(tensor), pointer);
    }
  }
}

void PointerCheck::require_device_memory(std::string_view name, const void* pointer) {
  const std::size_t slot = (reinterpret_cast<std::uintptr_t>(pointer) >> 9) % slots;
  if (seen_[slot] == pointer) return;
  const char* what = nullptr;
  switch (device_.classify(pointer)) {
    case PointerKind::here:
      seen_[slot] = pointer;
      return;
    case PointerKind::host:
      what = "host memory";
      break;
    case PointerKind::other_device:
      what = "memory of another device";
      break;
    case PointerKind::unknown:
      what = "no memory that this device knows";
      break;
  }
  throw InvalidArgument(fmt::format("'{}' points to {}; expected memory of {} {}", name, what,
                                    device_.properties().name, device_.properties().ordinal));
}

}  // namespace arbiter
