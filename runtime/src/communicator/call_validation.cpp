#include "communicator/call_validation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <new>
#include <string>

#include "arbiter/db/family_text.hpp"
#include "arbiter/error.hpp"
#include "arbiter/generator/tensor_table.hpp"
#include "candidate/geometry.hpp"
#include "communicator/spread_bits.hpp"

namespace arbiter {
namespace {

/// Weights (or map entries) of a MoE prologue.
std::uintptr_t moe_entries(const Pattern& pattern, const CallSize& size, const CallTensors& tensors) {
  const int count = pattern.needs(Tensor::moe_row_map) ? tensors.moe_top_k : tensors.moe_experts;
  return static_cast<std::uintptr_t>(size.tokens) * static_cast<std::uintptr_t>(count);
}

/// Rows of `input`.
std::uintptr_t input_rows(const Pattern& pattern, const CallSize& size, const CallTensors& tensors) {
  if (pattern.needs(Tensor::moe_row_map)) return static_cast<std::uintptr_t>(tensors.moe_rows);
  const auto tokens = static_cast<std::uintptr_t>(size.tokens);
  return pattern.needs(Tensor::moe_weights) ? tokens * static_cast<std::uintptr_t>(tensors.moe_experts) : tokens;
}

/// Of one element, and so what the tensor is aligned to.
std::size_t element_bytes_of(Elements elements, const CallSize& size, const CallTensors& tensors) {
  switch (elements) {
    case Elements::words:
      return 4;
    case Elements::bytes:
      return 1;
    case Elements::dtype_or_fp32_gamma:
      return tensors.gamma_fp32 ? 4 : element_bytes(size.dtype);
    case Elements::dtype_or_fp32_moe:
      return tensors.moe_weights_fp32 ? 4 : element_bytes(size.dtype);
    case Elements::dtype:
      break;
  }
  return element_bytes(size.dtype);
}

std::uintptr_t bytes_of(Extent extent, std::size_t element, const Pattern& pattern, const CallSize& size,
                        const CallTensors& tensors) {
  const std::uintptr_t row = static_cast<std::uintptr_t>(size.hidden) * element;
  switch (extent) {
    case Extent::contributions:
      return input_rows(pattern, size, tensors) * row;
    case Extent::row:
      return row;
    case Extent::one:
      return element;
    case Extent::quantised:
      return pattern.quant_out_bytes(size.hidden, size.tokens);
    case Extent::scales:
      return pattern.scale_out_bytes(size.hidden, size.tokens);
    case Extent::moe_entries:
      return moe_entries(pattern, size, tensors) * element;
    case Extent::message:
      break;
  }
  return static_cast<std::uintptr_t>(size.tokens) * row;
}

/// Must the call have it, or does it? Of an empty input nobody asks where it is.
bool concerns(const TensorRule& rule, const void* address, const Pattern& pattern, const CallSize& size,
              const CallTensors& tensors) {
  if (!rule.tensor) return address != nullptr || input_rows(pattern, size, tensors) != 0;
  return address != nullptr ? pattern.uses(*rule.tensor) : pattern.needs(*rule.tensor);
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

void validate_norm(const CallTensors& tensors) {
  if (!std::isfinite(tensors.epsilon) || tensors.epsilon < 0.0F) {
    throw InvalidArgument(fmt::format("epsilon is {}; expected a finite number, 0 or more", tensors.epsilon));
  }
  if (!std::isfinite(tensors.weight_bias)) {
    throw InvalidArgument(fmt::format("weight_bias is {}; expected 0 or 1", tensors.weight_bias));
  }
}

void validate_count(std::string_view name, std::int64_t value, std::int64_t least) {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  if (value >= least && value <= most) return;
  throw InvalidArgument(fmt::format("'{}' is {}; expected {} to {}", name, value, least, most));
}

void validate_moe(const Pattern& pattern, const CallSize& size, const CallTensors& tensors) {
  if (pattern.needs(Tensor::moe_row_map)) {
    validate_count("moe_top_k", tensors.moe_top_k, 1);
    validate_count("moe_rows", tensors.moe_rows, 0);
  } else {
    validate_count("moe_experts", tensors.moe_experts, 1);
  }
  // Kernels number the vectors of the input and the entries of the weights in 32 bits.
  constexpr std::uintptr_t most = std::uintptr_t{1} << 32;
  const std::uintptr_t row_vectors =
      static_cast<std::uintptr_t>(size.hidden) * element_bytes(size.dtype) / vector_bytes;
  std::uintptr_t vectors = 0;
  if (__builtin_mul_overflow(input_rows(pattern, size, tensors), row_vectors, &vectors) || vectors >= most) {
    throw InvalidArgument(fmt::format("'input' has {} rows of hidden={}; kernels read less than 64 GiB",
                                      input_rows(pattern, size, tensors), size.hidden));
  }
  if (moe_entries(pattern, size, tensors) >= most) {
    throw InvalidArgument(
        fmt::format("'moe_weights' has {} elements; kernels read less than 2^32", moe_entries(pattern, size, tensors)));
  }
}

void validate_scales(const Pattern& pattern, const CallSize& size, const CallTensors& tensors) {
  const std::size_t needed = pattern.scale_out_bytes(size.hidden, size.tokens);
  if (tensors.scale_out_bytes >= needed) return;
  throw InvalidArgument(fmt::format(
      "'scale_out' has {} bytes (scale_out_bytes); '{}' writes {} for {} tokens of hidden={}, padding included",
      tensors.scale_out_bytes, pattern.name, needed, size.tokens, size.hidden));
}

}  // namespace

TensorRanges tensor_ranges(const Pattern& pattern, const CallSize& size, const CallTensors& tensors) {
  TensorRanges ranges;
  for_each_tensor([&](const auto& entry) {
    const void* const address = entry.member(tensors);
    if (!concerns(entry, address, pattern, size, tensors)) return;
    const auto begin = reinterpret_cast<std::uintptr_t>(address);
    const std::size_t element = element_bytes_of(entry.elements, size, tensors);
    // In its place: a copy of what was only just written, part by part, waits for all of it.
    new (&ranges.items[ranges.count++]) TensorRange{
        entry.name, entry.tensor,     begin,        begin + bytes_of(entry.extent, element, pattern, size, tensors),
        element,    entry.in_vectors, entry.written};
  });
  return ranges;
}

void set_pointer(CallTensors& tensors, std::optional<Tensor> tensor, void* pointer) noexcept {
  for_each_tensor([&](const auto& entry) {
    if (entry.tensor == tensor) set_tensor(entry, tensors, pointer);
  });
}

TensorRanges validate_tensors(const Pattern& pattern, const CallSize& size, const CallTensors& tensors) {
  if (pattern.needs(Tensor::moe_weights)) validate_moe(pattern, size, tensors);
  const TensorRanges ranges = tensor_ranges(pattern, size, tensors);
  for (std::size_t i = 0; i < ranges.count; ++i) {
    const TensorRange& range = ranges.items[i];
    if (range.begin == 0) refuse_null(pattern, range);
    if ((range.begin & (range.alignment - 1)) != 0) refuse_alignment(range);  // a division costs more than the rest
    for (std::size_t j = 0; j < i; ++j) {
      const TensorRange& other = ranges.items[j];
      if (!range.written && !other.written) continue;
      if (range.begin < other.end && other.begin < range.end && !may_be_the_same(pattern, range, other)) {
        refuse_overlap(other, range);
      }
    }
  }
  if (pattern.needs(Tensor::scale_out)) validate_scales(pattern, size, tensors);
  if (pattern.has(PartKind::norm)) validate_norm(tensors);
  return ranges;
}

void validate_family(const Catalogue& catalogue, const ProblemFamily& family) {
  const Pattern pattern = catalogue.pattern(family.pattern);  // refuses unknown names
  const std::string name = family_text(family);
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

PointerCheck::Set& PointerCheck::set_of(const void* pointer) noexcept {
  return sets_[spread_bits(reinterpret_cast<std::uintptr_t>(pointer)) >> (64 - set_bits)];
}

bool PointerCheck::remembers(const void* pointer) noexcept {
  const Set& set = set_of(pointer);
  return std::find(set.seen.begin(), set.seen.end(), pointer) != set.seen.end();
}

void PointerCheck::require_device_memory(const TensorRanges& ranges) {
  for (const TensorRange& range : ranges) require_device_memory(range.name, reinterpret_cast<const void*>(range.begin));
}

void PointerCheck::require_device_memory(std::string_view name, const void* pointer) {
  if (remembers(pointer)) return;
  Set& set = set_of(pointer);
  const char* what = nullptr;
  switch (device_.classify(pointer)) {
    case PointerKind::here:
      std::rotate(set.seen.begin(), std::prev(set.seen.end()), set.seen.end());
      set.seen.front() = pointer;
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
