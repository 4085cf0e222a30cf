// The device tensors of a pattern, with guard regions around each, and how they are filled and checked.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "arbiter/generator/catalogue.hpp"
#include "arbiter/runtime/candidate.hpp"
#include "reference.hpp"

namespace arbiter::tuning {

enum class Slot : std::uint8_t { input, output, residual_in, residual_out, gamma, norm_out };
inline constexpr std::size_t slot_count = 6;
std::string_view to_string(Slot) noexcept;

/// The tensors that a pattern writes.
std::vector<Slot> outputs_of(const Pattern&);

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

/// One set of tensors for up to `max_tokens` rows of `hidden` elements. Used from the rank's thread.
class Tensors {
 public:
  Tensors(Device&, const Pattern&, Dtype, int hidden, std::int64_t max_tokens, Placement = {});

  Call call(std::int64_t tokens) const;
  void* at(Slot) const noexcept;  ///< null if the pattern has no such tensor
  bool in_place() const noexcept { return placement_.in_place; }

  /// Repeat `tile` over the first `tokens` rows. Stream-ordered; `tile` must live until the stream has passed.
  void fill(Slot, const Bytes& tile, std::int64_t tokens, StreamHandle);
  /// One row, for gamma.
  void fill_row(Slot, const Bytes& row, StreamHandle);

  /// NaN in every output (but not where it is an input too), and a pattern in the guard regions before the first and
  /// behind the last of `tokens` rows of every output.
  void poison(std::int64_t tokens, StreamHandle);

  /// Hand the first `tokens` rows to `visit` in pieces: byte offset and bytes. Every `stride`-th piece only, and always
  /// the last. Synchronises the stream.
  void read(Slot, std::int64_t tokens, HostBuffer&, StreamHandle,
            const std::function<void(std::size_t, std::span<const unsigned char>)>& visit,
            std::size_t stride = 1) const;

  /// Empty, or which guard region was written to, and where. Synchronises the stream.
  std::string check_guards(std::int64_t tokens, HostBuffer&, StreamHandle) const;

  std::size_t row_bytes() const noexcept { return static_cast<std::size_t>(hidden_) * element_bytes(dtype_); }

 private:
  Device& device_;
  Pattern pattern_;
  Dtype dtype_;
  int hidden_;
  Placement placement_;
  std::vector<Slot> outputs_;
  DeviceMemory memory_;
  std::array<unsigned char*, slot_count> slots_{};
};

/// Bytes of device memory that one set takes.
std::size_t tensor_bytes(const Pattern&, Dtype, int hidden, std::int64_t max_tokens);

}  // namespace arbiter::tuning
