// Where this rank's tensors begin between vectors, its kernels work on copies of them. What the ranks exchange does not
// change, so it is nobody else's concern.
#pragma once

#include <array>
#include <deque>

#include "arbiter/communicator.hpp"
#include "arbiter/generator/catalogue.hpp"
#include "communicator/call_validation.hpp"

namespace arbiter {

class AlignedCopies {
 public:
  explicit AlignedCopies(Device& device) : device_(device) {}

  /// Does any tensor of a validated call need one?
  static bool needed(const TensorRanges&) noexcept;

  /// The tensors with copies in place of such tensors; what is read is copied, in the order of the stream. Memory is
  /// allocated for `max_tokens` when it is needed for the first time, also in a captured call, and stays where it is:
  /// a captured graph goes on using it. Throws Unavailable where there is not enough.
  CallTensors begin(const Pattern&, const CallSize&, const CallTensors&, std::int64_t max_tokens, StreamHandle);
  /// Behind the call of what begin() returned: what was written goes to where `original` wants it.
  void end(const Pattern&, const CallSize&, const CallTensors& original, const CallTensors& aligned, StreamHandle);

 private:
  unsigned char* memory_of(std::size_t bytes, std::size_t most);

  Device& device_;
  std::deque<DeviceMemory> memory_;
};

}  // namespace arbiter
