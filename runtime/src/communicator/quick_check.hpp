// The checks of a call in a few comparisons, for tensors with which nothing is the matter. What they do not pass may be
// in order all the same: validate_tensors() knows, and says what is wrong.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "communicator/call_validation.hpp"

namespace arbiter {

/// Of one family. Between a call and its launch the driver's last launch has left little in the caches, so that code
/// and data count, not instructions: one small loop over the few tensors that the pattern can have.
class QuickCheck {
 public:
  /// Never passes anything for patterns with MoE prologues or quantisations: sizes of their tensors are not so simple.
  QuickCheck(const Pattern&, Dtype, int hidden);

  /// Pointers of a call, each once.
  struct Pointers {
    std::array<const void*, tensor_count + 1> items;
    std::size_t count = 0;
  };
  /// Are all needed tensors there, aligned to whole vectors, and apart where one of them is written? `rows` of a row
  /// pattern, elements of a flat one. True only where validate_tensors() accepts the call and none goes through a copy.
  bool passes(const CallTensors&, std::int64_t rows, Pointers&) const noexcept;

 private:
  struct Entry {
    std::uint16_t offset = 0;  // of the pointer in CallTensors
    bool required = false;
    bool written = false;
    std::int8_t same_as = -1;         // the earlier entry whose tensor it may be
    std::uint64_t row_bytes = 0;      // for each row
    std::uint64_t weights_bytes = 0;  // of a norm's weights
  };
  std::array<Entry, tensor_count + 1> entries_{};
  std::size_t count_ = 0;  // 0: passes nothing
  bool norm_ = false;
  std::uint64_t wider_weights_ = 1;  // how many times as large they are in fp32
};

}  // namespace arbiter
