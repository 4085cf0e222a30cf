// gamma, in the dtype of the message or in fp32. It is requested before the wait for the peers and kept as one vector;
// of an fp32 gamma with two vectors that is the first, and the other one is in the cache by the time it is needed.
struct Weight {
  Vector gamma[config::vectors];

  static constexpr unsigned wide_vectors = elements / 4;
  ARBITER_DEVICE static const void* place(const Arguments& arguments, unsigned k, unsigned vector, unsigned wide) {
    return static_cast<const unsigned char*>(arguments.gamma) +
           (static_cast<unsigned long long>(column(k)) * wide + vector) * sizeof(Vector);
  }

  ARBITER_DEVICE void prepare(const Arguments& arguments) {
    const unsigned wide = arguments.gamma_fp32 != 0 ? wide_vectors : 1u;
#pragma unroll
    for (unsigned k = 0; k < config::vectors; ++k) {
      gamma[k] = column(k) < config::row_vectors ? load_cached(place(arguments, k, 0, wide)) : zero_vector();
    }
  }

  // Calls use(weights of the k-th vector). Its code is there once: what lies elsewhere is fetched behind the wait.
  template <class Use>
  ARBITER_DEVICE void apply(const Arguments& arguments, unsigned k, const Use& use) const {
    Values w = unpack(gamma[k]);
    if (__builtin_expect(wide_vectors != 1 && arguments.gamma_fp32 != 0, 0)) {
      const Vector part[2] = {gamma[k], load_cached(place(arguments, k, 1, wide_vectors))};
#pragma unroll
      for (unsigned e = 0; e < elements; ++e) w.at[e] = bits_to_float(part[e / 4].word[e % 4]);
    }
    use(w);
  }
};
