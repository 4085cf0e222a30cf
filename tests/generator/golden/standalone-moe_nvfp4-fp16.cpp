// custom/standalone:cluster=2,early_trigger=1,threads=256,vectors=1 moe_finalize_allreduce_residual_rmsnorm_nvfp4_8x4 fp16 world=1 hidden=4096
// Arbiter 0.1.0: custom/standalone for moe_finalize_allreduce_residual_rmsnorm_nvfp4_8x4. Prologue or stages alone, without an exchange: what runs before and after NCCL.
// Rendered; edit the templates, not this text.

// ...

namespace config {
// ...
constexpr bool prologue = 1;         // a rank contributes something else than its input
constexpr bool quantised = 1;
// ...
constexpr bool output_optional = 1, residual_out_optional = 1, norm_out_optional = 1;
// ...
constexpr unsigned group = 16;
// ...
constexpr unsigned scale_tile_rows = 8;
// ...

// ...

// --- what a rank contributes -------------------------------------------------------------------------------------
// What MoE prologues share: a weighted sum of rows, in fp32 and in order from +0, rounded once.

ARBITER_DEVICE float moe_weight(const Arguments& arguments, unsigned index) {
  if (arguments.moe_weights_fp32 != 0) return load_float(static_cast<const float*>(arguments.moe_weights) + index);
  return fp16_lo(load_short(static_cast<const unsigned short*>(arguments.moe_weights) + index));
}

// `term(i)` names the row of the input of the i-th term (`no_row` for none), `weight(i)` its weight. Several terms are
// requested at once: a term is a miss of the cache.
constexpr unsigned no_row = 0xffffffffu;
constexpr unsigned moe_batch = 4;
template <class Term, class Weight>
ARBITER_DEVICE Vector weighted_sum(const Arguments& arguments, unsigned row, unsigned col, const Term& term,
                                   const Weight& weight) {
  Values sum = zero();
  for (unsigned first = 0; first < arguments.moe_count; first += moe_batch) {
    unsigned source[moe_batch];
    float w[moe_batch];
    Vector x[moe_batch];
#pragma unroll
    for (unsigned i = 0; i < moe_batch; ++i) {
      source[i] = first + i < arguments.moe_count ? term(first + i) : no_row;
      if (first + i < arguments.moe_count) w[i] = moe_weight(arguments, weight(first + i));
    }
#pragma unroll
    for (unsigned i = 0; i < moe_batch; ++i) {
      if (source[i] != no_row) x[i] = load(vector_at(arguments.input, source[i], col));
    }
#pragma unroll
    for (unsigned i = 0; i < moe_batch; ++i) {
      if (source[i] == no_row) continue;
      const Values v = unpack(x[i]);
#pragma unroll
      for (unsigned e = 0; e < elements; ++e) sum.at[e] = add(sum.at[e], multiply(w[i], v.at[e]));
    }
  }
  if (arguments.moe_shared != nullptr) sum = plus(sum, unpack(load(vector_at(arguments.moe_shared, row, col))));
  return pack(sum);
}

// What this rank contributes: the sum over the top k permuted rows of a token of weight * row, then the optional shared
// expert. A map entry that names no row (-1) is skipped.
ARBITER_DEVICE Vector contribution(const Arguments& arguments, unsigned row, unsigned col) {
  const auto place = [&](unsigned j) { return row * arguments.moe_count + j; };
  const auto source = [&](unsigned j) {
    const unsigned index = load_word(reinterpret_cast<const unsigned*>(arguments.moe_row_map) + place(j));
    return index < arguments.moe_rows ? index : no_row;
  };
  return weighted_sum(arguments, row, col, source, place);
}

// ...

// Roundings to FP8 e4m3 and FP4 e2m1 in plain arithmetic: the bits of the conversion instructions, for targets without
// them and for the CPU device. Both round to nearest even and saturate; NaN becomes 0x7f and 0x7 whatever its sign.
ARBITER_DEVICE unsigned e4m3_bits(float x) {
  const unsigned bits = float_to_bits(x), sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fu;
  if (magnitude >= 0x43e00000u) return sign | 0x7eu;  // 448 and above
  if (magnitude < 0x3c800000u) {  // below 2^-6: a multiple of 2^-9, rounded by adding and removing 2^14
    return sign | (float_to_bits(add(bits_to_float(magnitude), 16384.0f)) - 0x46800000u);
  }
  return sign | ((magnitude - 0x3c000000u + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20);
}

// The e2m1 code of a magnitude of at most 6.9 in the lowest 3 bits; above them 20 zeros, then anything. Adding 2^22
// times the power of two at or below it (at least 1) leaves the rounded fraction there, and two for every power come
// with it.
ARBITER_DEVICE unsigned e2m1_code(float magnitude) {
  const unsigned bits = float_to_bits(magnitude), least = bits > 0x3f800000u ? bits : 0x3f800000u;
  return float_to_bits(add(magnitude, bits_to_float((least >> 23) * 0x800002u + ((22u << 23) - 254u))));
}

// Eight e2m1 of eight magnitudes. `signs`: bit 3 of every code. `ordinary`: all magnitudes are below 7.
ARBITER_DEVICE unsigned e2m1_codes(float (&magnitude)[8], unsigned signs, bool ordinary) {
  if (!ordinary) {
    for (unsigned e = 0; e < 8; ++e) {
      const unsigned bits = float_to_bits(magnitude[e]);
      if (bits > 0x7f800000u) signs &= ~(8u << (4 * e));
      magnitude[e] = bits_to_float(bits < 0x40c00000u ? bits : 0x40c00000u);  // 6
    }
  }
  unsigned half[2];
  for (unsigned h = 0; h < 2; ++h) {
    half[h] = e2m1_code(magnitude[4 * h]) + e2m1_code(magnitude[4 * h + 1]) * 16u +
              e2m1_code(magnitude[4 * h + 2]) * 256u + e2m1_code(magnitude[4 * h + 3]) * 4096u;
  }
  return bytes_of(half[0], half[1], 0x5410) | signs;
}

// A positive e4m3 as fp32: its bits, moved into place, are 2^120 times too small. 0x7f, which is NaN, gives 480.
ARBITER_DEVICE float e4m3_value(unsigned code) { return multiply(bits_to_float(code << 20), 0x1p120f); }

// x is positive, and neither quotient nor remainder of it and an e4m3 overflow or are subnormal.
ARBITER_DEVICE bool divides_plainly(float x) {
  return (float_to_bits(x) >> 23) - 27u < 200u;  // from 2^-100 to below 2^100
}
// The correctly rounded quotient of such an x: what a division does, without its special cases.
ARBITER_DEVICE float plain_quotient(float x, float divisor) {
  const float estimate = reciprocal_estimate(divisor);
  const float inverse = multiply_add(multiply_add(estimate, -divisor, 1.0f), estimate, estimate);
  const float quotient = multiply(x, inverse);
  return multiply_add(multiply_add(-divisor, quotient, x), inverse, quotient);
}

// The least power of two not below bits / 448, as the exponent of UE8M0, for the bits of a magnitude. It is 2^(k - 8)
// up to 1.75 * 2^k; no rounding of the quotient crosses that. 1e-10 and less give 2^-33, infinity and NaN 255.
ARBITER_DEVICE unsigned ue8m0_of_448th(unsigned magnitude) {
  const unsigned up = (magnitude + 0x1fffffu) >> 23;
  return magnitude >= 0x7f800000u ? 255u : (up > 102u ? up : 102u) - 8u;
}

// x / 448, correctly rounded where that is not subnormal: an estimate and one correction, without the special cases
// that a division has. x is not negative.
ARBITER_DEVICE float over_448(float x) {
  constexpr float inverse = 1.0f / 448.0f;
  const float estimate = multiply(x, inverse);
  const float quotient = multiply_add(multiply_add(-448.0f, estimate, x), inverse, estimate);
  return float_to_bits(x) >= 0x7f800000u ? x : quotient;  // infinite or NaN
}
// What quantisations need besides, on top of small_floats.h: the same names as device/quantisation.cuh.
ARBITER_DEVICE unsigned larger_halves(unsigned a, unsigned b) {
  const unsigned hi = (a & 0xffff0000u) > (b & 0xffff0000u) ? a : b, lo = (a & 0xffffu) > (b & 0xffffu) ? a : b;
  return (hi & 0xffff0000u) | (lo & 0xffffu);
}
ARBITER_DEVICE unsigned pack_e4m3(float lo, float hi) { return e4m3_bits(lo) | e4m3_bits(hi) << 8; }
constexpr bool converts_to_e2m1 = false;
ARBITER_DEVICE unsigned pack_e2m1(const float (&)[8]) { return 0; }  // nobody asks
// What quantisations share.

// The magnitude of a value as an integer. Integers of magnitudes are ordered as the magnitudes are, and NaN is above all.
ARBITER_DEVICE unsigned magnitude(float x) { return float_to_bits(x) & 0x7fffffffu; }
ARBITER_DEVICE unsigned larger(unsigned a, unsigned b) { return a > b ? a : b; }

// The largest magnitude of a vector, as that of an fp32.
ARBITER_DEVICE unsigned peak_of(const Vector& v) {
  // The same holds for 16 bits, and a wider type keeps the order.
  const unsigned halves = larger_halves(larger_halves(v.word[0] & 0x7fff7fffu, v.word[1] & 0x7fff7fffu),
                                        larger_halves(v.word[2] & 0x7fff7fffu, v.word[3] & 0x7fff7fffu));
  return float_to_bits(fp16_hi(larger_halves(halves, bytes_of(halves, halves, 0x1032))));
}

// x * inverse as FP8, one byte an element.
ARBITER_DEVICE void store_e4m3(const Arguments& arguments, unsigned row, unsigned col, const Values& scaled) {
  unsigned word[elements / 4];
#pragma unroll
  for (unsigned i = 0; i < elements / 4; ++i) {
    word[i] = pack_e4m3(scaled.at[4 * i], scaled.at[4 * i + 1]) |
              pack_e4m3(scaled.at[4 * i + 2], scaled.at[4 * i + 3]) << 16;
  }
  unsigned char* place =
      static_cast<unsigned char*>(arguments.quant_out) + static_cast<unsigned long long>(vector_index(row, col)) * elements;
  if (elements == 8) {
    store_pair(place, word[0], word[elements / 4 - 1]);
  } else {
    store_word(reinterpret_cast<unsigned*>(place), word[0]);
  }
}

ARBITER_DEVICE Values scaled(const Values& x, float factor) {
  Values y;
#pragma unroll
  for (unsigned e = 0; e < elements; ++e) y.at[e] = multiply(x.at[e], factor);
  return y;
}

// The largest magnitude of every vector of a thread; 0 where it has none.
template <unsigned kRows>
ARBITER_DEVICE void vector_peaks(const Arguments& arguments, const unsigned (&row)[kRows],
                                 const Vector (&x)[kRows][config::vectors], unsigned (&peak)[kRows][config::vectors]) {
#pragma unroll
  for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
    for (unsigned k = 0; k < config::vectors; ++k) {
      const unsigned largest = peak_of(x[i][k]);
      peak[i][k] = in_message(arguments, row[i], column(k)) ? largest : 0u;
    }
  }
}

// Who writes the padding of scales: the threads of the blocks that have no row if there are any, otherwise all threads.
// This one's work is first, first + step, ...
struct PaddingBlocks {
  unsigned first, step;
  ARBITER_DEVICE explicit PaddingBlocks(const Arguments& arguments) {
    const unsigned busy = arguments.rows * config::cluster, idle_from = grid_blocks() > busy ? busy : 0u;
    first = block_index() < idle_from ? 0xffffffffu : (block_index() - idle_from) * config::threads + thread_index();
    step = (grid_blocks() - idle_from) * config::threads;
  }
};
// Largest magnitudes of groups of elements. How depends on where a group lies:
// - within a vector: no exchange;
// - within the 32 consecutive vectors of a warp, aligned: shuffles;
// - over whole warps: partial maxima in shared memory, as for a row;
// - anywhere else: a maximum in shared memory for every group (not over the blocks of a cluster: such variants are
// excluded).
constexpr unsigned group = config::group;
constexpr unsigned group_vectors = group < elements ? 1 : group / elements;  // of a group, where they are whole
constexpr bool vectors_whole = group % elements == 0;
constexpr bool group_in_vector = elements % group == 0;
constexpr bool group_in_warp = vectors_whole && 32 % group_vectors == 0;
constexpr bool group_of_warps = vectors_whole && group_vectors % 32 == 0;
constexpr bool group_anywhere = !group_in_vector && !group_in_warp && !group_of_warps;
constexpr unsigned group_reductions = group_of_warps && group_vectors > 32 ? 1 : 0;

// Consecutive elements of a vector that are known to share a group, and the maxima of their groups.
constexpr unsigned group_step = vectors_whole ? elements : group_in_vector ? group : 1;
struct GroupPeaks {
  unsigned at[elements / group_step];
};

template <unsigned kRows>
ARBITER_DEVICE void group_maxima(const Arguments& arguments, const unsigned (&row)[kRows],
                                 const Vector (&x)[kRows][config::vectors], GroupPeaks (&peak)[kRows][config::vectors],
                                 unsigned round) {
#pragma unroll
  for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
    for (unsigned k = 0; k < config::vectors; ++k) {
      const bool here = in_message(arguments, row[i], column(k));
      if (group_step == elements) {
        const unsigned largest = peak_of(x[i][k]);
        peak[i][k].at[0] = here ? largest : 0u;
      } else {
        const Values v = unpack(x[i][k]);
#pragma unroll
        for (unsigned e = 0; e < elements; ++e) {
          unsigned& at = peak[i][k].at[e / group_step];
          at = larger(e % group_step == 0 ? 0u : at, here ? magnitude(v.at[e]) : 0u);
        }
      }
      unsigned& own = peak[i][k].at[0];
      if (group_in_warp && group_vectors == 32) {
        own = warp_max(own);
      } else if (group_in_warp && group_vectors == 16) {
        // Two maxima over a whole warp are faster than one in four steps over each half.
        const bool upper = thread_index() % 32 >= 16;
        const unsigned of_lower = warp_max(upper ? 0u : own), of_upper = warp_max(upper ? own : 0u);
        own = upper ? of_upper : of_lower;
      } else if (group_in_warp) {
#pragma unroll
        for (unsigned mask = 1; mask < group_vectors; mask *= 2) own = larger(own, shuffle_xor(own, mask));
      }
    }
  }
  if (group_reductions != 0) {
    constexpr unsigned group_partials = group_vectors / 32;
    const unsigned lane = thread_index() % 32;
    unsigned warp_peak[kRows][config::vectors];
#pragma unroll
    for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) warp_peak[i][k] = warp_max(peak[i][k].at[0]);
    }
    const float* leaves = share_partials<kRows, config::vectors>(
        round, [&](unsigned i, unsigned k) { return bits_to_float(warp_peak[i][k]); });
