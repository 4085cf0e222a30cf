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
