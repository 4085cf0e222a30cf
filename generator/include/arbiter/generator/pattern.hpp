// A pattern is what a call computes: [prologue_]allreduce[_residual][_norm][_quantisation]. It is composed of parts
// that the catalogue lists, each of them one template; no list of patterns exists anywhere.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/vocabulary.hpp"

namespace arbiter {

/// A condition over integer names ("threads * vectors * cluster >= row_vectors"), with the sentence that is shown
/// when it does not hold. Operators: + - * / % ( ) == != < <= > >= && || !. Names: see `Bindings`.
struct Constraint {
  std::string require;
  std::string reason;
  bool operator==(const Constraint&) const = default;
};

/// Tensors that a pattern reads or writes besides `input`. Shapes and types: Call in runtime/communicator.hpp.
enum class Tensor : std::uint8_t {
  output,
  residual_in,
  residual_out,
  gamma,
  norm_out,
  quant_out,
  scale_in,
  scale_out,
  moe_weights,
  moe_row_map,
  moe_shared
};
inline constexpr std::size_t tensor_count = 11;
std::string_view to_string(Tensor) noexcept;
/// Throws InvalidArgument naming the valid spellings and the nearest one.
Tensor parse_tensor(std::string_view);

/// In one word: every call asks.
class TensorSet {
 public:
  constexpr TensorSet() = default;
  constexpr TensorSet(std::initializer_list<Tensor> tensors) {
    for (const Tensor tensor : tensors) add(tensor);
  }
  constexpr void add(Tensor tensor) noexcept { bits_ |= bit(tensor); }
  constexpr void remove(Tensor tensor) noexcept { bits_ &= ~bit(tensor); }
  constexpr bool has(Tensor tensor) const noexcept { return (bits_ & bit(tensor)) != 0; }
  constexpr bool empty() const noexcept { return bits_ == 0; }
  /// The subset of `of` that comes before this one, which is one too: beginning with `of`, all but the empty one.
  constexpr TensorSet previous_subset(TensorSet of) const noexcept {
    TensorSet subset;
    subset.bits_ = (bits_ - 1) & of.bits_;
    return subset;
  }
  bool operator==(const TensorSet&) const = default;

 private:
  static constexpr unsigned bit(Tensor tensor) noexcept { return 1U << static_cast<unsigned>(tensor); }
  unsigned bits_ = 0;
};

/// In the order in which a pattern's name has them.
enum class PartKind : std::uint8_t { prologue, residual, norm, quantisation };
std::string_view to_string(PartKind) noexcept;

/// Where the scales of a quantisation go. G: elements of a group. T: tokens, H: hidden size.
enum class ScaleLayout : std::uint8_t {
  none,            ///< nothing is written: one scale, given by the caller
  token,           ///< fp32 [T]
  group_rows,      ///< fp32 [T, H/G]
  packed_columns,  ///< bytes, 4 groups per int32: int32 [ceil(H/G/4)][T rounded up to 4]
  linear,          ///< bytes [T, H/G]
  tiles_128x4,     ///< bytes in tiles of 128 rows x 4 groups
  tiles_8x4        ///< bytes in tiles of 8 rows x 4 groups
};
std::string_view to_string(ScaleLayout) noexcept;

/// One part as the catalogue describes it.
struct PartEntry {
  PartKind kind{};
  std::string name;           ///< "rmsnorm", "fp8_group{group}_ue8m0": how pattern names spell it
  std::string parameter;      ///< the number within the name ("group"); empty if there is none
  std::string template_name;  ///< path below templates/: "stages/rmsnorm.cuh"
  std::string summary;
  std::vector<Tensor> reads;             ///< must be given
  std::vector<Tensor> optional;          ///< may be given
  std::vector<Tensor> writes;            ///< must be given by the last part, may be given (null: not written) before
  std::map<std::string, int> constants;  ///< compile-time numbers handed to the template
  std::vector<Constraint> problem;       ///< over the pattern, dtype and hidden size: broken, the problem is refused
  std::vector<Constraint> constraints;   ///< over these and a variant's parameters: broken, the variant is excluded
  std::string shared_bytes;              ///< shared memory of a block for each row of a tile, besides row sums
  int quant_bits = 0;                    ///< of a quantised element: 8 or 4; 0 for other kinds
  ScaleLayout scale_layout{};
};

/// A pattern's composition. Made by Catalogue::pattern(); owns everything, so it outlives the catalogue.
struct Pattern {
  std::string name;
  bool rows = false;  ///< true: works on whole rows of `hidden` elements; false (plain allreduce): on a flat message
  std::vector<PartEntry> parts;  ///< in the order of PartKind, at most one of each kind
  TensorSet required;            ///< besides input
  TensorSet optional;            ///< null if they are not wanted
  /// Every constant and parameter of every part of the catalogue; 0 where the pattern does not have it.
  std::map<std::string, int, std::less<>> constants;
  int group = 0;  ///< elements that share a scale; 0 if a whole row or tensor does, or nothing is quantised

  const PartEntry* part(PartKind) const noexcept;  ///< null if there is none
  bool has(PartKind kind) const noexcept { return part(kind) != nullptr; }
  bool has_stages() const noexcept { return parts.size() > (has(PartKind::prologue) ? 1U : 0U); }
  /// Plain allreduce: neither prologue nor stages.
  bool plain() const noexcept { return parts.empty(); }
  bool needs(Tensor tensor) const noexcept { return required.has(tensor); }
  bool uses(Tensor tensor) const noexcept { return required.has(tensor) || optional.has(tensor); }

  /// Names of what is left: the prologue in front of a plain allreduce, and what follows the sum.
  std::string prologue_alone() const;    ///< "moe_reduce_allreduce"; "allreduce" without a prologue
  std::string without_prologue() const;  ///< "allreduce_residual_rmsnorm"

  /// Bytes of quant_out and scale_out for `tokens` rows, padding included; 0 without such a tensor. `hidden` is one
  /// that the pattern accepts.
  std::size_t quant_out_bytes(int hidden, std::int64_t tokens) const noexcept;
  std::size_t scale_out_bytes(int hidden, std::int64_t tokens) const noexcept;

  /// Rows that scale_out is padded to a multiple of (1: none), because its layout has tiles.
  int scale_tile_rows() const noexcept;
};

}  // namespace arbiter
