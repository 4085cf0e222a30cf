// The device primitives for the CPU device: the same names as device/primitives.cuh, on top of the fiber executor.

#define ARBITER_DEVICE inline __attribute__((always_inline))
#define ARBITER_COLD __attribute__((noinline))

struct alignas(16) Vector {
  unsigned word[4];
};

static __thread arbiter_thread* arbiter_current;
extern "C" arbiter_thread** arbiter_current_slot() { return &arbiter_current; }

// --- where this thread is ---------------------------------------------------------------------------------------
ARBITER_DEVICE unsigned thread_index() { return arbiter_current->thread_index; }
ARBITER_DEVICE unsigned block_index() { return arbiter_current->block_index; }
ARBITER_DEVICE unsigned grid_blocks() { return arbiter_current->grid_blocks; }
ARBITER_DEVICE unsigned cluster_rank() { return arbiter_current->cluster_rank; }

// --- plain memory -----------------------------------------------------------------------------------------------
// Under the link model, everything that another thread may read or write goes through the executor. Single words that
// only the own rank's kernels use (load_word, store_word) do not: there are too many of them.
ARBITER_DEVICE bool modelled() { return arbiter_current->load_symmetric != nullptr; }
ARBITER_DEVICE Vector load_modelled(const void* address, int order) {
  Vector v;
  arbiter_current->load_symmetric(arbiter_current, address, v.word, 4, order);
  return v;
}
ARBITER_DEVICE unsigned load_modelled_word(const unsigned* address, int order) {
  unsigned v;
  arbiter_current->load_symmetric(arbiter_current, address, &v, 1, order);
  return v;
}
ARBITER_DEVICE Vector load(const void* address) {
  return modelled() ? load_modelled(address, 0) : *static_cast<const Vector*>(address);
}
ARBITER_DEVICE Vector load_cached(const void* address) { return load(address); }
ARBITER_DEVICE void store(void* address, const Vector& v) {
  if (modelled()) {
    arbiter_current->store_symmetric(arbiter_current, address, v.word, 4, 0);
  } else {
    *static_cast<Vector*>(address) = v;
  }
}
ARBITER_DEVICE unsigned load_word(const unsigned* address) { return *address; }
ARBITER_DEVICE void store_word(unsigned* address, unsigned v) { *address = v; }
ARBITER_DEVICE unsigned load_short(const unsigned short* address) { return *address; }
ARBITER_DEVICE float load_float(const float* address) { return *address; }
ARBITER_DEVICE void store_float(float* address, float v) { *address = v; }
ARBITER_DEVICE void store_pair(void* address, unsigned lo, unsigned hi) {
  static_cast<unsigned*>(address)[0] = lo;
  static_cast<unsigned*>(address)[1] = hi;
}
ARBITER_DEVICE void store_short(void* address, unsigned v) {
  *static_cast<unsigned short*>(address) = static_cast<unsigned short>(v);
}
ARBITER_DEVICE void store_byte(unsigned char* address, unsigned v) { *address = static_cast<unsigned char>(v); }

// --- memory shared with peers -----------------------------------------------------------------------------------
ARBITER_DEVICE Vector load_polled(const void* address) {
  if (modelled()) return load_modelled(address, 1);
  const unsigned* words = static_cast<const unsigned*>(address);
  Vector v;
  for (int i = 0; i < 4; ++i) v.word[i] = __atomic_load_n(words + i, __ATOMIC_RELAXED);
  return v;
}
ARBITER_DEVICE void store_shared_vector(void* address, const Vector& v) {
  arbiter_current->store_symmetric(arbiter_current, address, v.word, 4, 0);
}
ARBITER_DEVICE void store_symmetric_local(void* address, const Vector& v) {
  arbiter_current->store_symmetric(arbiter_current, address, v.word, 4, 0);
}
ARBITER_DEVICE unsigned load_acquire(const unsigned* address) {
  return modelled() ? load_modelled_word(address, 2) : __atomic_load_n(address, __ATOMIC_ACQUIRE);
}
ARBITER_DEVICE unsigned load_relaxed(const unsigned* address) {
  return modelled() ? load_modelled_word(address, 1) : __atomic_load_n(address, __ATOMIC_RELAXED);
}
ARBITER_DEVICE void store_release(unsigned* address, unsigned v) {
  arbiter_current->store_symmetric(arbiter_current, address, &v, 1, 1);
}
ARBITER_DEVICE void store_relaxed(unsigned* address, unsigned v) {
  arbiter_current->store_symmetric(arbiter_current, address, &v, 1, 0);
}
ARBITER_DEVICE unsigned long long load_relaxed(const unsigned long long* address) {
  if (!modelled()) return __atomic_load_n(address, __ATOMIC_RELAXED);
  unsigned words[2];
  arbiter_current->load_symmetric(arbiter_current, address, words, 2, 1);
  return words[0] | static_cast<unsigned long long>(words[1]) << 32;
}
ARBITER_DEVICE void store_relaxed(unsigned long long* address, unsigned long long v) {
  const unsigned words[2] = {static_cast<unsigned>(v), static_cast<unsigned>(v >> 32)};
  arbiter_current->store_symmetric(arbiter_current, address, words, 2, 0);
}
ARBITER_DEVICE unsigned exchange(unsigned* address, unsigned v) {
  return __atomic_exchange_n(address, v, __ATOMIC_RELAXED);
}
ARBITER_DEVICE void count_up(unsigned* address) { __atomic_fetch_add(address, 1u, __ATOMIC_RELAXED); }
ARBITER_DEVICE void fence_system() { arbiter_current->fence_system(arbiter_current); }
ARBITER_DEVICE void fence_aliases() {}  // the model has one path to memory

