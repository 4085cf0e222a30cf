// mnnvl/oneshot_push:cluster=8,early_trigger=1,multicast=0,threads=128,vectors=1 allreduce_residual_rmsnorm fp16 world=2 hidden=8192
// Arbiter 0.1.0: mnnvl/oneshot_push for allreduce_residual_rmsnorm. One-shot with every row spread over a cluster of blocks.
// Rendered; edit the templates, not this text.

// ...

namespace config {
// ...
constexpr unsigned hidden = 8192;       // elements of a row; 0 if the message is flat
constexpr unsigned row_vectors = 1024;  // 16-byte vectors of a row; 0 if the message is flat
// ...
constexpr bool output_optional = 1, residual_out_optional = 1, norm_out_optional = 0;
// ...
constexpr unsigned threads = 128;
// ...
constexpr unsigned cluster = 8;
// ...

// ...

ARBITER_DEVICE Values unpack(const Vector& v) {
// ...
    x.at[2 * i] = fp16_lo(v.word[i]);
    x.at[2 * i + 1] = fp16_hi(v.word[i]);
// ...

// Rounds to nearest even, once.
// ...
    v.word[i] = pack_fp16(x.at[2 * i], x.at[2 * i + 1]);
// ...

// ...

// The sum of another class: in fp32 in the order of the switch, rounded once.
ARBITER_DEVICE Vector load_reduced(const void* multicast_address) { return load_reduced_fp16(multicast_address); }
// ...

// ...

// Call between two polls.
// ...
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

// ...

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

  // Calls use(weights of the k-th vector). Its code is there once: what lies elsewhere is fetched behind the wait.
  template <class Use>
  ARBITER_DEVICE void apply(const Arguments& arguments, unsigned k, const Use& use) const {
    Values w = unpack(gamma[k]);
    if (__builtin_expect(wide_vectors != 1 && arguments.gamma_fp32 != 0, 0)) {
      const Vector part[2] = {gamma[k], load_cached(place(arguments, k, 1, wide_vectors))};
#pragma unroll
      for (unsigned e = 0; e < elements; ++e) w.at[e] = bits_to_float(part[e / 4].word[e % 4]);
    }
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

// No quantisation.
struct Quantisation {
  static constexpr unsigned reductions = 0;
  ARBITER_DEVICE void prepare(const Arguments&) {}
  template <unsigned kRows>
  ARBITER_DEVICE void apply(const Arguments&, const unsigned (&)[kRows], const Vector (&)[kRows][config::vectors],
                            unsigned) {}
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

// ...

extern "C" __global__ void __launch_bounds__(128) arbiter_kernel(const __grid_constant__ Arguments arguments) {
  run<1>(arguments);
}

