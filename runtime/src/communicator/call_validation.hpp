// Checks of one call before anything is launched. Messages name the tensor.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "arbiter/communicator.hpp"
#include "arbiter/generator/catalogue.hpp"

namespace arbiter {

/// The size of a call's message: rows of a pattern, or a plain message as rows of one element.
struct CallSize {
  Dtype dtype = Dtype::bf16;
  int hidden = 0;
  std::int64_t tokens = 0;
  std::int64_t elements() const noexcept { return tokens * hidden; }
};

/// One tensor of a call. An address that is not that of a vector is legal, and needs a copy where kernels read vectors.
struct TensorRange {
  std::string_view name;
  std::optional<Tensor> tensor;  ///< empty: the input
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  std::size_t alignment = 1;  ///< of its elements; a power of two
  bool read_in_vectors = false;
  bool written = false;
};

/// In a fixed array, because calls are made often.
struct TensorRanges {
  /// Only the first `count` are anything: to clear a dozen for the two of a plain call took a tenth of its time.
  union {
    TensorRange items[tensor_count + 1];
  };
  std::size_t count = 0;
  TensorRanges() noexcept {}  // NOLINT(modernize-use-equals-default): it would clear them
  const TensorRange* begin() const noexcept { return items; }
  const TensorRange* end() const noexcept { return items + count; }
};

/// The tensors that the pattern needs, and those of its optional ones that the call gives. The same ones in the same
/// order for calls that differ in nothing but addresses.
TensorRanges tensor_ranges(const Pattern&, const CallSize&, const CallTensors&);
/// Puts another tensor in the place of one that tensor_ranges() named.
void set_pointer(CallTensors&, std::optional<Tensor>, void*) noexcept;

/// Tensors that the pattern uses: present unless optional, aligned to their elements, large enough, and not overlapping
/// except where they may be the same. Scalars: in range. Pure; no allocation unless it throws InvalidArgument.
TensorRanges validate_tensors(const Pattern&, const CallSize&, const CallTensors&);

/// A family that prepare() can accept at all. Throws InvalidArgument.
void validate_family(const Catalogue&, const ProblemFamily&);

/// Asks the device what a pointer is only when it has not seen it lately: the question costs hundreds of nanoseconds.
class PointerCheck {
 public:
  explicit PointerCheck(Device& device) : device_(device) {}

  /// Every tensor of a call lies in this device's memory. Throws InvalidArgument.
  void require_device_memory(const TensorRanges&);
  void require_device_memory(std::string_view name, const void* pointer);
  /// Was it found to be this device's, lately?
  bool remembers(const void* pointer) noexcept;

 private:
  /// Tensors of an engine lie at multiples of large powers of two: the set is taken from a hash of all bits, and those
  /// that meet in one still have four places.
  static constexpr unsigned set_bits = 9;
  static constexpr std::size_t ways = 4;
  struct alignas(ways * sizeof(void*)) Set {  // in one line of the cache
    std::array<const void*, ways> seen{};     // the last one first
  };
  Set& set_of(const void* pointer) noexcept;
  Device& device_;
  std::array<Set, std::size_t{1} << set_bits> sets_{};
};

}  // namespace arbiter
