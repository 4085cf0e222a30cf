#include "verify/tensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "arbiter/error.hpp"
#include "arbiter/generator/tensor_table.hpp"

namespace arbiter::tuning {
namespace {

constexpr std::size_t guard_bytes = 4096;
constexpr std::size_t alignment = 512;
constexpr std::uint32_t poison_word = 0xffffffffU;  // NaN in every dtype, and no code that a kernel writes in e4m3
constexpr std::uint32_t scale_poison_word = 0x7f7f7f7fU;
constexpr std::uint32_t guard_word = 0x5aa5c33cU;

std::size_t rounded_up(std::size_t bytes) noexcept { return (bytes + alignment - 1) / alignment * alignment; }

/// Guard, shift, data, guard.
std::size_t slot_bytes(std::size_t data_bytes) noexcept {
  return guard_bytes + alignment + rounded_up(data_bytes) + guard_bytes;
}

}  // namespace

const Bytes& guard_pattern() {
  static const Bytes bytes = [] {
    Bytes pattern(guard_bytes);
    for (std::size_t i = 0; i < pattern.size(); i += sizeof(guard_word)) {
      std::memcpy(pattern.data() + i, &guard_word, sizeof(guard_word));
    }
    return pattern;
  }();
  return bytes;
}

std::vector<Tensor> outputs_of(const Pattern& pattern) {
  std::vector<Tensor> outputs;
  for (const TensorRule& rule : tensor_rules) {
    if (rule.written && pattern.uses(*rule.tensor)) outputs.push_back(*rule.tensor);
  }
  return outputs;
}

TensorShapes::TensorShapes(Pattern the_pattern, Dtype the_dtype, int the_hidden, const MoeShape& the_moe)
    : pattern(std::move(the_pattern)),
      composition(read_composition(pattern.name, the_hidden)),
      dtype(the_dtype),
      hidden(the_hidden),
      moe(the_moe) {}

std::size_t TensorShapes::input_bytes(std::int64_t tokens) const noexcept {
  const std::size_t message = static_cast<std::size_t>(tokens) * row_bytes();
  if (composition.prologue == Composition::Prologue::moe_reduce) return message * static_cast<std::size_t>(moe.experts);
  if (composition.prologue == Composition::Prologue::moe_finalize) return message * static_cast<std::size_t>(moe.top_k);
  return message;
}

std::size_t TensorShapes::bytes(Tensor tensor, std::int64_t tokens) const noexcept {
  const auto rows = static_cast<std::size_t>(tokens);
  switch (tensor) {
    case Tensor::gamma:
      return static_cast<std::size_t>(hidden) * sizeof(float);
    case Tensor::scale_in:
      return sizeof(float);
    case Tensor::quant_out:
      // The oracle's own sizes: a call whose scales need more than the runtime asks for must be found out.
      return composition.quantisation ? quantised_bytes(*composition.quantisation, hidden, tokens)
                                      : pattern.quant_out_bytes(hidden, tokens);
    case Tensor::scale_out:
      return composition.quantisation ? scale_array_bytes(*composition.quantisation, hidden, tokens)
                                      : pattern.scale_out_bytes(hidden, tokens);
    case Tensor::moe_weights:
      return rows * static_cast<std::size_t>(std::max(moe.experts, moe.top_k)) * sizeof(float);
    case Tensor::moe_row_map:
      return rows * static_cast<std::size_t>(moe.top_k) * sizeof(std::int32_t);
    default:
      return rows * row_bytes();
  }
}

std::size_t TensorShapes::total_bytes(std::int64_t max_tokens) const noexcept {
  std::size_t total = slot_bytes(input_bytes(max_tokens));
  for (const TensorRule& rule : tensor_rules) {
    if (pattern.uses(*rule.tensor)) total += slot_bytes(bytes(*rule.tensor, max_tokens));
  }
  return total;
}

Tensors::Tensors(Device& device, TensorShapes shapes, std::int64_t max_tokens, Placement placement)
    : device_(device),
      shapes_(std::move(shapes)),
      placement_(placement),
      outputs_(outputs_of(shapes_.pattern)),
      memory_(device, shapes_.total_bytes(max_tokens)) {
  auto* next = static_cast<unsigned char*>(memory_.data());
  const auto place = [&](std::size_t bytes) {
    unsigned char* const data = next + guard_bytes + placement.shift_vectors * vector_bytes;
    next += slot_bytes(bytes);
    return data;
  };
  input_ = place(shapes_.input_bytes(max_tokens));
  for (const TensorRule& rule : tensor_rules) {
    if (shapes_.pattern.uses(*rule.tensor)) {
      slots_[static_cast<std::size_t>(*rule.tensor)] = place(shapes_.bytes(*rule.tensor, max_tokens));
    }
  }
  if (!placement.in_place) return;
  if (slot(Tensor::output) != nullptr && !shapes_.composition.moe()) {
    slots_[static_cast<std::size_t>(Tensor::output)] = input_;
  }
  if (slot(Tensor::residual_out) != nullptr) {
    slots_[static_cast<std::size_t>(Tensor::residual_out)] = slot(Tensor::residual_in);
  }
}

void* Tensors::at(Tensor tensor) const noexcept { return slot(tensor); }

Call Tensors::call(std::int64_t tokens) const {
  Call call;
  call.pattern = shapes_.pattern.name;
  call.dtype = shapes_.dtype;
  call.hidden = shapes_.hidden;
  call.tokens = tokens;
  for_each_tensor([&](const auto& entry) { set_tensor(entry, call, entry.tensor ? slot(*entry.tensor) : input_); });
  call.gamma_fp32 = loaded_.gamma_fp32;
  if (call.scale_out != nullptr) call.scale_out_bytes = shapes_.bytes(Tensor::scale_out, tokens);
  if (!shapes_.composition.moe()) return call;
  call.moe_weights_fp32 = loaded_.moe.weights_fp32;
  if (!loaded_.moe.shared) call.moe_shared = nullptr;
  if (shapes_.composition.prologue == Composition::Prologue::moe_reduce) {
    call.moe_experts = loaded_.moe.experts;
  } else {
    call.moe_top_k = loaded_.moe.top_k;
    call.moe_rows = tokens * loaded_.moe.top_k;
  }
  return call;
}

void Tensors::repeat(unsigned char* destination, const Bytes& tile, std::size_t bytes, StreamHandle stream) {
  std::size_t done = std::min(bytes, tile.size());
  device_.copy(destination, tile.data(), done, stream);
  // Doubling keeps the period: what is already there is a whole number of tiles.
  while (done < bytes) {
    const std::size_t step = std::min(done, bytes - done);
    device_.copy(destination + done, destination, step, stream);
    done += step;
  }
}

void Tensors::load(const Inputs& inputs, std::int64_t tokens, StreamHandle stream) {
  loaded_ = inputs.choice;
  const std::size_t message = static_cast<std::size_t>(tokens) * shapes_.row_bytes();
  if (slot(Tensor::residual_in) != nullptr) repeat(slot(Tensor::residual_in), inputs.residual, message, stream);
  if (slot(Tensor::gamma) != nullptr) {
    device_.copy(slot(Tensor::gamma), inputs.gamma.data(), inputs.gamma.size(), stream);
  }
  if (slot(Tensor::scale_in) != nullptr) {
    device_.copy(slot(Tensor::scale_in), &inputs.scale, sizeof(inputs.scale), stream);
  }
  if (shapes_.composition.moe()) {
    load_moe(inputs, tokens, stream);
  } else {
    repeat(input_, inputs.contribution, message, stream);
  }
}

void Tensors::load_moe(const Inputs& inputs, std::int64_t tokens, StreamHandle stream) {
  const std::size_t message = static_cast<std::size_t>(tokens) * shapes_.row_bytes();
  for (std::size_t part = 0; part < inputs.moe.parts.size(); ++part) {
    repeat(input_ + part * message, inputs.moe.parts[part], message, stream);
  }
  if (slot(Tensor::moe_shared) != nullptr && !inputs.moe.shared.empty()) {
    repeat(slot(Tensor::moe_shared), inputs.moe.shared, message, stream);
  }
  const Dtype weight_dtype = inputs.choice.moe.weights_fp32 ? Dtype::fp32 : shapes_.dtype;
  const Bytes weights = moe_weight_array(inputs.moe, inputs.rows, tokens, weight_dtype);
  device_.copy(slot(Tensor::moe_weights), weights.data(), weights.size(), stream);
  Bytes map;
  if (slot(Tensor::moe_row_map) != nullptr) {
    map = moe_row_map(inputs.moe, inputs.rows, tokens);
    device_.copy(slot(Tensor::moe_row_map), map.data(), map.size(), stream);
  }
  device_.synchronize(stream);  // the arrays above end here
}

void Tensors::poison(std::int64_t tokens, StreamHandle stream) {
  for (const Tensor tensor : outputs_) {
    unsigned char* const data = slot(tensor);
    const std::size_t bytes = shapes_.bytes(tensor, tokens);
    const bool is_input = data == input_ || data == slot(Tensor::residual_in);
    // Whole words: what is too much is overwritten by the guard.
    const std::uint32_t word = tensor == Tensor::scale_out ? scale_poison_word : poison_word;
    if (!is_input) device_.fill_words(data, word, (bytes + 3) / 4, stream);
    guard(data - guard_bytes, stream);
    guard(data + bytes, stream);
  }
}

void Tensors::guard(unsigned char* at, StreamHandle stream) {
  if (reinterpret_cast<std::uintptr_t>(at) % sizeof(guard_word) == 0) {
    device_.fill_words(at, guard_word, guard_bytes / sizeof(guard_word), stream);
  } else {
    device_.copy(at, guard_pattern().data(), guard_bytes, stream);
  }
}

void Tensors::copy_from(const Tensors& other, StreamHandle stream) {
  const TensorShapes& theirs = other.shapes_;
  if (memory_.bytes() != other.memory_.bytes() || !(placement_ == other.placement_) ||
      shapes_.pattern.name != theirs.pattern.name || shapes_.dtype != theirs.dtype || shapes_.hidden != theirs.hidden) {
    throw InvalidArgument("sets of tensors that are not of one layout cannot be copied to each other");
  }
  loaded_ = other.loaded_;
  device_.copy(memory_.data(), other.memory_.data(), memory_.bytes(), stream);
}

void Tensors::read(Tensor tensor, std::size_t begin, std::size_t end, HostBuffer& host, StreamHandle stream,
                   const std::function<void(std::size_t, std::span<const unsigned char>)>& visit,
                   std::size_t stride) const {
  const std::size_t pieces = (end - begin + host.bytes() - 1) / host.bytes();
  for (std::size_t piece = 0; piece < pieces; ++piece) {
    if (piece % stride != 0 && piece + 1 != pieces) continue;
    const std::size_t offset = begin + piece * host.bytes();
    const std::size_t size = std::min(host.bytes(), end - offset);
    device_.copy(host.data(), slot(tensor) + offset, size, stream);
    device_.synchronize(stream);
    visit(offset, {host.data(), size});
  }
}

Bytes Tensors::read(Tensor tensor, std::size_t begin, std::size_t end, HostBuffer& host, StreamHandle stream) const {
  Bytes bytes;
  bytes.reserve(end - begin);
  read(tensor, begin, end, host, stream, [&](std::size_t, std::span<const unsigned char> piece) {
    bytes.insert(bytes.end(), piece.begin(), piece.end());
  });
  return bytes;
}

std::vector<ComparedRange> Tensors::guards(std::int64_t tokens, const DeviceMemory& pattern) const {
  std::vector<ComparedRange> ranges;
  for (const Tensor tensor : outputs_) {
    const unsigned char* const data = slot(tensor);
    for (const unsigned char* const at : {data - guard_bytes, data + shapes_.bytes(tensor, tokens)}) {
      ranges.push_back({at, static_cast<const unsigned char*>(pattern.data()), guard_bytes, guard_bytes});
    }
  }
  return ranges;
}

std::string Tensors::check_guards(std::int64_t tokens, HostBuffer& host, StreamHandle stream) const {
  for (const Tensor tensor : outputs_) {
    const unsigned char* const data = slot(tensor);
    device_.copy(host.data(), data - guard_bytes, guard_bytes, stream);
    device_.copy(host.data() + guard_bytes, data + shapes_.bytes(tensor, tokens), guard_bytes, stream);
    device_.synchronize(stream);
    for (std::size_t at = 0; at < 2 * guard_bytes; ++at) {
      if (host.data()[at] == guard_pattern()[at % guard_bytes]) continue;
      const bool before = at < guard_bytes;
      const std::size_t distance = before ? guard_bytes - at : at - guard_bytes;
      return fmt::format("wrote outside of {}: the byte {}{} was overwritten", to_string(tensor), distance,
                         (before ? " bytes before its start" : " bytes behind its end"));
    }
  }
  return {};
}

}  // namespace arbiter::tuning
