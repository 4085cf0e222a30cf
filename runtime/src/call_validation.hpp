// Checks of one call before anything is launched. Messages name the tensor.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "arbiter/generator/catalogue.hpp"
#include "arbiter/runtime/communicator.hpp"

namespace arbiter {

/// Tensors that the pattern needs: present, aligned to `alignment` bytes, and not overlapping except where they may be
/// the same. Scalars: finite. Pure; no allocation unless it throws InvalidArgument.
void validate_tensors(const EpilogueEntry&, const Call&, std::size_t alignment);

/// A family that prepare() can accept at all. Throws InvalidArgument.
void validate_family(const Catalogue&, const ProblemFamily&);

/// Asks the device what a pointer is only when it has not seen it lately: the question costs hundreds of nanoseconds.
class PointerCheck {
 public:
  explicit PointerCheck(Device& device) : device_(device) {}

  /// Every tensor that the pattern needs lies in this device's memory. Throws InvalidArgument.
  void require_device_memory(const EpilogueEntry&, const Call&);
  void require_device_memory(const char* name, const void* pointer);

 private:
  static constexpr std::size_t slots = 256;
  Device& device_;
  std::array<const void*, slots> seen_{};  // direct-mapped
};

}  // namespace arbiter
