// FP8 with a scale for every group of elements. No scale is below 1e-10. As UE8M0 it is rounded up to a power of two
// whose exponent is stored, four groups to an int32, the int32s in columns of all rows.
struct Quantisation {
  static constexpr bool power_of_two = config::power_of_two != 0;
  static constexpr unsigned groups = config::hidden / group;
  static constexpr unsigned reductions = group_reductions;

  // Rows up to the next multiple of 4 are padding.
  ARBITER_DEVICE static unsigned padded_rows(const Arguments& arguments) { return (arguments.rows + 3) / 4 * 4; }

  ARBITER_DEVICE void prepare(const Arguments& arguments) {
    if (!power_of_two || arguments.rows % 4 == 0) return;
    const PaddingBlocks blocks(arguments);
    for (unsigned i = blocks.first; i < (groups + 3) / 4; i += blocks.step) {
      for (unsigned row = arguments.rows; row % 4 != 0; ++row)
        store_word(reinterpret_cast<unsigned*>(exponent_place(arguments, row, i * 4)), 0u);
    }
  }

  // Where the exponent of group g is, and the rest of its int32 behind it if g is a multiple of 4.
  ARBITER_DEVICE static unsigned char* exponent_place(const Arguments& arguments, unsigned row, unsigned g) {
    return static_cast<unsigned char*>(arguments.scale_out) + static_cast<unsigned long long>(row) * 4 +
           static_cast<unsigned long long>(g / 4) * (padded_rows(arguments) * 4) + g % 4;
  }

  // Exponents that one thread stores, from as many groups of its warp: stores of many rows that meet in one sector of
  // memory wait for each other.
  static constexpr unsigned together = !power_of_two || !vectors_whole || !group_in_warp ? 1
                                       : 32 / group_vectors > 4                          ? 4
                                                                                         : 32 / group_vectors;

  // By all threads of a warp: with the exponent of its group, 0 where there is none.
  ARBITER_DEVICE static void store_together(const Arguments& arguments, unsigned row, unsigned col, unsigned exponents,
                                            bool here) {
#pragma unroll
    for (unsigned n = 1; n < together; n *= 2) exponents |= shuffle_xor(exponents, n * group_vectors) << (8 * n);
    if (!here || col % (together * group_vectors) != 0) return;
    const unsigned g = col / group_vectors;
    unsigned char* place = exponent_place(arguments, row, g);
    if (together == 4) {
      store_word(reinterpret_cast<unsigned*>(place), exponents);
    } else {
      store_short(place, exponents);
      if ((groups - 1) % 4 < 2 && g / 2 == (groups - 1) / 2) store_short(place + 2, 0u);
    }
  }

  ARBITER_DEVICE static void store_exponent(const Arguments& arguments, unsigned row, unsigned g, unsigned exponent) {
    unsigned char* place = exponent_place(arguments, row, g);
    store_byte(place, exponent);
    if (g != groups - 1) return;
#pragma unroll
    for (unsigned pad = groups % 4; pad % 4 != 0; ++pad) store_byte(place - (groups - 1) % 4 + pad, 0u);
  }

  // 2^(127 - exponent); no exponent of a number is larger than 247.
  ARBITER_DEVICE static float inverse_of(unsigned exponent) {
    return bits_to_float(exponent == 255u ? 0x7fffffffu : (254u - exponent) << 23);
  }

  // Stores the scale of group g if `here`, and returns its inverse.
  ARBITER_DEVICE static float use(const Arguments& arguments, unsigned row, unsigned g, unsigned peak, bool here) {
    if (power_of_two) {
      const unsigned exponent = ue8m0_of_448th(peak);
      if (here) store_exponent(arguments, row, g, exponent);
      return inverse_of(exponent);
    }
    const float quotient = over_448(bits_to_float(peak)), scale = quotient < 1e-10f ? 1e-10f : quotient;
    if (here)
      store_float(static_cast<float*>(arguments.scale_out) + static_cast<unsigned long long>(row) * groups + g, scale);
    return reciprocal(scale);
  }

  template <unsigned kRows>
  ARBITER_DEVICE void apply(const Arguments& arguments, const unsigned (&row)[kRows],
                            const Vector (&x)[kRows][config::vectors], unsigned round) {
    GroupPeaks peak[kRows][config::vectors];
    group_maxima(arguments, row, x, peak, round);
#pragma unroll
    for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) {
        const bool here = in_message(arguments, row[i], column(k));
        unsigned exponent = 0;
        if (together != 1) {
          exponent = ue8m0_of_448th(peak[i][k].at[0]);
          store_together(arguments, row[i], column(k), here ? exponent : 0u, here);
        }
        if (!here) continue;
        Values v = unpack(x[i][k]);
        const unsigned first = column(k) * elements;
        float inverse = inverse_of(exponent);
#pragma unroll
        for (unsigned e = 0; e < elements; ++e) {
          const unsigned g = (first + e) / group;
          const bool starts = (first + e) % group == 0;
          // Where whole groups lie in a vector, or whole vectors in a group, this is known when compiling.
          if (together == 1 && e % group_step == 0)
            inverse = use(arguments, row[i], g, peak[i][k].at[e / group_step], starts);
          v.at[e] = multiply(v.at[e], inverse);
        }
        store_e4m3(arguments, row[i], column(k), v);
      }
    }
  }
};