#pragma unroll
    for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) {
        const unsigned first = column(k) / group_vectors * group_partials;
        unsigned largest = 0;
#pragma unroll
        for (unsigned p = 0; p < group_partials; p += 32) {
          if (p + lane < group_partials && first + p + lane < partials)
            largest = larger(largest, float_to_bits(load_shared(leaves + i * partial_stride + first + p + lane)));
        }
        peak[i][k].at[0] = warp_max(largest);
      }
    }
  }
  if (group_anywhere) {
    constexpr unsigned groups = config::hidden / group, stride = (groups + 3) / 4 * 4;
    unsigned* maxima = reinterpret_cast<unsigned*>(shared_floats()) + reduction_floats(kRows);
    block_barrier();  // the maxima of the rows before have been read
    for (unsigned g = thread_index(); g < kRows * stride; g += config::threads) maxima[g] = 0;
    block_barrier();
#pragma unroll
    for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) {
        if (!in_message(arguments, row[i], column(k))) continue;
        unsigned run = 0;
#pragma unroll
        for (unsigned e = 0; e < elements; e += group_step) {
          const unsigned at = column(k) * elements + e;
          run = larger(run, peak[i][k].at[e / group_step]);
          if (e + group_step == elements || (at + group_step) % group == 0) {
            shared_max(maxima + i * stride + at / group, run);
            run = 0;
          }
        }
      }
    }
    block_barrier();
