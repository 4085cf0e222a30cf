#include "call_validation.hpp"

#include <cmath>
#include <limits>
#include <string>

#include "arbiter/error.hpp"
#include "geometry.hpp"

namespace arbiter {
namespace {

struct Range {
  const char* name = nullptr;
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  bool written = false;
};

/// The tensors of one call, in a fixed array: calls are validated often.
struct Ranges {
  std::array<Range, 6> items;
  std::size_t count = 0;

  void add(const char* name, const void* pointer, std::uintptr_t bytes, bool written) {
    const auto begin = reinterpret_cast<std::uintptr_t>(pointer);
    items[count++] = {name, begin, begin + bytes, written};
  }
};

Ranges ranges_of(const EpilogueEntry& pattern, const Call& call) {
  const std::uintptr_t row = static_cast<std::uintptr_t>(call.hidden) * element_bytes(call.dtype);
  const std::uintptr_t message = static_cast<std::uintptr_t>(call.tokens) * row;
  Ranges ranges;
  ranges.add("input", call.input, message, false);
  for (const Tensor tensor : pattern.tensors) {
    switch (tensor) {
      case Tensor::output:
        ranges.add("output", call.output, message, true);
        break;
      case Tensor::residual_in:
        ranges.add("residual_in", call.residual_in, message, false);
        break;
      case Tensor::residual_out:
        ranges.add("residual_out", call.residual_out, message, true);
        break;
      case Tensor::gamma:
        ranges.add("gamma", call.gamma, row, false);
        break;
      case Tensor::norm_out:
        ranges.add("norm_out", call.norm_out, message, true);
        break;
    }
  }
  return ranges;
}

bool may_be_the_same(const Range& a, const Range& b) {
  const auto pair = [&](std::string_view x, std::string_view y) {
    return (a.name == x && b.name == y) || (a.name == y && b.name == x);
  };
  return a.begin == b.begin && (pair("input", "output") || pair("residual_in", "residual_out"));
}

[[noreturn]] void refuse_null(const EpilogueEntry& pattern, const Range& range) {
  throw InvalidArgument("'" + pattern.pattern + "' needs the tensor '" + range.name + "'; it is null");
}

[[noreturn]] void refuse_alignment(const Range& range, std::size_t alignment) {
  throw InvalidArgument(std::string("'") + range.name + "' is not aligned to " + std::to_string(alignment) +
                        " bytes (its address is " + std::to_string(range.begin % alignment) +
                        " bytes past one); pass a tensor that starts at an aligned address");
}

[[noreturn]] void refuse_overlap(const Range& a, const Range& b) {
  throw InvalidArgument(std::string("'") + a.name + "' and '" + b.name +
                        "' overlap; only output may be input, and residual_out may be residual_in, and then they must "
                        "start at the same address");
}

}  // namespace

void validate_tensors(const EpilogueEntry& pattern, const Call& call, std::size_t alignment) {
  const Ranges ranges = ranges_of(pattern, call);
  for (std::size_t i = 0; i < ranges.count; ++i) {
    const Range& range = ranges.items[i];
    if (range.begin == 0) refuse_null(pattern, range);
    if (range.begin % alignment != 0) refuse_alignment(range, alignment);
    for (std::size_t j = 0; j < i; ++j) {
      const Range& other = ranges.items[j];
      if (!range.written && !other.written) continue;
      if (range.begin < other.end && other.begin < range.end && !may_be_the_same(range, other)) {
        refuse_overlap(other, range);
      }
    }
  }
  if (!pattern.needs(Tensor::norm_out)) return;
  if (!std::isfinite(call.epsilon) || call.epsilon < 0.0F) {
    throw InvalidArgument("epsilon is " + std::to_string(call.epsilon) + "; expected a finite number, 0 or more");
  }
  if (!std::isfinite(call.weight_bias)) {
    throw InvalidArgument("weight_bias is " + std::to_string(call.weight_bias) + "; expected 0 or 1");
  }
}

void validate_family(const Catalogue& catalogue, const ProblemFamily& family) {
  const EpilogueEntry& pattern = catalogue.epilogue(family.pattern);  // refuses unknown names
  const std::string name =
      family.pattern + " " + std::string(to_string(family.dtype)) + " hidden=" + std::to_string(family.hidden);
  if (family.hidden <= 0) {
    throw InvalidArgument(name + ": hidden must be a positive number of elements");
  }
  const std::size_t elements = vector_elements(family.dtype);
  if (pattern.rows && static_cast<std::size_t>(family.hidden) % elements != 0) {
    throw InvalidArgument(name + ": hidden must be a multiple of " + std::to_string(elements) +
                          " elements (16 bytes); pad the rows");
  }
  if (family.max_tokens <= 0) {
    throw InvalidArgument(name + ": max_tokens is " + std::to_string(family.max_tokens) + "; expected 1 or more");
  }
  message_vectors(family.max_tokens, family.hidden, family.dtype);  // refuses what does not fit 63 bits
  if (pattern.rows && family.max_tokens > std::numeric_limits<std::int32_t>::max()) {
    throw InvalidArgument(name + ": max_tokens is " + std::to_string(family.max_tokens) +
                          "; kernels count rows in 31 bits");
  }
}

void PointerCheck::require_device_memory(const EpilogueEntry& pattern, const Call& call) {
  require_device_memory("input", call.input);
  for (const Tensor tensor : pattern.tensors) {
    switch (tensor) {
      case Tensor::output:
        require_device_memory("output", call.output);
        break;
      case Tensor::residual_in:
        require_device_memory("residual_in", call.residual_in);
        break;
      case Tensor::residual_out:
        require_device_memory("residual_out", call.residual_out);
        break;
      case Tensor::gamma:
        require_device_memory("gamma", call.gamma);
        break;
      case Tensor::norm_out:
        require_device_memory("norm_out", call.norm_out);
        break;
    }
  }
}

void PointerCheck::require_device_memory(const char* name, const void* pointer) {
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
  throw InvalidArgument(std::string("'") + name + "' points to " + what + "; expected memory of " +
                        device_.properties().name + " " + std::to_string(device_.properties().ordinal));
}

}  // namespace arbiter
