// 8-bit transport on the host, bit for bit: what the ranks' sum is where values cross the links as FP8.
#pragma once

#include <cstddef>
#include <span>

#include "arbiter/tuner/verify.hpp"
#include "oracle/reference.hpp"

namespace arbiter::tuning {

/// Elements that share a scale: consecutive in the message, from its first one on. The last group may be shorter.
inline constexpr std::size_t fp8_group = 128;

/// What a group of at most fp8_group values is on the other side of a link: each is x / scale rounded to e4m3, times
/// scale, which is the least power of two (at least 2^-126) by which the largest magnitude becomes at most 448. All NaN
/// where a value is not finite.
void over_the_link(std::span<float> group);

/// The class fp8_transport. The message has `elements` elements; every rank's repeats its tile. Each rank's crosses a
/// link; they are summed in fp32 from +0 in rank order and rounded to the dtype. With two legs that sum crosses a link
/// again. Words that equal the sentinel become 0, as in sum_in_rank_order().
/// Returns the whole message, or one tile where it repeats that: where whole groups make up a tile, and a message.
Bytes fp8_sum(std::span<const Bytes> tiles, Dtype, std::size_t elements, int legs);

/// The relative L2 error of `found`, against what the tiles' sum is in double.
double relative_error(const Bytes& found, std::span<const Bytes> tiles, Dtype);

/// The largest relative L2 error that `legs` crossings may leave on values of one magnitude.
double fp8_tolerance(int legs) noexcept;

}  // namespace arbiter::tuning
