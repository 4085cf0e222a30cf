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
