// What MoE prologues share: a weighted sum of rows, in fp32 and in order from +0, rounded once.

ARBITER_DEVICE float moe_weight(const Arguments& arguments, unsigned index) {
{{#dtype_fp32}}
  return load_float(static_cast<const float*>(arguments.moe_weights) + index);
{{/dtype_fp32}}
{{^dtype_fp32}}
  if (arguments.moe_weights_fp32 != 0) return load_float(static_cast<const float*>(arguments.moe_weights) + index);
  return {{dtype}}_lo(load_short(static_cast<const unsigned short*>(arguments.moe_weights) + index));
{{/dtype_fp32}}
}

// `term(i)` names the row of the input of the i-th term (`no_row` for none), `weight(i)` its weight. Several terms are
// requested at once: a term is a miss of the cache.
constexpr unsigned no_row = 0xffffffffu;
constexpr unsigned moe_batch = 4;
template <class Term, class Weight>
ARBITER_DEVICE Vector weighted_sum(const Arguments& arguments, unsigned row, unsigned col, const Term& term,
                                   const Weight& weight) {
  Values sum = zero();
  for (unsigned first = 0; first < arguments.moe_count; first += moe_batch) {
    unsigned source[moe_batch];
    float w[moe_batch];
    Vector x[moe_batch];
#pragma unroll
    for (unsigned i = 0; i < moe_batch; ++i) {
      source[i] = first + i < arguments.moe_count ? term(first + i) : no_row;
      if (first + i < arguments.moe_count) w[i] = moe_weight(arguments, weight(first + i));
    }
#pragma unroll
    for (unsigned i = 0; i < moe_batch; ++i) {
      if (source[i] != no_row) x[i] = load(vector_at(arguments.input, source[i], col));
    }
#pragma unroll
    for (unsigned i = 0; i < moe_batch; ++i) {
      if (source[i] == no_row) continue;
      const Values v = unpack(x[i]);
#pragma unroll
      for (unsigned e = 0; e < elements; ++e) sum.at[e] = add(sum.at[e], multiply(w[i], v.at[e]));
    }
  }
  if (arguments.moe_shared != nullptr) sum = plus(sum, unpack(load(vector_at(arguments.moe_shared, row, col))));
  return pack(sum);
}
