// One rank's inputs of a call on the host: a tile of rows that the message repeats, and what the rank adds to the sum.
#pragma once

#include "oracle/composition.hpp"
#include "oracle/moe.hpp"
#include "oracle/reference.hpp"

namespace arbiter::tuning {

/// Everything that the inputs depend on besides the pattern, dtype and hidden size.
struct InputChoice {
  Content content = Content::random;
  std::uint64_t seed = 1;
  bool gamma_fp32 = false;
  MoeShape moe;
  bool operator==(const InputChoice&) const = default;
};

struct Inputs {
  InputChoice choice;
  std::int64_t rows = 0;  ///< of the tile
  Bytes contribution;     ///< [rows, hidden]: the input itself without a prologue
  MoeTiles moe;           ///< empty without a prologue
  Bytes residual;         ///< equal on all ranks, as in a tensor-parallel layer
  Bytes gamma;
  float scale = 1;  ///< scale_in
};

/// A pure function of its arguments.
Inputs make_inputs(const Composition&, Dtype, std::int64_t rows, int hidden, int rank, const InputChoice&);

}  // namespace arbiter::tuning
