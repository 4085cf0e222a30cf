// The sum itself.
template <unsigned kRows>
struct Epilogue {
  ARBITER_DEVICE void begin() {}
  ARBITER_DEVICE void prepare(const Arguments&) {}
  ARBITER_DEVICE void prefetch(const Arguments&, const unsigned (&)[kRows]) {}

  ARBITER_DEVICE void apply(const Arguments& arguments, const unsigned (&row)[kRows],
                            const Vector (&sum)[kRows][config::vectors], unsigned) {
#pragma unroll
    for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) {
        if (in_message(arguments, row[i], column(k))) store(vector_at(arguments.output, row[i], column(k)), sum[i][k]);
      }
    }
  }
};