ARBITER_DEVICE void store_multicast(void* address, const Vector& v) {
  arbiter_current->store_multicast(arbiter_current, address, v.word, 4);
}

template <class T>
ARBITER_DEVICE T in_register(T v) {
  return v;
}

// --- order between kernels --------------------------------------------------------------------------------------
ARBITER_DEVICE void grid_dependency_wait() { arbiter_current->grid_dependency_wait(arbiter_current); }
ARBITER_DEVICE void grid_dependency_trigger() { arbiter_current->grid_dependency_trigger(arbiter_current); }

// --- threads of a block and of a cluster ------------------------------------------------------------------------
ARBITER_DEVICE void block_barrier() { arbiter_current->block_barrier(arbiter_current); }
ARBITER_DEVICE void cluster_arrive() {}
ARBITER_DEVICE void cluster_wait() { arbiter_current->cluster_barrier(arbiter_current); }
ARBITER_DEVICE float bits_to_float(unsigned bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
ARBITER_DEVICE unsigned float_to_bits(float x) {
  unsigned bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}
ARBITER_DEVICE float shuffle_xor(float v, unsigned mask) {
  return bits_to_float(arbiter_current->shuffle_xor(arbiter_current, float_to_bits(v), mask));
}
ARBITER_DEVICE unsigned shuffle_xor(unsigned v, unsigned mask) {
  return arbiter_current->shuffle_xor(arbiter_current, v, mask);
}
ARBITER_DEVICE unsigned warp_max(unsigned v) {
  for (unsigned mask = 16; mask != 0; mask /= 2) {
    const unsigned other = shuffle_xor(v, mask);
    v = other > v ? other : v;
  }
  return v;
}
// Fibers of a block take turns only where they wait.
ARBITER_DEVICE void shared_max(unsigned* address, unsigned v) { *address = v > *address ? v : *address; }
ARBITER_DEVICE float* shared_floats() { return static_cast<float*>(arbiter_current->shared); }
ARBITER_DEVICE float load_shared(const float* address) { return *address; }

constexpr unsigned gather_bytes = 16;
ARBITER_DEVICE void gather_init(unsigned) {}
ARBITER_DEVICE void gather_send(unsigned, float* address, unsigned rank, float v) {
  static_cast<float*>(arbiter_current->cluster_shared[rank])[address - shared_floats()] = v;
}
ARBITER_DEVICE void gather_arrive(unsigned, unsigned) {}
ARBITER_DEVICE void gather_wait(unsigned, unsigned) { arbiter_current->cluster_barrier(arbiter_current); }

// --- time -------------------------------------------------------------------------------------------------------
ARBITER_DEVICE unsigned long long now_ns() { return arbiter_current->now_ns(arbiter_current); }
ARBITER_DEVICE void poll_pause() { arbiter_current->yield(arbiter_current); }

// --- arithmetic whose rounding is fixed (compiled with -ffp-contract=off) ---------------------------------------
ARBITER_DEVICE float add(float a, float b) { return a + b; }
ARBITER_DEVICE float multiply(float a, float b) { return a * b; }
ARBITER_DEVICE float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
ARBITER_DEVICE float divide(float a, float b) { return a / b; }
ARBITER_DEVICE float reciprocal(float x) { return 1.0f / x; }
ARBITER_DEVICE float reciprocal_estimate(float x) { return 1.0f / x; }
ARBITER_DEVICE float absolute(float x) { return __builtin_fabsf(x); }
ARBITER_DEVICE float reciprocal_sqrt(float x) { return 1.0f / __builtin_sqrtf(x); }

ARBITER_DEVICE float bf16_lo(unsigned word) { return bits_to_float(word << 16); }
ARBITER_DEVICE float bf16_hi(unsigned word) { return bits_to_float(word & 0xffff0000u); }
ARBITER_DEVICE unsigned bf16_bits(float x) {
  const unsigned bits = float_to_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;  // the NaN that cvt.rn.bf16 returns
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
ARBITER_DEVICE unsigned pack_bf16(float lo, float hi) { return bf16_bits(lo) | (bf16_bits(hi) << 16); }

ARBITER_DEVICE float fp16_value(unsigned half) {
  const unsigned sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 0x3ffu;
  if (exponent == 31u) return bits_to_float(sign | 0x7f800000u | (fraction << 13));
  if (exponent != 0u) return bits_to_float(sign | ((exponent + 112u) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
  return bits_to_float(sign | float_to_bits(magnitude));
}
ARBITER_DEVICE unsigned fp16_bits(float x) {
  const unsigned bits = float_to_bits(x), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fffu;          // the NaN that cvt.rn.f16 returns
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {  // below 2^-14: a multiple of 2^-24, rounded by adding and removing 0.5
    return sign | (float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u);
  }
  return sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13);
}
ARBITER_DEVICE float fp16_lo(unsigned word) { return fp16_value(word & 0xffffu); }
ARBITER_DEVICE float fp16_hi(unsigned word) { return fp16_value(word >> 16); }
ARBITER_DEVICE unsigned pack_fp16(float lo, float hi) { return fp16_bits(lo) | (fp16_bits(hi) << 16); }

// --- sums over multicast memory ---------------------------------------------------------------------------------
// A switch adds in an order of its own. Here the last rank comes first, so that nothing can rely on rank order.
template <class Add>
ARBITER_DEVICE Vector load_reduced(const void* address, Add add_word) {
  const void* members[arbiter_multicast_members];
  unsigned r = arbiter_current->multicast_members(arbiter_current, address, members);
  float sum[4][2] = {};
  while (r-- != 0) {
    const Vector v = load(members[r]);
    for (unsigned i = 0; i < 4; ++i) add_word(sum[i], v.word[i]);
  }
  Vector total;
  for (unsigned i = 0; i < 4; ++i) total.word[i] = add_word.pack(sum[i]);
  return total;
}
struct AddFp32 {
  ARBITER_DEVICE void operator()(float (&sum)[2], unsigned word) const { sum[0] = add(sum[0], bits_to_float(word)); }
  ARBITER_DEVICE unsigned pack(const float (&sum)[2]) const { return float_to_bits(sum[0]); }
};
struct AddBf16 {
  ARBITER_DEVICE void operator()(float (&sum)[2], unsigned word) const {
    sum[0] = add(sum[0], bf16_lo(word));
    sum[1] = add(sum[1], bf16_hi(word));
  }
  ARBITER_DEVICE unsigned pack(const float (&sum)[2]) const { return pack_bf16(sum[0], sum[1]); }
};
struct AddFp16 {
  ARBITER_DEVICE void operator()(float (&sum)[2], unsigned word) const {
    sum[0] = add(sum[0], fp16_lo(word));
    sum[1] = add(sum[1], fp16_hi(word));
  }
  ARBITER_DEVICE unsigned pack(const float (&sum)[2]) const { return pack_fp16(sum[0], sum[1]); }
};
ARBITER_DEVICE Vector load_reduced_fp32(const void* address) { return load_reduced(address, AddFp32{}); }
ARBITER_DEVICE Vector load_reduced_bf16(const void* address) { return load_reduced(address, AddBf16{}); }
ARBITER_DEVICE Vector load_reduced_fp16(const void* address) { return load_reduced(address, AddFp16{}); }
ARBITER_DEVICE unsigned bytes_of(unsigned a, unsigned b, unsigned which) {
  const unsigned long long all = static_cast<unsigned long long>(b) << 32 | a;
  unsigned word = 0;
  for (unsigned i = 0; i < 4; ++i)
    word |= static_cast<unsigned>(all >> (8 * (which >> (4 * i) & 7u)) & 0xffu) << (8 * i);
  return word;
}
