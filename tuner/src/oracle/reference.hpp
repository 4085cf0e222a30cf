// Inputs with known sums, and what the sum must be: computed on the host, for a tile of rows that a message repeats.
//
// A message of any size repeats one tile, whose number of rows is prime. So the host computes a few hundred kilobytes
// whatever the message, and a row that lands where it does not belong (off by a power of two, a rank's share, a
// buffer) still differs from what is expected there. Rows are independent of each other in every pattern, so results
// repeat with the same period.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "arbiter/tuner/verify.hpp"
#include "arbiter/vocabulary.hpp"
#include "args.h"
#include "oracle/composition.hpp"

namespace arbiter::tuning {

/// A 32-bit word of a message that equals the kernels' "not arrived yet" becomes 0, on input and in the rounded sum:
/// a negative zero becomes a positive one, which changes no number.
inline constexpr std::uint32_t sentinel = arbiter_abi::sentinel_word;

/// Rows of a tile: the largest prime whose rows fit 512 KB, but not more than a message of `max_tokens` needs; at
/// least 2.
std::int64_t tile_rows(int hidden, Dtype, std::int64_t max_tokens) noexcept;

/// `rank`'s tile: `rows` rows of `hidden` elements. A pure function of its arguments. `hidden` is a multiple of the
/// vector.
Bytes make_tile(Content, Dtype, std::int64_t rows, int hidden, int rank, std::uint64_t seed);

/// Values in [0.5, 1.5) for gamma.
Bytes make_gamma(Dtype, int hidden, std::uint64_t seed);

/// The class rank_order_fp32: summed in fp32 from +0 in rank order, rounded once.
Bytes sum_in_rank_order(std::span<const Bytes> tiles, Dtype);

/// The exact sum for practical purposes.
std::vector<double> sum_in_double(std::span<const Bytes> tiles, Dtype);

/// Elements as they are, in double.
std::vector<double> in_double(const Bytes&, Dtype);

/// The residual stage: added in fp32, rounded once.
Bytes plus_residual(const Bytes& sum, const Bytes& residual, Dtype);

/// What a norm multiplies by, and what it adds to the variance.
struct NormWeights {
  const Bytes& gamma;
  Dtype gamma_dtype{};
  double epsilon = 0;
  double weight_bias = 0;
};

/// Rows of `hidden` elements, normalised in double: x / sqrt(mean(x^2) + epsilon) * (gamma + weight_bias), and for
/// layernorm the same with x - mean(x) in place of x.
std::vector<double> normalised(Composition::Norm, std::span<const double> rows, int hidden, const NormWeights&);

/// Largest relative L2 error that `steps` roundings to `dtype` may leave.
double tolerance(Dtype, int steps) noexcept;

}  // namespace arbiter::tuning