#pragma unroll
    for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) {
        if (!in_message(arguments, row[i], column(k))) continue;
#pragma unroll
        for (unsigned e = 0; e < elements; e += group_step)
          peak[i][k].at[e / group_step] = maxima[i * stride + (column(k) * elements + e) / group];
      }
    }
  }
}

// NVFP4: e2m1 with an e4m3 scale for every 16 elements (two vectors of neighbouring threads), relative to a global
// scale.
struct Quantisation {
  static constexpr unsigned reductions = 0;
  static constexpr unsigned columns = config::hidden / config::group;  // scales of a row
  static constexpr unsigned padded_columns = (columns + 3) / 4 * 4;    // in tiles
  static constexpr unsigned tile_rows = config::scale_tile_rows;       // 1: no tiles
  float global_scale;
  bool plain;  // the global scale is of a size that needs no care

  // Where the scales of a row's columns c, a multiple of 4, and the three behind it are, if they are in tiles.
  ARBITER_DEVICE static unsigned char* tile_place(const Arguments& arguments, unsigned row, unsigned c) {
    const unsigned inside = tile_rows == 128 ? row % 32 * 16 + row % 128 / 32 * 4 : row % tile_rows * 4;
    return static_cast<unsigned char*>(arguments.scale_out) +
           static_cast<unsigned long long>(row / tile_rows) * (padded_columns * tile_rows) + inside + c * tile_rows;
  }

