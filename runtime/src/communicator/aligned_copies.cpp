#include "communicator/aligned_copies.hpp"

#include <algorithm>

namespace arbiter {
namespace {

constexpr std::size_t place_alignment = 512;

bool is_unaligned(const TensorRange& range) { return range.begin % vector_bytes != 0 && range.read_in_vectors; }

std::size_t room(const TensorRange& range) {
  return (range.end - range.begin + place_alignment - 1) / place_alignment * place_alignment;
}

/// Of the copies that the call needs.
std::size_t bytes_of(const TensorRanges& ranges) {
  std::size_t bytes = 0;
  for (const TensorRange& range : ranges) bytes += is_unaligned(range) ? room(range) : 0;
  return bytes;
}

}  // namespace

bool AlignedCopies::needed(const TensorRanges& ranges) noexcept {
  return std::any_of(ranges.begin(), ranges.end(), is_unaligned);
}

unsigned char* AlignedCopies::memory_of(std::size_t bytes, std::size_t most) {
  for (const DeviceMemory& memory : memory_) {
    if (memory.bytes() >= bytes) return static_cast<unsigned char*>(memory.data());
  }
  return static_cast<unsigned char*>(memory_.emplace_back(device_, std::max(bytes, most)).data());
}

CallTensors AlignedCopies::begin(const Pattern& pattern, const CallSize& size, const CallTensors& tensors,
                                 std::int64_t max_tokens, StreamHandle stream) {
  const TensorRanges ranges = tensor_ranges(pattern, size, tensors);
  CallSize largest = size;
  largest.tokens = max_tokens;
  unsigned char* next = memory_of(bytes_of(ranges), bytes_of(tensor_ranges(pattern, largest, tensors)));
  CallTensors aligned = tensors;
  for (const TensorRange& range : ranges) {
    if (!is_unaligned(range)) continue;
    if (!range.written) {
      device_.copy(next, reinterpret_cast<const void*>(range.begin), range.end - range.begin, stream);
    }
    set_pointer(aligned, range.tensor, next);
    next += room(range);
  }
  return aligned;
}

void AlignedCopies::end(const Pattern& pattern, const CallSize& size, const CallTensors& original,
                        const CallTensors& aligned, StreamHandle stream) {
  const TensorRanges to = tensor_ranges(pattern, size, original);
  const TensorRanges from = tensor_ranges(pattern, size, aligned);
  for (std::size_t i = 0; i < to.count; ++i) {
    const TensorRange& range = to.items[i];
    if (!range.written || !is_unaligned(range)) continue;
    device_.copy(reinterpret_cast<void*>(range.begin), reinterpret_cast<const void*>(from.items[i].begin),
                 range.end - range.begin, stream);
  }
}

}  // namespace arbiter
