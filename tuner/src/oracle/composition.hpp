// What a pattern's name asks for, read by the oracle for itself: it must not believe the catalogue that it judges.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "oracle/quantise.hpp"

namespace arbiter::tuning {

struct Composition {
  enum class Prologue : std::uint8_t { plain, moe_reduce, moe_finalize };
  enum class Norm : std::uint8_t { none, rmsnorm, layernorm };
  Prologue prologue = Prologue::plain;
  bool residual = false;
  Norm norm = Norm::none;
  std::optional<Quantisation> quantisation;
  /// Parts of the name that have no reference on the host. What they write is compared with the stand-alone kernel
  /// only.
  std::string unknown;

  bool moe() const noexcept { return prologue != Prologue::plain; }
  bool stages() const noexcept { return residual || norm != Norm::none || quantisation || !unknown.empty(); }
};

Composition read_composition(std::string_view pattern, int hidden);

}  // namespace arbiter::tuning