  ARBITER_DEVICE void prepare(const Arguments& arguments) {
    global_scale = load_float(arguments.scale_in);
    plain = divides_plainly(global_scale);
    const unsigned tail = arguments.rows % tile_rows;
    if (tail == 0) return;
    // Rows up to the next multiple of the tile's are padding. It is written 16 bytes at a time where they all are: the
    // rows r, r + 32, r + 64 and r + 96 of a tile of 128 lie together, and so do four rows of a tile of 8.
    constexpr unsigned together = 4, step = tile_rows == 128 ? 32 : 1, units = tile_rows / together;
    const PaddingBlocks blocks(arguments);
    for (unsigned i = blocks.first; i < units * (padded_columns / 4); i += blocks.step) {
      const unsigned first = (i % units) * (step == 1 ? together : 1u);  // row within the tile
      unsigned char* place = tile_place(arguments, arguments.rows - tail + first, i / units * 4);
      if (first >= tail) {
        store(place, zero_vector());
        continue;
      }
#pragma unroll
      for (unsigned r = 1; r < together; ++r)
        if (first + r * step >= tail) store_word(reinterpret_cast<unsigned*>(place) + r, 0u);
    }
  }

  ARBITER_DEVICE static void store_scale(const Arguments& arguments, unsigned row, unsigned c, unsigned scale) {
    if (tile_rows == 1) {
      store_byte(static_cast<unsigned char*>(arguments.scale_out) + static_cast<unsigned long long>(row) * columns + c,
                 scale);
      return;
    }
    unsigned char* place = tile_place(arguments, row, c / 4 * 4);
    store_byte(place + c % 4, scale);
    if (c == columns - 1) {
#pragma unroll
      for (unsigned pad = columns % 4; pad % 4 != 0; ++pad) store_byte(place + pad, 0u);
    }
  }

