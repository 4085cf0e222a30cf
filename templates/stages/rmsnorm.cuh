// norm_out = x / sqrt(mean(x^2) + epsilon) * (gamma + weight_bias), computed in fp32 and rounded once.
struct Norm {
  static constexpr unsigned reductions = 1;
  Weight weight;

  ARBITER_DEVICE void prepare(const Arguments& arguments) { weight.prepare(arguments); }

  template <unsigned kRows>
  ARBITER_DEVICE void apply(const Arguments& arguments, const unsigned (&row)[kRows],
                            Vector (&x)[kRows][config::vectors], unsigned round) {
    float squares[kRows][config::vectors];
#pragma unroll
    for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) {
        squares[i][k] = 0.0f;
        if (!in_message(arguments, row[i], column(k))) continue;
        const Values v = unpack(x[i][k]);
#pragma unroll
        for (unsigned e = 0; e < elements; ++e) squares[i][k] = add(squares[i][k], multiply(v.at[e], v.at[e]));
      }
    }
    float total[kRows];
    row_sums(squares, total, round);
#pragma unroll
    for (unsigned i = 0; i < kRows; ++i) {
      const float scale = reciprocal_sqrt(add(multiply(total[i], 1.0f / config::hidden), arguments.epsilon));
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) {
        if (!in_message(arguments, row[i], column(k))) continue;
        weight.apply(arguments, k, [&](const Values& w) {
          Values v = unpack(x[i][k]);
#pragma unroll
          for (unsigned e = 0; e < elements; ++e) {
            v.at[e] = multiply(multiply(v.at[e], scale), add(w.at[e], arguments.weight_bias));
          }
          x[i][k] = pack(v);
          if (wanted<config::norm_out_optional>(arguments.norm_out))
            store(vector_at(arguments.norm_out, row[i], column(k)), x[i][k]);
        });
      }
    }
  }
};
