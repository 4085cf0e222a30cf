// custom/standalone:cluster=2,early_trigger=1,threads=256,vectors=1 moe_finalize_allreduce_residual_rmsnorm_nvfp4_8x4 fp16 world=1 hidden=4096
// Arbiter 0.1.0: custom/standalone for moe_finalize_allreduce_residual_rmsnorm_nvfp4_8x4. Prologue or stages alone, without an exchange: what runs before and after NCCL.
// Rendered; edit the templates, not this text.

namespace config {
constexpr unsigned world = 1;
constexpr unsigned hidden = 4096;       // elements of a row; 0 if the message is flat
constexpr unsigned row_vectors = 512;  // 16-byte vectors of a row; 0 if the message is flat
constexpr bool prologue = 1;         // a rank contributes something else than its input
constexpr bool quantised = 1;
constexpr unsigned control_arrays = 0;  // of other protocols, before those of this algorithm's
// What the caller may leave out.
constexpr bool output_optional = 1, residual_out_optional = 1, norm_out_optional = 1;
// Axes of the algorithm and numbers of the pattern's parts. All algorithms have `threads` (per block), `vectors` (per thread
// and row), `cluster` (blocks that share a row) and `early_trigger` (dependents may launch once the inputs are ready, not
// only at the end; they wait themselves).
constexpr unsigned threads = 256;
constexpr unsigned vectors = 1;
constexpr unsigned cluster = 2;
constexpr unsigned early_trigger = 1;
constexpr unsigned group = 16;
constexpr unsigned power_of_two = 0;
constexpr unsigned scale_tile_rows = 8;
// Code is fetched anew in every launch. Kernels that work on rows are long, so a launch of one iteration gets a path
// without the loop (0.1 us at one token on H200); it would only cost compile time elsewhere.
constexpr bool single_path = false;
}  // namespace config

constexpr unsigned elements = 8;  // of a vector

ARBITER_DEVICE Values unpack(const Vector& v) {
  Values x;
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
    x.at[2 * i] = fp16_lo(v.word[i]);
    x.at[2 * i + 1] = fp16_hi(v.word[i]);
  }
  return x;
}

// Rounds to nearest even, once.
ARBITER_DEVICE Vector pack(const Values& x) {
  Vector v;
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
    v.word[i] = pack_fp16(x.at[2 * i], x.at[2 * i + 1]);
  }
  return v;
}

// The sum of another class: in fp32 in the order of the switch, rounded once.
ARBITER_DEVICE Vector load_reduced(const void* multicast_address) { return load_reduced_fp16(multicast_address); }
// The arguments in registers. Reading them is a miss of the constant cache in every launch; done before the grid
// dependency is waited for, it costs nothing.
ARBITER_DEVICE Arguments in_registers(const Arguments& arguments) {
  Arguments a = arguments;
  a.input = in_register(arguments.input);
  a.output = in_register(arguments.output);
  a.vectors = in_register(arguments.vectors);
  a.rows = in_register(arguments.rows);
  a.iterations = in_register(arguments.iterations);
#pragma unroll
  for (unsigned r = 0; r < config::world; ++r) a.workspace[r] = in_register(arguments.workspace[r]);
  if (config::row_vectors != 0) {
    a.residual_in = in_register(arguments.residual_in);
    a.residual_out = in_register(arguments.residual_out);
    a.gamma = in_register(arguments.gamma);
    a.norm_out = in_register(arguments.norm_out);
  }
  if (config::quantised) {
    a.quant_out = in_register(arguments.quant_out);
    a.scale_out = in_register(arguments.scale_out);
  }
  return a;
}

// Call between two polls.
template <unsigned kRank>
ARBITER_DEVICE bool expired(const Arguments& arguments, Wait& wait, unsigned waited_for, Phase phase, unsigned epoch) {
  poll_pause();
  if ((++wait.polls & 255u) != 0u) return false;
  const unsigned long long now = now_ns();
  if (wait.polls == 256u) wait.started = now;
  wait.given_up = give_up<kRank>(arguments, waited_for, phase, epoch, now - wait.started);
  return wait.given_up;
}
// Reductions over a row. Sums are taken in an order that depends on nothing but the hidden size: first the elements of
// a vector, then 32 consecutive vectors (one warp) as a binary tree, then those partial sums as a binary tree. Batch,
// block, cluster and algorithm do not change a bit.

constexpr unsigned partials = (config::row_vectors + 31) / 32;
constexpr unsigned warps = config::threads / 32;
constexpr unsigned round_up_power(unsigned n) {
  unsigned p = 32;
  while (p < n) p *= 2;
  return p;
}
constexpr unsigned tree_width = round_up_power(partials);

ARBITER_DEVICE float warp_sum(float x) {
#pragma unroll
  for (unsigned mask = 16; mask != 0; mask /= 2) x = add(x, shuffle_xor(x, mask));
  return x;
}