  // What the elements of a group with this scale are multiplied by.
  ARBITER_DEVICE float inverse_of(unsigned scale) const {
    const unsigned code = scale & 0x7fu;
    const float value = e4m3_value(code);
    if (plain && scale - 1u < 0x7eu) return plain_quotient(global_scale, value);
    if (code == 0u) return 0.0f;
    return code == 0x7fu ? bits_to_float(0x7fffffffu) : divide(global_scale, scale == code ? value : -value);
  }

  // x * inverse as eight e2m1; `peak` is the largest magnitude.
  ARBITER_DEVICE static unsigned quantised(const Vector& x, float inverse, unsigned peak) {
    if (converts_to_e2m1) return pack_e2m1(scaled(unpack(x), inverse).at);
    Values magnitude = unpack(x);
#pragma unroll
    for (unsigned e = 0; e < elements; ++e) magnitude.at[e] = multiply(absolute(magnitude.at[e]), inverse);
    // The signs of the even elements lie in byte 1 of every word, those of the odd ones in byte 3.
    const unsigned even = bytes_of(bytes_of(x.word[0], x.word[1], 0x51), bytes_of(x.word[2], x.word[3], 0x51), 0x5410);
    const unsigned odd = bytes_of(bytes_of(x.word[0], x.word[1], 0x73), bytes_of(x.word[2], x.word[3], 0x73), 0x5410);
    const unsigned signs = (odd & 0x80808080u) | (even >> 4 & 0x08080808u);
    return e2m1_codes(magnitude.at, signs, multiply(bits_to_float(peak), inverse) < 7.0f);
  }

  template <unsigned kRows>
// ...
                            const Vector (&x)[kRows][config::vectors], unsigned) {
    unsigned peak[kRows][config::vectors];
    vector_peaks(arguments, row, x, peak);
// ...
        const unsigned largest = larger(peak[i][k], shuffle_xor(peak[i][k], 1));
// ...
        const unsigned scale =
            pack_e4m3(multiply(global_scale, multiply(bits_to_float(largest), 1.0f / 6.0f)), 0.0f) & 0xffu;
        const unsigned col = column(k);
        store_word(static_cast<unsigned*>(arguments.quant_out) + vector_index(row[i], col),
                   quantised(x[i][k], inverse_of(scale), largest));
        if (col % 2 == 0) store_scale(arguments, row[i], col / 2, scale);
// ...

// ...

extern "C" void arbiter_kernel_rank0(const void* arguments) { run<0>(*static_cast<const Arguments*>(arguments)); }
