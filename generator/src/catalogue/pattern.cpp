// What a composition of parts needs and produces.
#include "arbiter/generator/pattern.hpp"

#include <array>
#include <utility>

#include "arbiter/error.hpp"
#include "arbiter/generator/tensor_table.hpp"

namespace arbiter {
namespace {

constexpr std::array<std::string_view, tensor_count> tensor_names = [] {
  std::array<std::string_view, tensor_count> names;
  for (std::size_t i = 0; i < tensor_count; ++i) names[i] = tensor_rules[i].name;
  return names;
}();

constexpr std::size_t round_up(std::size_t value, std::size_t to) noexcept { return (value + to - 1) / to * to; }

}  // namespace

std::string_view to_string(Tensor tensor) noexcept {
  const auto index = static_cast<std::size_t>(tensor);
  return index < tensor_names.size() ? tensor_names[index] : "invalid";
}

Tensor parse_tensor(std::string_view word) {
  for (std::size_t i = 0; i < tensor_names.size(); ++i)
    if (tensor_names[i] == word) return static_cast<Tensor>(i);
  throw InvalidArgument(unknown_name_message("tensor", word, tensor_names));
}

std::string_view to_string(PartKind kind) noexcept {
  constexpr std::array<std::string_view, 4> names{"prologue", "residual", "norm", "quantisation"};
  const auto index = static_cast<std::size_t>(kind);
  return index < names.size() ? names[index] : "invalid";
}

std::string_view to_string(ScaleLayout layout) noexcept {
  constexpr std::array<std::string_view, 7> names{"none",   "token",       "group_rows", "packed_columns",
                                                  "linear", "tiles_128x4", "tiles_8x4"};
  const auto index = static_cast<std::size_t>(layout);
  return index < names.size() ? names[index] : "invalid";
}

const PartEntry* Pattern::part(PartKind kind) const noexcept {
  for (const PartEntry& entry : parts)
    if (entry.kind == kind) return &entry;
  return nullptr;
}

std::string Pattern::prologue_alone() const {
  const PartEntry* prologue = part(PartKind::prologue);
  return prologue == nullptr ? "allreduce" : prologue->name + "_allreduce";
}

std::string Pattern::without_prologue() const {
  const PartEntry* prologue = part(PartKind::prologue);
  return prologue == nullptr ? name : name.substr(prologue->name.size() + 1);
}

std::size_t Pattern::quant_out_bytes(int hidden, std::int64_t tokens) const noexcept {
  const PartEntry* quantisation = part(PartKind::quantisation);
  if (quantisation == nullptr) return 0;
  return static_cast<std::size_t>(tokens) * static_cast<std::size_t>(hidden) *
         static_cast<std::size_t>(quantisation->quant_bits) / 8;
}

std::size_t Pattern::scale_out_bytes(int hidden, std::int64_t tokens) const noexcept {
  const PartEntry* quantisation = part(PartKind::quantisation);
  if (quantisation == nullptr) return 0;
  const auto count = static_cast<std::size_t>(tokens);
  const std::size_t groups = group == 0 ? 1 : static_cast<std::size_t>(hidden) / static_cast<std::size_t>(group);
  switch (quantisation->scale_layout) {
    case ScaleLayout::none:
      return 0;
    case ScaleLayout::token:
      return 4 * count;
    case ScaleLayout::group_rows:
      return 4 * count * groups;
    case ScaleLayout::linear:
      return count * groups;
    case ScaleLayout::packed_columns:
    case ScaleLayout::tiles_128x4:
    case ScaleLayout::tiles_8x4:
      return round_up(count, static_cast<std::size_t>(scale_tile_rows())) * round_up(groups, 4);
  }
  return 0;
}

int Pattern::scale_tile_rows() const noexcept {
  const PartEntry* quantisation = part(PartKind::quantisation);
  if (quantisation == nullptr) return 1;
  switch (quantisation->scale_layout) {
    case ScaleLayout::packed_columns:
      return 4;
    case ScaleLayout::tiles_128x4:
      return 128;
    case ScaleLayout::tiles_8x4:
      return 8;
    default:
      return 1;
  }
}

}  // namespace arbiter
