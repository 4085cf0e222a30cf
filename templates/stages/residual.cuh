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
