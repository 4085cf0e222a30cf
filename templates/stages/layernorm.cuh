// norm_out = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * (gamma + weight_bias), computed in fp32 and
// rounded once.
struct Norm {
  static constexpr unsigned reductions = 2;
  Weight weight;

  ARBITER_DEVICE void prepare(const Arguments& arguments) { weight.prepare(arguments); }

  ARBITER_DEVICE static float mean(float sum) { return multiply(sum, 1.0f / config::hidden); }

  template <unsigned kRows>
  ARBITER_DEVICE void apply(const Arguments& arguments, const unsigned (&row)[kRows],
                            Vector (&x)[kRows][config::vectors], unsigned round) {
    float part[kRows][config::vectors], centre[kRows], spread[kRows];
    const auto each = [&](const auto& use) {
#pragma unroll
      for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
        for (unsigned k = 0; k < config::vectors; ++k) {
          part[i][k] = 0.0f;
          if (!in_message(arguments, row[i], column(k))) continue;
          const Values v = unpack(x[i][k]);
#pragma unroll
          for (unsigned e = 0; e < elements; ++e) part[i][k] = add(part[i][k], use(i, v.at[e]));
        }
      }
    };
    each([&](unsigned, float v) { return v; });
    row_sums(part, centre, round);
    each([&](unsigned i, float v) {
      const float distance = add(v, -mean(centre[i]));
      return multiply(distance, distance);
    });
    row_sums(part, spread, round + 1);
#pragma unroll
    for (unsigned i = 0; i < kRows; ++i) {
      const float scale = reciprocal_sqrt(add(mean(spread[i]), arguments.epsilon));
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) {
        if (!in_message(arguments, row[i], column(k))) continue;
        weight.apply(arguments, k, [&](const Values& w) {
          Values v = unpack(x[i][k]);
#pragma unroll
          for (unsigned e = 0; e < elements; ++e) {
            const float distance = add(v.at[e], -mean(centre[i]));
            v.at[e] = multiply(multiply(distance, scale), add(w.at[e], arguments.weight_bias));
          }
          x[i][k] = pack(v);
          if (wanted<config::norm_out_optional>(arguments.norm_out))
            store(vector_at(arguments.norm_out, row[i], column(k)), x[i][k]);
        });
      }
    }
  }
};