// The tree over the partial sums: leaf i is added to leaf i + width / 2, until one is left. Absent leaves are 0.
// (One thread reading all of them was up to 3 us slower: a thousand threads, 32 loads each.)
ARBITER_DEVICE float partial_tree(const float* leaves) {
  const unsigned lane = thread_index() % 32;
  float leaf[tree_width / 32];
#pragma unroll
  for (unsigned i = 0; i < tree_width / 32; ++i)
    leaf[i] = lane + 32 * i < partials ? load_shared(leaves + lane + 32 * i) : 0.0f;
#pragma unroll
  for (unsigned width = tree_width / 64; width != 0; width /= 2) {
#pragma unroll
    for (unsigned i = 0; i < width; ++i) leaf[i] = add(leaf[i], leaf[i + width]);
  }
  return warp_sum(leaf[0]);
}

// Call first in a kernel that reduces rows: shared memory of another block may be written only once that block runs.
ARBITER_DEVICE void row_reductions_begin() {
  if (config::cluster == 1) return;
  if (thread_index() == 0) gather_init(warps);
  cluster_arrive();
}

constexpr unsigned partial_stride = (partials + 3) / 4 * 4;
// Floats of shared memory for reductions of kRows rows, the gather's included.
constexpr unsigned reduction_floats(unsigned rows) { return gather_bytes / 4 + 2 * rows * partial_stride; }

// Makes the warps' partial results known to every thread of the cluster: partial(row, k), equal in all threads of a
// warp, for its first kParts vectors. Returns where row 0's are; row i's lie i * partial_stride behind, in order of
// columns. Every thread of the cluster calls this; `round` counts the calls of the launch. Dynamic shared memory:
// gather_bytes if a row is spread over a cluster, then two buffers of kRows rows, used in turn: whoever writes to one
// again has passed the other one's barrier, so everybody has read it.
template <unsigned kRows, unsigned kParts, class Partial>
ARBITER_DEVICE const float* share_partials(unsigned round, const Partial& partial) {
  constexpr unsigned most = kParts * warps * config::cluster, shared = partials < most ? partials : most;
  const unsigned which = round & 1u;
  float* buffer = shared_floats() + (config::cluster == 1 ? 0 : gather_bytes / 4) + which * (kRows * partial_stride);
  const unsigned lane = thread_index() % 32, warp = thread_index() / 32;
  if (config::cluster != 1 && round == 0) cluster_wait();
#pragma unroll
  for (unsigned row = 0; row < kRows; ++row) {
#pragma unroll
    for (unsigned k = 0; k < kParts; ++k) {
      const float mine = partial(row, k);
      const unsigned index = (k * config::cluster + rank_in_cluster()) * warps + warp;
      if (index >= partials) continue;
      if (config::cluster == 1) {
        if (lane == 0) buffer[row * partial_stride + index] = mine;
      } else {
        if (lane < config::cluster) gather_send(which, buffer + row * partial_stride + index, lane, mine);
      }
    }
  }
  if (config::cluster == 1) {
    block_barrier();
  } else {
    if (lane == 0) gather_arrive(which, warp == 0 ? kRows * shared * 4 : 0);
    gather_wait(which, round / 2);
  }
  return buffer;
}

// Sums of kRows rows at once: in[row][k] is this thread's sum over its k-th vector (0 where it has none).
template <unsigned kRows>
ARBITER_DEVICE void row_sums(float (&in)[kRows][config::vectors], float (&out)[kRows], unsigned round) {
  const float* leaves =
      share_partials<kRows, config::vectors>(round, [&](unsigned row, unsigned k) { return warp_sum(in[row][k]); });
#pragma unroll
  for (unsigned row = 0; row < kRows; ++row) out[row] = partial_tree(leaves + row * partial_stride);
}

// The same for maxima, in any order.
template <unsigned kRows>
ARBITER_DEVICE void row_maxima(const unsigned (&in)[kRows][config::vectors], unsigned (&out)[kRows], unsigned round) {
  constexpr unsigned most = warps * config::cluster, shared = partials < most ? partials : most;
  const float* leaves = share_partials<kRows, 1>(round, [&](unsigned row, unsigned) {
    unsigned mine = in[row][0];
#pragma unroll
    for (unsigned k = 1; k < config::vectors; ++k) mine = in[row][k] > mine ? in[row][k] : mine;
    return bits_to_float(warp_max(mine));
  });
  const unsigned lane = thread_index() % 32;
#pragma unroll
  for (unsigned row = 0; row < kRows; ++row) {
    unsigned largest = 0;
#pragma unroll
    for (unsigned i = 0; i < (shared + 31) / 32; ++i) {
      if (lane + 32 * i >= shared) continue;
      const unsigned leaf = float_to_bits(load_shared(leaves + row * partial_stride + lane + 32 * i));
      largest = leaf > largest ? leaf : largest;
    }
    out[row] = warp_max(largest);
  }
}

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

