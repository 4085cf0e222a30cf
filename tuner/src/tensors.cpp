#include "tensors.hpp"

#include <algorithm>
#include <cstring>

namespace arbiter::tuning {
namespace {

constexpr std::size_t guard_bytes = 4096;
constexpr std::size_t alignment = 512;
constexpr std::uint32_t guard_word = 0x5aa5c33cU;
constexpr std::uint32_t poison_word = 0xffffffffU;  // NaN in every dtype

std::size_t rounded_up(std::size_t bytes) noexcept { return (bytes + alignment - 1) / alignment * alignment; }

std::vector<Slot> slots_of(const Pattern& pattern) {
  std::vector<Slot> slots{Slot::input};
  const auto add = [&](Tensor tensor, Slot slot) {
    if (pattern.uses(tensor)) slots.push_back(slot);
  };
  add(Tensor::output, Slot::output);
  add(Tensor::residual_in, Slot::residual_in);
  add(Tensor::residual_out, Slot::residual_out);
  add(Tensor::gamma, Slot::gamma);
  add(Tensor::norm_out, Slot::norm_out);
  return slots;
}

std::size_t slot_bytes(std::size_t data_bytes) noexcept {
  // Guard, shift, data, guard.
  return guard_bytes + alignment + rounded_up(data_bytes) + guard_bytes;
}

}  // namespace

std::string_view to_string(Slot slot) noexcept {
  constexpr std::array<std::string_view, slot_count> names{"input",        "output", "residual_in",
                                                           "residual_out", "gamma",  "norm_out"};
  return names[static_cast<std::size_t>(slot)];
}

std::vector<Slot> outputs_of(const Pattern& pattern) {
  std::vector<Slot> outputs;
  for (const Slot slot : slots_of(pattern)) {
    if (slot == Slot::output || slot == Slot::residual_out || slot == Slot::norm_out) outputs.push_back(slot);
  }
  return outputs;
}

std::size_t tensor_bytes(const Pattern& pattern, Dtype dtype, int hidden, std::int64_t max_tokens) {
  const std::size_t data =
      static_cast<std::size_t>(max_tokens) * static_cast<std::size_t>(hidden) * element_bytes(dtype);
  const std::size_t row = static_cast<std::size_t>(hidden) * element_bytes(dtype);
  std::size_t bytes = 0;
  for (const Slot slot : slots_of(pattern)) bytes += slot_bytes(slot == Slot::gamma ? row : data);
  return bytes;
}

Tensors::Tensors(Device& device, const Pattern& pattern, Dtype dtype, int hidden, std::int64_t max_tokens,
                 Placement placement)
    : device_(device),
      pattern_(pattern),
      dtype_(dtype),
      hidden_(hidden),
      placement_(placement),
      outputs_(outputs_of(pattern)),
      memory_(device, tensor_bytes(pattern, dtype, hidden, max_tokens)) {
  auto* next = static_cast<unsigned char*>(memory_.data());
  for (const Slot slot : slots_of(pattern)) {
    slots_[static_cast<std::size_t>(slot)] = next + guard_bytes + placement.shift_vectors * vector_bytes;
    next += slot_bytes(slot == Slot::gamma ? row_bytes() : static_cast<std::size_t>(max_tokens) * row_bytes());
  }
  if (placement.in_place) {
    const auto alias = [&](Slot written, Slot read) {
      if (at(written) != nullptr && at(read) != nullptr) {
        slots_[static_cast<std::size_t>(written)] = slots_[static_cast<std::size_t>(read)];
      }
    };
    alias(Slot::output, Slot::input);
    alias(Slot::residual_out, Slot::residual_in);
  }
}

void* Tensors::at(Slot slot) const noexcept { return slots_[static_cast<std::size_t>(slot)]; }

Call Tensors::call(std::int64_t tokens) const {
  Call call;
  call.pattern = pattern_.name;
  call.dtype = dtype_;
  call.hidden = hidden_;
  call.tokens = tokens;
  call.input = at(Slot::input);
  call.output = at(Slot::output);
  call.residual_in = at(Slot::residual_in);
  call.residual_out = at(Slot::residual_out);
  call.gamma = at(Slot::gamma);
  call.norm_out = at(Slot::norm_out);
  return call;
}

void Tensors::fill(Slot slot, const Bytes& tile, std::int64_t tokens, StreamHandle stream) {
  auto* destination = slots_[static_cast<std::size_t>(slot)];
  const std::size_t bytes = static_cast<std::size_t>(tokens) * row_bytes();
  std::size_t done = std::min(bytes, tile.size());
  device_.copy(destination, tile.data(), done, stream);
  // Doubling keeps the period: what is already there is a whole number of tiles.
  while (done < bytes) {
    const std::size_t step = std::min(done, bytes - done);
    device_.copy(destination + done, destination, step, stream);
    done += step;
  }
}

void Tensors::fill_row(Slot slot, const Bytes& row, StreamHandle stream) {
  if (at(slot) != nullptr) device_.copy(at(slot), row.data(), row.size(), stream);
}

void Tensors::poison(std::int64_t tokens, StreamHandle stream) {
  const std::size_t bytes = static_cast<std::size_t>(tokens) * row_bytes();
  for (const Slot slot : outputs_) {
    auto* data = slots_[static_cast<std::size_t>(slot)];
    const bool is_input = data == at(Slot::input) || data == at(Slot::residual_in);
    if (!is_input) device_.fill_words(data, poison_word, bytes / 4, stream);
    device_.fill_words(data - guard_bytes, guard_word, guard_bytes / 4, stream);
    device_.fill_words(data + bytes, guard_word, guard_bytes / 4, stream);
  }
}

void Tensors::read(Slot slot, std::int64_t tokens, HostBuffer& host, StreamHandle stream,
                   const std::function<void(std::size_t, std::span<const unsigned char>)>& visit,
                   std::size_t stride) const {
  const auto* data = slots_[static_cast<std::size_t>(slot)];
  const std::size_t bytes = static_cast<std::size_t>(tokens) * row_bytes();
  const std::size_t pieces = (bytes + host.bytes() - 1) / host.bytes();
  for (std::size_t piece = 0; piece < pieces; ++piece) {
    if (piece % stride != 0 && piece + 1 != pieces) continue;
    const std::size_t offset = piece * host.bytes();
    const std::size_t size = std::min(host.bytes(), bytes - offset);
    device_.copy(host.data(), data + offset, size, stream);
    device_.synchronize(stream);
    visit(offset, {host.data(), size});
  }
}

std::string Tensors::check_guards(std::int64_t tokens, HostBuffer& host, StreamHandle stream) const {
  const std::size_t bytes = static_cast<std::size_t>(tokens) * row_bytes();
  for (const Slot slot : outputs_) {
    const auto* data = slots_[static_cast<std::size_t>(slot)];
    device_.copy(host.data(), data - guard_bytes, guard_bytes, stream);
    device_.copy(host.data() + guard_bytes, data + bytes, guard_bytes, stream);
    device_.synchronize(stream);
    for (std::size_t at = 0; at < 2 * guard_bytes; at += 4) {
      std::uint32_t word = 0;
      std::memcpy(&word, host.data() + at, sizeof(word));
      if (word == guard_word) continue;
      const bool before = at < guard_bytes;
      const std::size_t distance = before ? guard_bytes - at : at - guard_bytes;
      return "wrote outside of " + std::string(to_string(slot)) + ": the word " + std::to_string(distance) +
             (before ? " bytes before its start" : " bytes behind its end") + " was overwritten";
    }
  }
  return {};
}

}  // namespace arbiter::tuning
