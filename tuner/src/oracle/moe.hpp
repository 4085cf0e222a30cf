// Mixture-of-experts inputs and what a rank must contribute to the sum: computed on the host, for a tile of rows that
// a message repeats.
#pragma once

#include <cstdint>
#include <vector>

#include "arbiter/tuner/verify.hpp"
#include "oracle/reference.hpp"

namespace arbiter::tuning {

/// One rank's inputs. `parts` is the number of experts (reduce) or of choices per token (finalize).
struct MoeTiles {
  std::vector<Bytes> parts;          ///< [parts] tiles: the rows of an expert, or one block of permuted rows
  std::vector<float> weights;        ///< [rows, parts], already rounded to the type that the kernel reads
  std::vector<std::int32_t> blocks;  ///< [rows, parts]: where a choice is found; -1: skipped. Empty for reduce
  Bytes shared;                      ///< empty without a shared output
};

/// A pure function of its arguments. Content::integers has one weight of 1 per row and the others 0, so that sums stay
/// exact; otherwise weights are in [-1, 1), and about a quarter of the choices of finalize are skipped (in row 0: all).
MoeTiles make_moe_tiles(Content, Dtype, std::int64_t rows, int hidden, int rank, std::uint64_t seed, bool finalize,
                        const MoeShape&);

/// The rank's summand: fp32 from +0 over the parts in order, product and sum rounded separately, then the shared
/// output, rounded to `dtype` once.
Bytes contribution(const MoeTiles&, Dtype, std::int64_t rows, int hidden);

/// What lies in device memory for `tokens` rows.
Bytes moe_weight_array(const MoeTiles&, std::int64_t rows, std::int64_t tokens, Dtype weight_dtype);
/// int32 [tokens, top_k]: block b of the permuted rows starts at row b * tokens.
Bytes moe_row_map(const MoeTiles&, std::int64_t rows, std::int64_t tokens);

}  // namespace arbiter::tuning
