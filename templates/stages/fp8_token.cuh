// FP8 with a scale for every row: its largest magnitude becomes the largest FP8, but no scale is below that of 2^-9.
struct Quantisation {
  static constexpr unsigned reductions = 1;

  ARBITER_DEVICE void prepare(const Arguments&) {}

  template <unsigned kRows>
  ARBITER_DEVICE void apply(const Arguments& arguments, const unsigned (&row)[kRows],
                            const Vector (&x)[kRows][config::vectors], unsigned round) {
    constexpr float floor = 0x1p-9f / 448.0f;
    unsigned peak[kRows][config::vectors], largest[kRows];
    vector_peaks(arguments, row, x, peak);
    row_maxima(peak, largest, round);
#pragma unroll
    for (unsigned i = 0; i < kRows; ++i) {
      float scale = over_448(bits_to_float(largest[i]));
      scale = scale < floor ? floor : scale;
      const float inverse = reciprocal(scale);
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) {
        if (in_message(arguments, row[i], column(k)))
          store_e4m3(arguments, row[i], column(k), scaled(unpack(x[i][k]), inverse));
      }
      if (column(0) == 0 && row[i] < arguments.rows)
        store_float(static_cast<float*>(arguments.scale_out) + row[i], scale);
    }
  }
};
