// The device tensors of a pattern, with guard regions around each, and how they are filled and checked.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "arbiter/generator/pattern.hpp"
#include "arbiter/runtime/candidate.hpp"
#include "verify/device_comparison.hpp"
#include "verify/inputs.hpp"

namespace arbiter::tuning {

/// What a guard region holds.
const Bytes& guard_pattern();

/// The tensors that a pattern writes, whether it must or may.
std::vector<Tensor> outputs_of(const Pattern&);

/// How a call's tensors lie in memory.
struct Placement {
  bool in_place = false;          ///< output is input; residual_out is residual_in
  std::size_t shift_vectors = 0;  ///< every tensor starts this many 16-byte vectors behind a 512-byte boundary
  bool operator==(const Placement&) const = default;
};

/// Host memory that the device copies to at full speed.
class HostBuffer {
 public:
  HostBuffer(Device& device, std::size_t bytes)
      : device_(device), data_(device.allocate_host_visible(bytes)), bytes_(bytes) {}
  HostBuffer(const HostBuffer&) = delete;
  HostBuffer& operator=(const HostBuffer&) = delete;
  ~HostBuffer() { device_.release_host_visible(data_); }
  unsigned char* data() const noexcept { return static_cast<unsigned char*>(data_); }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  Device& device_;
  void* data_;
  std::size_t bytes_;
};

/// Shapes of the tensors of a pattern. Sizes are in bytes, for `tokens` rows.
struct TensorShapes {
  Pattern pattern;
  Composition composition;
  Dtype dtype{};
  int hidden = 0;
  MoeShape moe;

  TensorShapes(Pattern, Dtype, int hidden, const MoeShape& = {});
  std::size_t row_bytes() const noexcept { return static_cast<std::size_t>(hidden) * element_bytes(dtype); }
  std::size_t input_bytes(std::int64_t tokens) const noexcept;
  std::size_t bytes(Tensor, std::int64_t tokens) const noexcept;
  /// Of device memory for one set.
  std::size_t total_bytes(std::int64_t max_tokens) const noexcept;
};

/// One set of tensors for up to `max_tokens` rows. Used from the rank's thread.
class Tensors {
 public:
  Tensors(Device&, TensorShapes, std::int64_t max_tokens, Placement = {});

  /// With every optional tensor; gamma, the weights and the shared input as they were loaded.
  Call call(std::int64_t tokens) const;
  void* input() const noexcept { return input_; }
  void* at(Tensor) const noexcept;  ///< null if the pattern has no such tensor

  /// Everything that the pattern reads, for `tokens` rows. The inputs must live until the stream has been waited for.
  void load(const Inputs&, std::int64_t tokens, StreamHandle);

  /// What no kernel writes (NaN; 0x7f in every byte of scale_out) in every output, but not where it is an input too,
  /// and a pattern in the guard regions before the first and behind the last byte of every output.
  void poison(std::int64_t tokens, StreamHandle);

  /// All that another set holds, poison and guards included. Throws InvalidArgument if that has another layout.
  void copy_from(const Tensors&, StreamHandle);

  /// Hand the bytes from `begin` to `end` of an output to `visit` in pieces: offset and bytes. Every `stride`-th piece
  /// only, and always the last. Waits for the stream.
  void read(Tensor, std::size_t begin, std::size_t end, HostBuffer&, StreamHandle,
            const std::function<void(std::size_t, std::span<const unsigned char>)>& visit,
            std::size_t stride = 1) const;
  Bytes read(Tensor, std::size_t begin, std::size_t end, HostBuffer&, StreamHandle) const;

  /// The guard regions of all outputs, beside a guard_pattern() that lies on the device.
  std::vector<ComparedRange> guards(std::int64_t tokens, const DeviceMemory& pattern) const;
  /// Empty, or which guard region was written to, and where. Waits for the stream.
  std::string check_guards(std::int64_t tokens, HostBuffer&, StreamHandle) const;

  const TensorShapes& shapes() const noexcept { return shapes_; }

 private:
  unsigned char* slot(Tensor tensor) const noexcept { return slots_[static_cast<std::size_t>(tensor)]; }
  void guard(unsigned char* at, StreamHandle);
  void repeat(unsigned char* destination, const Bytes& tile, std::size_t bytes, StreamHandle);
  void load_moe(const Inputs&, std::int64_t tokens, StreamHandle);

  Device& device_;
  TensorShapes shapes_;
  Placement placement_;
  std::vector<Tensor> outputs_;
  DeviceMemory memory_;
  unsigned char* input_ = nullptr;
  std::array<unsigned char*, tensor_count> slots_{};
  InputChoice loaded_;
};

}  // namespace arbiter::tuning
