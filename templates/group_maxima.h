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
