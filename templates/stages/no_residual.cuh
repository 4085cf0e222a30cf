// No residual: the sum goes on as it is.
template <unsigned kRows>
ARBITER_DEVICE void prefetch_residual(const Arguments&, const unsigned (&)[kRows],
                                      Vector (&x)[kRows][config::vectors]) {
#pragma unroll
  for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
    for (unsigned k = 0; k < config::vectors; ++k) x[i][k] = zero_vector();  // what a thread has that has no vector
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
      x[i][k] = sum[i][k];
      if (wanted<config::output_optional>(arguments.output))
        store(vector_at(arguments.output, row[i], column(k)), x[i][k]);
    }
  }
}