// --- what follows the sum ----------------------------------------------------------------------------------------
// gamma, in the dtype of the message or in fp32. It is requested before the wait for the peers and kept as one vector;
// of an fp32 gamma with two vectors that is the first, and the other one is in the cache by the time it is needed.
struct Weight {
  Vector gamma[config::vectors];

  static constexpr unsigned wide_vectors = elements / 4;
  ARBITER_DEVICE static const void* place(const Arguments& arguments, unsigned k, unsigned vector, unsigned wide) {
    return static_cast<const unsigned char*>(arguments.gamma) +
           (static_cast<unsigned long long>(column(k)) * wide + vector) * sizeof(Vector);
  }

  ARBITER_DEVICE void prepare(const Arguments& arguments) {
    const unsigned wide = arguments.gamma_fp32 != 0 ? wide_vectors : 1u;
#pragma unroll
    for (unsigned k = 0; k < config::vectors; ++k) {
      gamma[k] = column(k) < config::row_vectors ? load_cached(place(arguments, k, 0, wide)) : zero_vector();
    }
  }

  // Calls use(weights of the k-th vector). There is one copy of it for each type: values that may be either would need
  // registers of their own.
  template <class Use>
  ARBITER_DEVICE void apply(const Arguments& arguments, unsigned k, const Use& use) const {
    if (wide_vectors == 1 || arguments.gamma_fp32 == 0) {
      use(unpack(gamma[k]));
      return;
    }
    const Vector part[2] = {gamma[k], load_cached(place(arguments, k, 1, wide_vectors))};
    Values w;
#pragma unroll
    for (unsigned e = 0; e < elements; ++e) w.at[e] = bits_to_float(part[e / 4].word[e % 4]);
    use(w);
  }
};
// residual_out = sum + residual_in, which also goes on.
template <unsigned kRows>
ARBITER_DEVICE void prefetch_residual(const Arguments& arguments, const unsigned (&row)[kRows],
                                      Vector (&x)[kRows][config::vectors]) {
#pragma unroll
  for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
    for (unsigned k = 0; k < config::vectors; ++k) {
      x[i][k] = in_message(arguments, row[i], column(k)) ? load(vector_at(arguments.residual_in, row[i], column(k)))
                                                         : zero_vector();
    }
  }
}

template <unsigned kRows>
ARBITER_DEVICE void add_residual(const Arguments& arguments, const unsigned (&row)[kRows],
                                 const Vector (&sum)[kRows][config::vectors], Vector (&x)[kRows][config::vectors]) {
#pragma unroll
  for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
    for (unsigned k = 0; k < config::vectors; ++k) {
      if (!in_message(arguments, row[i], column(k))) continue;
      x[i][k] = pack(plus(unpack(sum[i][k]), unpack(x[i][k])));
      if (wanted<config::residual_out_optional>(arguments.residual_out))
        store(vector_at(arguments.residual_out, row[i], column(k)), x[i][k]);
    }
  }
}

// norm_out = x / sqrt(mean(x^2) + epsilon) * (gamma + weight_bias), computed in fp32 and rounded once.
struct Norm {
  static constexpr unsigned reductions = 1;
  Weight weight;

  ARBITER_DEVICE void prepare(const Arguments& arguments) { weight.prepare(arguments); }

  template <unsigned kRows>
  ARBITER_DEVICE void apply(const Arguments& arguments, const unsigned (&row)[kRows],
                            Vector (&x)[kRows][config::vectors], unsigned round) {
    float squares[kRows][config::vectors];
#pragma unroll
    for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) {
        squares[i][k] = 0.0f;
        if (!in_message(arguments, row[i], column(k))) continue;
        const Values v = unpack(x[i][k]);
#pragma unroll
        for (unsigned e = 0; e < elements; ++e) squares[i][k] = add(squares[i][k], multiply(v.at[e], v.at[e]));
      }
    }
    float total[kRows];
    row_sums(squares, total, round);
