// Checks of one call before anything is launched. Messages name the tensor.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "arbiter/communicator.hpp"
#include "arbiter/generator/catalogue.hpp"

namespace arbiter {

/// Tensors that the pattern uses: present unless optional, aligned (to `alignment` bytes where kernels read vectors),
/// large enough, and not overlapping except where they may be the same. Scalars: in range. Pure; no allocation unless
/// it throws InvalidArgument.
void validate_tensors(const Pattern&, const Call&, std::size_t alignment);

/// A family that prepare() can accept at all. Throws InvalidArgument.
void validate_family(const Catalogue&, const ProblemFamily&);

/// Asks the device what a pointer is only when it has not seen it lately: the question costs hundreds of nanoseconds.
class PointerCheck {
 public:
  explicit PointerCheck(Device& device) : device_(device) {}

  /// Every tensor that the call gives lies in this device's memory. Throws InvalidArgument.
  void require_device_memory(const Pattern&, const Call&);
  void require_device_memory(std::string_view name, const void* pointer);

 private:
  static constexpr std::size_t slots = 256;
  Device& device_;
  std::array<const void*, slots> seen_{};  // direct-mapped
};

}  // namespace arbiter
