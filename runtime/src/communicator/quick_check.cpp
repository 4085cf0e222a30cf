#include "communicator/quick_check.hpp"

#include <cmath>
#include <cstring>

#include "arbiter/generator/tensor_table.hpp"

namespace arbiter {

QuickCheck::QuickCheck(const Pattern& pattern, Dtype dtype, int hidden) {
  if (pattern.has(PartKind::prologue) || pattern.has(PartKind::quantisation)) return;
  const auto columns = pattern.rows ? static_cast<std::uint64_t>(hidden) : 1;
  const CallTensors example;
  std::int8_t input = -1, residual = -1;
  for_each_tensor([&](const auto& entry) {
    if (entry.tensor && !pattern.uses(*entry.tensor)) return;
    const auto number = static_cast<std::int8_t>(count_);
    Entry& made = entries_[count_++];
    made.offset = static_cast<std::uint16_t>(reinterpret_cast<const char*>(&entry.member(example)) -
                                             reinterpret_cast<const char*>(&example));
    made.required = !entry.tensor || pattern.needs(*entry.tensor);
    made.written = entry.written;
    if (!entry.tensor) input = number;
    if (entry.tensor == Tensor::residual_in) residual = number;
    if (entry.tensor == Tensor::output) made.same_as = input;
    if (entry.tensor == Tensor::residual_out) made.same_as = residual;
    (entry.extent == Extent::row ? made.weights_bytes : made.row_bytes) = columns * element_bytes(dtype);
  });
  norm_ = pattern.has(PartKind::norm);
  wider_weights_ = 4 / element_bytes(dtype);
}

bool QuickCheck::passes(const CallTensors& tensors, std::int64_t rows, Pointers& pointers) const noexcept {
  if (count_ == 0) return false;
  struct Range {
    std::uintptr_t begin, end;
    bool written;
    std::int8_t entry;
  };
  std::array<Range, tensor_count + 1> ranges;  // NOLINT(cppcoreguidelines-pro-type-member-init): only what is counted
  std::uintptr_t bits = 0;
  bool apart = true;
  pointers.count = 0;
  const std::uint64_t wider = tensors.gamma_fp32 ? wider_weights_ : 1;
  for (std::size_t i = 0; i < count_; ++i) {
    const Entry& entry = entries_[i];
    std::uintptr_t begin = 0;
    std::memcpy(&begin, reinterpret_cast<const char*>(&tensors) + entry.offset, sizeof(begin));
    if (begin == 0) {
      if (entry.required) return false;
      continue;
    }
    bits |= begin;
    const std::uintptr_t end = begin + static_cast<std::uint64_t>(rows) * entry.row_bytes + entry.weights_bytes * wider;
    for (std::size_t j = 0; j < pointers.count; ++j) {
      const Range& other = ranges[j];
      const bool read_only = !(entry.written || other.written);
      const bool the_same = other.entry == entry.same_as && other.begin == begin;
      apart = apart && (read_only || the_same || begin >= other.end || other.begin >= end);
    }
    ranges[pointers.count] = {begin, end, entry.written, static_cast<std::int8_t>(i)};
    pointers.items[pointers.count++] = reinterpret_cast<const void*>(begin);
  }
  return apart && bits % vector_bytes == 0 &&
         (!norm_ || (std::isfinite(tensors.epsilon) && tensors.epsilon >= 0 && std::isfinite(tensors.weight_bias)));
}

}  // namespace arbiter
