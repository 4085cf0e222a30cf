// What quantisations share.

// The magnitude of a value as an integer. Integers of magnitudes are ordered as the magnitudes are, and NaN is above all.
ARBITER_DEVICE unsigned magnitude(float x) { return float_to_bits(x) & 0x7fffffffu; }
ARBITER_DEVICE unsigned larger(unsigned a, unsigned b) { return a > b ? a : b; }

// The largest magnitude of a vector, as that of an fp32.
ARBITER_DEVICE unsigned peak_of(const Vector& v) {
{{#dtype_fp32}}
  return larger(larger(v.word[0] & 0x7fffffffu, v.word[1] & 0x7fffffffu),
                larger(v.word[2] & 0x7fffffffu, v.word[3] & 0x7fffffffu));
{{/dtype_fp32}}
{{^dtype_fp32}}
  // The same holds for 16 bits, and a wider type keeps the order.
  const unsigned halves = larger_halves(larger_halves(v.word[0] & 0x7fff7fffu, v.word[1] & 0x7fff7fffu),
                                        larger_halves(v.word[2] & 0x7fff7fffu, v.word[3] & 0x7fff7fffu));
  return float_to_bits({{dtype}}_hi(larger_halves(halves, bytes_of(halves, halves, 0x1032))));
{{/dtype_fp32}}
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