#pragma unroll
    for (unsigned i = 0; i < kRows; ++i) {
      const float scale = reciprocal_sqrt(add(multiply(total[i], 1.0f / config::hidden), arguments.epsilon));
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) {
        if (!in_message(arguments, row[i], column(k))) continue;
        weight.apply(arguments, k, [&](const Values& w) {
          Values v = unpack(x[i][k]);
#pragma unroll
          for (unsigned e = 0; e < elements; ++e) {
            v.at[e] = multiply(multiply(v.at[e], scale), add(w.at[e], arguments.weight_bias));
          }
          x[i][k] = pack(v);
          if (wanted<config::norm_out_optional>(arguments.norm_out))
            store(vector_at(arguments.norm_out, row[i], column(k)), x[i][k]);
        });
      }
    }
  }
};

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
  ARBITER_DEVICE void apply(const Arguments& arguments, const unsigned (&row)[kRows],
                            const Vector (&x)[kRows][config::vectors], unsigned) {
    unsigned peak[kRows][config::vectors];
    vector_peaks(arguments, row, x, peak);
#pragma unroll
    for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) {
        const unsigned largest = larger(peak[i][k], shuffle_xor(peak[i][k], 1));
        if (!in_message(arguments, row[i], column(k))) continue;
        const unsigned scale =
            pack_e4m3(multiply(global_scale, multiply(bits_to_float(largest), 1.0f / 6.0f)), 0.0f) & 0xffu;
        const unsigned col = column(k);
        store_word(static_cast<unsigned*>(arguments.quant_out) + vector_index(row[i], col),
                   quantised(x[i][k], inverse_of(scale), largest));
        if (col % 2 == 0) store_scale(arguments, row[i], col / 2, scale);
      }
    }
  }
};

// What follows the sum, stage by stage: residual, norm, quantisation. A row goes from one to the next as vectors that
// are rounded as if they had been written and read back, so the result is that of the separate operations.
template <unsigned kRows>
struct Epilogue {
  // Reductions over a row in one iteration, in order of execution: they share two buffers in turn.
  static constexpr unsigned reductions = Norm::reductions + Quantisation::reductions;

  Vector x[kRows][config::vectors];
  Norm norm;
  Quantisation quantisation;

  // First thing in the kernel.
  ARBITER_DEVICE void begin() {
    if (reductions != 0) row_reductions_begin();
  }

  // Once per launch, after the inputs may be read.
  ARBITER_DEVICE void prepare(const Arguments& arguments) {
    norm.prepare(arguments);
    quantisation.prepare(arguments);
  }

  // Once per iteration, before the wait for the peers.
  ARBITER_DEVICE void prefetch(const Arguments& arguments, const unsigned (&row)[kRows]) {
    prefetch_residual(arguments, row, x);
  }

  ARBITER_DEVICE void apply(const Arguments& arguments, const unsigned (&row)[kRows],
                            const Vector (&sum)[kRows][config::vectors], unsigned iteration) {
    add_residual(arguments, row, sum, x);
    norm.apply(arguments, row, x, iteration * reductions);
    quantisation.apply(arguments, row, x, iteration * reductions + Norm::reductions);
  }
};

  // Where each rank wants a plain sum: in its output, if this rank can address that, or in its workspace.
  ARBITER_DEVICE void find_outputs(const Barrier<kRank>& barrier, unsigned char* (&output)[config::world]) const {
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) {
      output[r] =
          r == kRank ? constants.output_at[kRank] : address_of(Places::find(constants, barrier, Places::output, r));
      if (output[r] == nullptr) output[r] = results_of(r);
    }
  }
};
// What follows the sum alone, on an input that is already the sum: behind NCCL, or behind a plain allreduce. It talks
// to nobody, so there is neither a wait nor a barrier, and its world is one rank.
//
// What the next row needs is on its way before anything waits for it. What a prologue reads does not fit in registers
// beside the current row, so behind a prologue every row is read when it is its turn.
template <unsigned kRank>
struct Algorithm {
  static constexpr unsigned rows = 1;
  static constexpr bool single_path = false;
  static constexpr bool ahead = !config::prologue;
  const Arguments& arguments;

  ARBITER_DEVICE Algorithm(const Arguments&, const Arguments& constants) : arguments(constants) {}

  ARBITER_DEVICE void run(Epilogue<rows>& epilogue, unsigned iterations) {
    Vector following[config::vectors][1];
    const auto read = [&](unsigned iteration) { read_tile(arguments, iteration, following); };
    const auto prefetch = [&](unsigned iteration) {
      const unsigned row[1] = {tile_row<1>(iteration, 0)};
      epilogue.prefetch(arguments, row);
    };

    if (ahead) {
      read(0);
      prefetch(0);
    }
    epilogue.prepare(arguments);
    for (unsigned iteration = 0; iteration < iterations; ++iteration) {
      if (!ahead) {
        prefetch(iteration);
        read(iteration);
      }
      Vector sum[1][config::vectors];
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) sum[0][k] = following[k][0];
      const bool more = ahead && iteration + 1 < iterations;
      if (more) read(iteration + 1);
      const unsigned row[1] = {tile_row<1>(iteration, 0)};
      epilogue.apply(arguments, row, sum, iteration);
      if (more) prefetch(iteration + 1);
    }
  }
};

extern "C" void arbiter_kernel_rank0(const void* arguments) { run<0>(*static_cast<const Arguments*>(arguments)); }


