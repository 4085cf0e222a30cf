// FP8 with one scale for the whole tensor, read from device memory.
struct Quantisation {
  static constexpr unsigned reductions = 0;
  float scale;

  ARBITER_DEVICE void prepare(const Arguments& arguments) { scale = load_float(arguments.scale_in); }

  template <unsigned kRows>
  ARBITER_DEVICE void apply(const Arguments& arguments, const unsigned (&row)[kRows],
                            const Vector (&x)[kRows][config::vectors], unsigned) {
    const float inverse = reciprocal(scale);
#pragma unroll
    for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) {
        if (in_message(arguments, row[i], column(k)))
          store_e4m3(arguments, row[i], column(k), scaled(unpack(x[i][k]), inverse));
      }
    }
  }
};
