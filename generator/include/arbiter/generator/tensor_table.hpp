// The tensors of a call, once: names, sizes, elements, and which are written. What is checked before a launch, bound
// to a kernel's arguments, read from the C interface and made up by the tuner goes by it, so that a new tensor is a
// line here, a value of Tensor, and a member of the same name in the structs that hold it. Which patterns need it, the
// catalogue says.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <tuple>
#include <type_traits>

#include "arbiter/generator/pattern.hpp"

namespace arbiter {

/// How much of it there is. T: tokens, H: hidden size.
enum class Extent : std::uint8_t {
  contributions,  ///< [T, H] without a prologue, otherwise whatever the prologue sums up
  message,        ///< [T, H]
  row,            ///< [H]
  one,            ///< a single number
  quantised,      ///< Pattern::quant_out_bytes()
  scales,         ///< Pattern::scale_out_bytes()
  moe_entries     ///< one for each row that a MoE prologue sums up
};

/// What it consists of, and so what it is aligned to.
enum class Elements : std::uint8_t {
  dtype,                ///< of the call
  dtype_or_fp32_gamma,  ///< as CallTensors::gamma_fp32 says
  dtype_or_fp32_moe,    ///< as CallTensors::moe_weights_fp32 says
  words,                ///< of 4 bytes; scales may be fp32 whatever the pattern
  bytes
};

struct TensorRule {
  std::optional<Tensor> tensor;  ///< empty: the input, which every pattern has
  std::string_view name;
  Extent extent{};
  Elements elements{};
  bool written = false;
  bool in_vectors = true;  ///< kernels access it in vectors of 16 bytes, and want it aligned to them
};

/// `member(tensors)` is the member of the tensor's name in any struct that has one.
template <typename Member>
struct TensorEntry : TensorRule {
  constexpr TensorEntry(const TensorRule& rule, Member the_member) : TensorRule(rule), member(the_member) {}
  Member member;
};

#define ARBITER_TENSOR(name, ...) \
  TensorEntry(                    \
      TensorRule{Tensor::name, #name, __VA_ARGS__}, [](auto& of) -> auto& { return of.name; })

/// In the order of Tensor, behind the input.
inline constexpr std::tuple tensor_table{
    TensorEntry(
        TensorRule{std::nullopt, "input", Extent::contributions, Elements::dtype},
        [](auto& of) -> auto& { return of.input; }),
    ARBITER_TENSOR(output, Extent::message, Elements::dtype, /*written=*/true),
    ARBITER_TENSOR(residual_in, Extent::message, Elements::dtype),
    ARBITER_TENSOR(residual_out, Extent::message, Elements::dtype, /*written=*/true),
    ARBITER_TENSOR(gamma, Extent::row, Elements::dtype_or_fp32_gamma),
    ARBITER_TENSOR(norm_out, Extent::message, Elements::dtype, /*written=*/true),
    ARBITER_TENSOR(quant_out, Extent::quantised, Elements::bytes, /*written=*/true),
    ARBITER_TENSOR(scale_in, Extent::one, Elements::words, /*written=*/false, /*in_vectors=*/false),
    ARBITER_TENSOR(scale_out, Extent::scales, Elements::words, /*written=*/true),
    ARBITER_TENSOR(moe_weights, Extent::moe_entries, Elements::dtype_or_fp32_moe, /*written=*/false,
                   /*in_vectors=*/false),
    ARBITER_TENSOR(moe_row_map, Extent::moe_entries, Elements::words, /*written=*/false, /*in_vectors=*/false),
    ARBITER_TENSOR(moe_shared, Extent::message, Elements::dtype),
};

#undef ARBITER_TENSOR

/// visit(entry) for the input and every tensor.
template <typename Visit>
constexpr void for_each_tensor(Visit&& visit) {
  std::apply([&](const auto&... entries) { (visit(entries), ...); }, tensor_table);
}

/// The rules without the input's, by Tensor.
inline constexpr std::array<TensorRule, tensor_count> tensor_rules = [] {
  std::array<TensorRule, tensor_count> rules;
  for_each_tensor([&](const auto& entry) {
    if (entry.tensor) rules[static_cast<std::size_t>(*entry.tensor)] = entry;
  });
  return rules;
}();

static_assert(std::tuple_size_v<decltype(tensor_table)> == tensor_count + 1, "a value of Tensor has no line above");

/// Puts the address of a tensor where a struct has it.
template <typename Entry, typename Tensors>
constexpr void set_tensor(const Entry& entry, Tensors& tensors, void* address) {
  auto& member = entry.member(tensors);
  member = static_cast<std::remove_reference_t<decltype(member)>>(address);
}

/// Every tensor of one struct into another.
template <typename From, typename To>
constexpr void copy_tensors(const From& from, To& to) {
  for_each_tensor([&](const auto& entry) { entry.member(to) = entry.member(from); });
}

}  // namespace arbiter
