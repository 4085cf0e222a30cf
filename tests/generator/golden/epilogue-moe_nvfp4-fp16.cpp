// custom/epilogue:cluster=2,early_trigger=1,threads=256,vectors=1 moe_finalize_allreduce_residual_rmsnorm_nvfp4_8x4 fp16 world=1 hidden=4096
// Arbiter 0.1.0: custom/epilogue for moe_finalize_allreduce_residual_rmsnorm_nvfp4_8x4. The epilogue alone, on an input that is already the sum: what NCCL is followed by.
// Rendered; edit the templates, not this text.

// What the host hands to every kernel, by value. The same text is compiled into kernels and into the runtime, so it
// includes nothing and uses only types that are the same on both sides.

namespace arbiter_abi {

constexpr unsigned max_world = 16;

// Largest grid of a kernel that keeps protocol state. Every block owns one epoch, advanced by every call.
constexpr unsigned max_blocks = 1280;

// Written by the first thread that gives up waiting; read by the host at any time (host-visible memory).
struct FaultRecord {
  unsigned state;         // 0: none, 1: a wait passed its deadline, 2: a peer asked to abort
  unsigned waiting_rank;  // who waited
  unsigned waited_for;    // for whom
  unsigned block;
  unsigned thread;
  unsigned phase;         // 1: data of a peer, 2: result of a peer, 3: barrier
  unsigned epoch;
  unsigned reserved;
};

// Start of every rank's workspace; the rotating buffers and the staging area lie behind it.
// Zero-filled at creation.
struct Control {
  unsigned abort;     // not 0: give up waiting; set by whoever gave up first, on all ranks
  unsigned reported;  // not 0: a thread of this rank has written the fault record
  unsigned reserved[30];
  unsigned push_epoch[max_blocks];                  // push protocol: epochs issued so far
  unsigned barrier_epoch[max_blocks];               // barriers passed so far
  unsigned barrier_flag[max_world][max_blocks];     // written by peer [r]: its barrier_epoch for this block
  unsigned chunk_epoch[max_blocks];                 // chunks of the chunked algorithm so far
  unsigned chunk_flag[2][max_world][max_blocks];    // written by peer [r]: chunks stored here; data, then results
  unsigned long long place[2][max_world];           // written by peer [r]: where its input and its output lie (pull.h),
  unsigned place_epoch[max_world];                  // and in which epoch of the barriers it said so
};

// Rotating buffers of the push protocol, and the 32-bit word that means "nothing has arrived yet". It reads as -0 in
// fp32 and as (+0, -0) in a pair of 16-bit values, so replacing it by 0 in a payload changes no number. Buffers are
// filled with it at creation; whoever reads a word puts it back.
constexpr unsigned push_buffers = 4;
constexpr unsigned sentinel_word = 0x80000000u;

// Tensors are null where the pattern has none, and where the caller leaves out an optional one.
struct Arguments {
  const void* input;         // [rows, hidden] or a flat message, activation dtype; MoE: see prologues/
  void* output;              // the sum; may be input
  const void* residual_in;   // [rows, hidden]
  void* residual_out;        // [rows, hidden]
  const void* gamma;         // [hidden]
  void* norm_out;            // [rows, hidden]
  void* quant_out;           // [rows, hidden] bytes, or half of it
  const float* scale_in;     // one number
  void* scale_out;           // as the quantisation lays its scales out
  const void* moe_weights;   // [experts, rows] or [rows, top_k]
  const int* moe_row_map;    // [rows, top_k]: which row of input; -1 for none
  const void* moe_shared;    // [rows, hidden]: added last
  float epsilon;
  float weight_bias;         // the norm multiplies by (gamma + weight_bias)
  unsigned gamma_fp32;       // not 0: gamma is fp32, whatever the activation dtype
  unsigned moe_weights_fp32; // not 0: moe_weights is fp32
  unsigned moe_count;        // experts, or top_k
  unsigned moe_rows;         // rows of input that moe_row_map may name
  unsigned rows;             // tokens for row patterns; rows of `row_vectors` (last one partial) for flat ones
  unsigned iterations;       // tiles of one cluster, equal for all clusters of the grid
  unsigned vectors;                      // 16-byte vectors of the message: at most 64 GiB - 16
  unsigned push_epochs;                  // epochs this launch uses: iterations / push_iterations, rounded up
  unsigned char* workspace[max_world];   // every rank's workspace as this rank addresses it; [rank] is local
  unsigned long long push_offset;        // first rotating buffer, bytes from the start of the workspace
  unsigned push_stride;                  // bytes of one rotating buffer, < 4 GiB
  unsigned push_iterations;              // iterations side by side in a rotating buffer: all, or at least 2
  unsigned long long staging_offset;     // data on the way to a sum; first half of the staging area
  unsigned long long results_offset;     // sums on the way to all; second half
  unsigned long long timeout_ns;         // deadline of one wait; 0 means none
  FaultRecord* fault;
  unsigned char* workspace_at[max_world];  // this rank's workspace, input and output as rank r addresses them;
  unsigned char* input_at[max_world];      // null where no peer can
  unsigned char* output_at[max_world];
  // Multicast memory: a store goes to the same place on all ranks, a load adds up what is there.
  unsigned char* multicast;         // all workspaces; null without multicast
  unsigned char* multicast_input;   // null where the tensor does not lie in multicast memory
  unsigned char* multicast_output;
  unsigned long long input_id;      // equal on two ranks if their tensors lie at the same place; 0: not in multicast memory
  unsigned long long output_id;
};

}  // namespace arbiter_abi

// The device primitives for the CPU device: the same names as device/primitives.cuh, on top of the fiber executor.

// The contract between a kernel compiled for the CPU device and the fiber executor that runs it.
// Compiled into both sides, so it includes nothing.
//
// An image exports, with C linkage:
//   arbiter_thread** arbiter_current_slot();                  address of this OS thread's "current CUDA thread" pointer
//   void arbiter_kernel_rank<r>(const void* arguments);       body of one CUDA thread of rank r; `arguments` points to
//                                                             one arbiter_abi::Arguments
// Before a fiber runs or resumes, the executor stores its arbiter_thread into the slot.

// Most ranks that multicast memory joins.
constexpr unsigned arbiter_multicast_members = 16;

extern "C" {

struct arbiter_thread {
  // Where this CUDA thread is.
  unsigned thread_index, block_threads;      // threadIdx.x, blockDim.x
  unsigned block_index, grid_blocks;         // blockIdx.x, gridDim.x
  unsigned cluster_rank, cluster_blocks;     // rank of this block in its cluster; 0 and 1 without clusters
  void* shared;                              // dynamic shared memory of this block
  void* const* cluster_shared;               // [cluster_blocks] shared memory of every block of the cluster

  // Services of the executor. All may switch to other fibers.
  void (*yield)(arbiter_thread*);            // called between two polls
  void (*block_barrier)(arbiter_thread*);    // __syncthreads
  void (*cluster_barrier)(arbiter_thread*);  // arrive.release + wait.acquire of all threads of the cluster
  // Exchange within the warp of 32 consecutive threads (all of them call it): the value of lane ^ mask.
  unsigned (*shuffle_xor)(arbiter_thread*, unsigned value, unsigned mask);
  unsigned long long (*now_ns)(arbiter_thread*);
  // A store of 4, 8 or 16 bytes to memory of a device. release != 0: whoever acquires it sees what this thread stored or
  // observed earlier.
  void (*store_symmetric)(arbiter_thread*, void* destination, const unsigned* words, unsigned count, int release);
  // A load of 4, 8 or 16 bytes from memory of a device. order: 0 plain, 1 relaxed, 2 acquire. Null: memory may be read (and
  // written, except with release) directly; otherwise whatever another thread may store has to be loaded with this.
  void (*load_symmetric)(arbiter_thread*, const void* source, unsigned* words, unsigned count, int order);
  // The same store to the memory of all ranks, given an address in multicast memory.
  void (*store_multicast)(arbiter_thread*, void* destination, const unsigned* words, unsigned count);
  // Where an address in multicast memory lies on each rank; how many ranks there are.
  unsigned (*multicast_members)(arbiter_thread*, const void* address, const void** members);
  void (*fence_system)(arbiter_thread*);
  void (*grid_dependency_wait)(arbiter_thread*);
  void (*grid_dependency_trigger)(arbiter_thread*);

  void* executor;                            // for the executor alone
};
}

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
ARBITER_DEVICE void fence_system() { arbiter_current->fence_system(arbiter_current); }
ARBITER_DEVICE void fence_aliases() {}  // the model has one path to memory

ARBITER_DEVICE void store_multicast(void* address, const Vector& v) {
  arbiter_current->store_multicast(arbiter_current, address, v.word, 4);
}

template <class T>
ARBITER_DEVICE T pinned(T v) {
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
  if (magnitude > 0x7f800000u) return 0x7fffu;  // the NaN that cvt.rn.f16 returns
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

// --- small floats -----------------------------------------------------------------------------------------------
ARBITER_DEVICE unsigned bytes_of(unsigned a, unsigned b, unsigned which) {
  const unsigned long long all = static_cast<unsigned long long>(b) << 32 | a;
  unsigned word = 0;
  for (unsigned i = 0; i < 4; ++i) word |= static_cast<unsigned>(all >> (8 * (which >> (4 * i) & 7u)) & 0xffu) << (8 * i);
  return word;
}
// Roundings to FP8 e4m3 and FP4 e2m1 in plain arithmetic: the bits of the conversion instructions, for targets without
// them and for the CPU device. Both round to nearest even and saturate; NaN becomes 0x7f and 0x7 whatever its sign.
ARBITER_DEVICE unsigned e4m3_bits(float x) {
  const unsigned bits = float_to_bits(x), sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fu;
  if (magnitude >= 0x43e00000u) return sign | 0x7eu;  // 448 and above
  if (magnitude < 0x3c800000u) {                      // below 2^-6: a multiple of 2^-9, rounded by adding and removing 2^14
    return sign | (float_to_bits(add(bits_to_float(magnitude), 16384.0f)) - 0x46800000u);
  }
  return sign | ((magnitude - 0x3c000000u + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20);
}

// The e2m1 code of a magnitude of at most 6.9 in the lowest 3 bits; above them 20 zeros, then anything. Adding 2^22 times the
// power of two at or below it (at least 1) leaves the rounded fraction there, and two for every power come with it.
ARBITER_DEVICE unsigned e2m1_code(float magnitude) {
  const unsigned bits = float_to_bits(magnitude), least = bits > 0x3f800000u ? bits : 0x3f800000u;
  return float_to_bits(add(magnitude, bits_to_float((least >> 23) * 0x800002u + ((22u << 23) - 254u))));
}

// Eight e2m1 of eight magnitudes. `signs`: bit 3 of every code. `ordinary`: all magnitudes are below 7.
ARBITER_DEVICE unsigned e2m1_codes(float (&magnitude)[8], unsigned signs, bool ordinary) {
  if (!ordinary) {
    for (unsigned e = 0; e < 8; ++e) {
      const unsigned bits = float_to_bits(magnitude[e]);
      if (bits > 0x7f800000u) signs &= ~(8u << (4 * e));
      magnitude[e] = bits_to_float(bits < 0x40c00000u ? bits : 0x40c00000u);  // 6
    }
  }
  unsigned half[2];
  for (unsigned h = 0; h < 2; ++h) {
    half[h] = e2m1_code(magnitude[4 * h]) + e2m1_code(magnitude[4 * h + 1]) * 16u +
              e2m1_code(magnitude[4 * h + 2]) * 256u + e2m1_code(magnitude[4 * h + 3]) * 4096u;
  }
  return bytes_of(half[0], half[1], 0x5410) | signs;
}

// A positive e4m3 as fp32: its bits, moved into place, are 2^120 times too small. 0x7f, which is NaN, gives 480.
ARBITER_DEVICE float e4m3_value(unsigned code) { return multiply(bits_to_float(code << 20), 0x1p120f); }

// x is positive, and neither quotient nor remainder of it and an e4m3 overflow or are subnormal.
ARBITER_DEVICE bool divides_plainly(float x) {
  return (float_to_bits(x) >> 23) - 27u < 200u;  // from 2^-100 to below 2^100
}
// The correctly rounded quotient of such an x: what a division does, without its special cases.
ARBITER_DEVICE float plain_quotient(float x, float divisor) {
  const float estimate = reciprocal_estimate(divisor);
  const float inverse = multiply_add(multiply_add(estimate, -divisor, 1.0f), estimate, estimate);
  const float quotient = multiply(x, inverse);
  return multiply_add(multiply_add(-divisor, quotient, x), inverse, quotient);
}

// The least power of two not below bits / 448, as the exponent of UE8M0, for the bits of a magnitude. It is 2^(k - 8) up to
// 1.75 * 2^k; no rounding of the quotient crosses that. 1e-10 and less give 2^-33, infinity and NaN 255.
ARBITER_DEVICE unsigned ue8m0_of_448th(unsigned magnitude) {
  const unsigned up = (magnitude + 0x1fffffu) >> 23;
  return magnitude >= 0x7f800000u ? 255u : (up > 102u ? up : 102u) - 8u;
}

// x / 448, correctly rounded where that is not subnormal: an estimate and one correction, without the special cases that a
// division has. x is not negative.
ARBITER_DEVICE float over_448(float x) {
  constexpr float inverse = 1.0f / 448.0f;
  const float estimate = multiply(x, inverse);
  const float quotient = multiply_add(multiply_add(-448.0f, estimate, x), inverse, estimate);
  return float_to_bits(x) >= 0x7f800000u ? x : quotient;  // infinite or NaN
}

ARBITER_DEVICE unsigned larger_halves(unsigned a, unsigned b) {
  const unsigned hi = (a & 0xffff0000u) > (b & 0xffff0000u) ? a : b, lo = (a & 0xffffu) > (b & 0xffffu) ? a : b;
  return (hi & 0xffff0000u) | (lo & 0xffffu);
}
ARBITER_DEVICE unsigned pack_e4m3(float lo, float hi) { return e4m3_bits(lo) | e4m3_bits(hi) << 8; }
constexpr bool converts_to_e2m1 = false;
ARBITER_DEVICE unsigned pack_e2m1(const float (&)[8]) { return 0; }  // nobody asks

using namespace arbiter_abi;

namespace config {
constexpr unsigned world = 1;
constexpr unsigned threads = 256;         // per block
constexpr unsigned vectors = 1;         // 16-byte vectors per thread and row
constexpr unsigned cluster = 2;         // blocks that share a row
constexpr unsigned early_trigger = 1;  // when dependents may launch (they wait themselves): 0 at the end,
                                                       // 1 once the inputs are ready, 2 at once
constexpr unsigned hidden = 4096;           // elements of a row; 0 if the message is flat
constexpr unsigned row_vectors = 512;      // vectors of a row; 0 if the message is flat
constexpr bool prologue = 1;     // a rank contributes something else than its input
constexpr bool quantised = 1;
// Code is fetched anew in every launch. Kernels that work on rows are long, so a launch of one iteration gets a path
// without the loop (0.1 us at one token on H200); it would only cost compile time elsewhere.
constexpr bool single_path = false;
}  // namespace config

// Elements, vectors and their rounding.

constexpr unsigned elements = 8;  // of a vector

// A vector as fp32 values.
struct Values {
  float at[elements];
};

ARBITER_DEVICE Values unpack(const Vector& v) {
  Values x;
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
    x.at[2 * i] = fp16_lo(v.word[i]);
    x.at[2 * i + 1] = fp16_hi(v.word[i]);
  }
  return x;
}

// Rounds to nearest even, once.
ARBITER_DEVICE Vector pack(const Values& x) {
  Vector v;
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
    v.word[i] = pack_fp16(x.at[2 * i], x.at[2 * i + 1]);
  }
  return v;
}

ARBITER_DEVICE Values zero() {
  Values x;
#pragma unroll
  for (unsigned i = 0; i < elements; ++i) x.at[i] = 0.0f;
  return x;
}

ARBITER_DEVICE Values plus(const Values& a, const Values& b) {
  Values x;
#pragma unroll
  for (unsigned i = 0; i < elements; ++i) x.at[i] = add(a.at[i], b.at[i]);
  return x;
}

ARBITER_DEVICE Vector zero_vector() { return Vector{ {0u, 0u, 0u, 0u} }; }

// The sentinel is compared and replaced as an integer, word by word: no payload may look like "nothing has arrived".
ARBITER_DEVICE Vector sanitised(Vector v) {
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) v.word[i] = v.word[i] == sentinel_word ? 0u : v.word[i];
  return v;
}
ARBITER_DEVICE bool arrived(const Vector& v) {
  return v.word[0] != sentinel_word && v.word[1] != sentinel_word && v.word[2] != sentinel_word &&
         v.word[3] != sentinel_word;
}
ARBITER_DEVICE Vector sentinel() { return Vector{ {sentinel_word, sentinel_word, sentinel_word, sentinel_word} }; }

// The sum as every algorithm returns it: fp32 in rank order starting from +0, rounded once, sanitised.
ARBITER_DEVICE Vector rounded_sum(const Values& sum) { return sanitised(pack(sum)); }
// The arguments in registers. Reading them is a miss of the constant cache in every launch; done before the grid
// dependency is waited for, it costs nothing.
ARBITER_DEVICE Arguments in_registers(const Arguments& arguments) {
  Arguments a = arguments;
  a.input = pinned(arguments.input);
  a.output = pinned(arguments.output);
  a.vectors = pinned(arguments.vectors);
  a.rows = pinned(arguments.rows);
  a.iterations = pinned(arguments.iterations);
#pragma unroll
  for (unsigned r = 0; r < config::world; ++r) a.workspace[r] = pinned(arguments.workspace[r]);
  if (config::row_vectors != 0) {
    a.residual_in = pinned(arguments.residual_in);
    a.residual_out = pinned(arguments.residual_out);
    a.gamma = pinned(arguments.gamma);
    a.norm_out = pinned(arguments.norm_out);
  }
  if (config::quantised) {
    a.quant_out = pinned(arguments.quant_out);
    a.scale_out = pinned(arguments.scale_out);
  }
  return a;
}

// Which thread handles which vector. A message is a list of rows; a cluster handles one row (or, with two-shot, one row
// per rank) in one iteration. A flat message is cut into rows of exactly one cluster's width.

constexpr unsigned cluster_width = config::threads * config::vectors * config::cluster;

ARBITER_DEVICE unsigned rank_in_cluster() { return config::cluster == 1 ? 0u : cluster_rank(); }
ARBITER_DEVICE unsigned cluster_index() { return block_index() / config::cluster; }
ARBITER_DEVICE unsigned grid_clusters() { return grid_blocks() / config::cluster; }

// Column of this thread's k-th vector within a row. 32 consecutive columns always belong to one warp.
ARBITER_DEVICE unsigned column(unsigned k) {
  return (k * config::cluster + rank_in_cluster()) * config::threads + thread_index();
}

// Index of a vector in the message. The row's own length is a constant when the hidden size is.
ARBITER_DEVICE unsigned vector_index(unsigned row, unsigned col) {
  constexpr unsigned width = config::row_vectors != 0 ? config::row_vectors : cluster_width;
  return row * width + col;
}

ARBITER_DEVICE bool in_message(const Arguments& arguments, unsigned row, unsigned col) {
  if (config::row_vectors != 0) return row < arguments.rows && col < config::row_vectors;
  return vector_index(row, col) < arguments.vectors;
}

ARBITER_DEVICE const void* vector_at(const void* base, unsigned row, unsigned col) {
  return static_cast<const unsigned char*>(base) + static_cast<unsigned long long>(vector_index(row, col)) * sizeof(Vector);
}
ARBITER_DEVICE void* vector_at(void* base, unsigned row, unsigned col) {
  return static_cast<unsigned char*>(base) + static_cast<unsigned long long>(vector_index(row, col)) * sizeof(Vector);
}

// An address as a number, on its way to a peer.
ARBITER_DEVICE unsigned long long address_bits(const void* address) {
  return reinterpret_cast<unsigned long long>(address);
}
ARBITER_DEVICE unsigned char* address_of(unsigned long long bits) { return reinterpret_cast<unsigned char*>(bits); }

// Is this tensor written? One that the caller may leave out is null then.
template <bool kOptional>
ARBITER_DEVICE bool wanted(const void* tensor) {
  return !kOptional || tensor != nullptr;
}

ARBITER_DEVICE Control* control_of(const Arguments& arguments, unsigned rank) {
  return reinterpret_cast<Control*>(arguments.workspace[rank]);
}

// Every block owns one counter of protocol state; a call advances all of them, also those of blocks that did not run,
// so that the next call may have any grid. `epoch` is the value this block read.
ARBITER_DEVICE void advance_epochs(unsigned* epochs, unsigned epoch) {
  for (unsigned block = block_index() + grid_blocks() * thread_index(); block < max_blocks;
       block += grid_blocks() * config::threads)
    store_word(epochs + block, epoch);
}
// Every wait has a deadline. The fast path costs one counter; clock and abort word are read every 256 polls.

enum Phase : unsigned { phase_push = 1, phase_broadcast = 2, phase_barrier = 3 };

// What a thread remembers of its current wait, and whether it has given up: then it no longer waits for anybody and
// only runs to its end.
struct Wait {
  unsigned polls = 0;
  bool given_up = false;
  unsigned long long started = 0;
};

// True when waiting makes no sense any more: the deadline has passed, or somebody else gave up.
template <unsigned kRank>
ARBITER_COLD bool give_up(const Arguments& arguments, unsigned waited_for, unsigned phase, unsigned epoch,
                          unsigned long long waited_ns) {
  Control* control = reinterpret_cast<Control*>(arguments.workspace[kRank]);
  const bool aborted = load_relaxed(&control->abort) != 0u;
  if (!aborted && (arguments.timeout_ns == 0 || waited_ns < arguments.timeout_ns)) return false;
  if (exchange(&control->reported, 1u) == 0u) {
    FaultRecord* fault = arguments.fault;
    store_relaxed(&fault->waiting_rank, kRank);
    store_relaxed(&fault->waited_for, waited_for);
    store_relaxed(&fault->block, block_index());
    store_relaxed(&fault->thread, thread_index());
    store_relaxed(&fault->phase, phase);
    store_relaxed(&fault->epoch, epoch);
    store_release(&fault->state, aborted ? 2u : 1u);
    for (unsigned r = 0; r < config::world; ++r)
      store_relaxed(&reinterpret_cast<Control*>(arguments.workspace[r])->abort, 1u);
  }
  return true;
}

// Call between two polls.
template <unsigned kRank>
ARBITER_DEVICE bool expired(const Arguments& arguments, Wait& wait, unsigned waited_for, Phase phase, unsigned epoch) {
  poll_pause();
  if ((++wait.polls & 255u) != 0u) return false;
  const unsigned long long now = now_ns();
  if (wait.polls == 256u) wait.started = now;
  wait.given_up = give_up<kRank>(arguments, waited_for, phase, epoch, now - wait.started);
  return wait.given_up;
}
// The push protocol: data is its own flag. A rank stores vectors into slots of a peer's rotating buffer; the owner of
// the slot polls its local copy until no word is the sentinel, takes the vector, and puts the sentinel back.
//
// An epoch is what goes through one rotating buffer: the iterations of a launch, up to `push_iterations` side by side.
// Nothing else is needed, because a slot is read and re-armed by one thread, and is stored to again only when the peer
// knows that this has happened:
// - Within a launch, a fence at the first store of an epoch orders everything re-armed so far before it. It waits for the
//   links and is expensive, so there is one an epoch and not one an iteration. Between launches the end of the kernel
//   does the same.
// - A rank sends iteration i + 1 before it takes iteration i, so it may be two iterations ahead of a peer. An epoch of a
//   launch with several of them holds at least two iterations: a rank that enters the next one knows of its peers' entry
//   into this launch.
// - What a peer may still hold dirty when a launch begins are the last epochs of its launch before: the one in which it
//   waits; the one before, where its re-arming is not yet ordered; and, because the last rows of a message leave some
//   threads without work, one more. Hence four buffers. (With three of
//   one iteration each, the link model of the CPU device finds a seed that corrupts.)
// - All of it holds for any sequence of grids and algorithms, because the epoch is one number for all of them.

// Slots of an iteration: every leg has one per peer (not for the own rank) and vector of a thread.
//
// With kMulticast the last leg is stored once and the switch delivers it to all, to the sender too. So its slots are at
// the same place at every receiver, one per sender, and the sender waits for its own vector like everybody else: until
// it is there it may still arrive, and undo the re-arming.
template <unsigned kRank, unsigned kLegs, bool kMulticast>
struct Push {
  static constexpr unsigned leg_slots = (config::world - 1) * config::vectors;
  static constexpr unsigned iteration_slots = kLegs * leg_slots + (kMulticast ? config::vectors : 0);

  const Arguments& arguments;       // in registers
  const Arguments& constants;       // the kernel's parameter, for the slow path
  unsigned slot_stride;             // bytes between two slots of one thread
  unsigned buffer_stride;
  unsigned iterations_per_epoch;
  unsigned long long first_place;   // of this thread's slot 0 in buffer 0, from the start of the workspace
  unsigned long long place;         // the same for the current iteration
  unsigned char* multicast;         // all workspaces; only with kMulticast
  unsigned epoch;
  unsigned in_epoch = 0;            // iterations of this epoch behind us

  // Everything that does not depend on the epoch is computed here, while the previous kernel still runs.
  ARBITER_DEVICE Push(const Arguments& a, const Arguments& constants_) : arguments(a), constants(constants_) {
    slot_stride = pinned(grid_blocks() * config::threads * static_cast<unsigned>(sizeof(Vector)));
    buffer_stride = pinned(a.push_stride);
    iterations_per_epoch = pinned(a.push_iterations);
    first_place = pinned(a.push_offset + (block_index() * config::threads + thread_index()) *
                                             static_cast<unsigned>(sizeof(Vector)));
    if (kMulticast) multicast = pinned(a.multicast);
  }

  ARBITER_DEVICE void begin(unsigned first) {
    epoch = first;
    place = first_place + static_cast<unsigned long long>(first % push_buffers) * buffer_stride;
  }
  // The epoch that the next launch begins with.
  ARBITER_DEVICE unsigned behind(unsigned first) const { return first + constants.push_epochs; }
  // The next iteration's slots. With a new epoch comes the fence.
  ARBITER_DEVICE void advance() {
    if (++in_epoch == iterations_per_epoch) {
      in_epoch = 0;
      fence_system();
      begin(epoch + 1);
    } else {
      place += static_cast<unsigned long long>(slot_stride) * iteration_slots;
    }
  }

  ARBITER_DEVICE void step_to(const Push& next) {
    place = next.place;
    epoch = next.epoch;
    in_epoch = next.in_epoch;
  }

  static constexpr bool by_multicast(unsigned leg) { return kMulticast && leg == kLegs - 1; }
  static constexpr bool comes_by_link(unsigned leg, unsigned sender) { return sender != kRank || by_multicast(leg); }

  ARBITER_DEVICE unsigned long long slot(unsigned leg, unsigned receiver, unsigned sender, unsigned k) const {
    const unsigned column = by_multicast(leg) || sender < receiver ? sender : sender - 1;
    const unsigned index = leg * leg_slots + column * config::vectors + k;
    return place + static_cast<unsigned long long>(index) * slot_stride;
  }
  ARBITER_DEVICE void send(unsigned leg, unsigned peer, unsigned k, const Vector& sanitised_vector) const {
    store_shared_vector(arguments.workspace[peer] + slot(leg, peer, kRank, k), sanitised_vector);
  }
  // To every peer.
  ARBITER_DEVICE void broadcast(unsigned k, const Vector& sanitised_vector) const {
    constexpr unsigned leg = kLegs - 1;
    if (kMulticast) {
      store_multicast(multicast + slot(leg, kRank, kRank, k), sanitised_vector);
      return;
    }
#pragma unroll
    for (unsigned distance = 1; distance < config::world; ++distance) {
      send(leg, (kRank + distance) % config::world, k, sanitised_vector);
    }
  }
  ARBITER_DEVICE Vector poll(unsigned leg, unsigned peer, unsigned k) const {
    return load_polled(arguments.workspace[kRank] + slot(leg, kRank, peer, k));
  }

  // Fill data[r] with what peer r has sent, for every peer that is wanted, and re-arm those slots; the own rank is left
  // alone unless its vector comes by multicast. All slots are polled together, so that the wait is one round trip and not one per peer.
  ARBITER_DEVICE void receive(unsigned leg, unsigned k, const bool (&wanted)[config::world],
                              Vector (&data)[config::world], Wait& wait) const {
    unsigned waited_for = 0;
    bool missing;
    wait.polls = 0;
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) {
      if (comes_by_link(leg, r) && wanted[r]) data[r] = sentinel();
    }
    do {
      missing = false;
#pragma unroll
      for (unsigned r = 0; r < config::world; ++r) {
        if (comes_by_link(leg, r) && wanted[r] && !arrived(data[r])) data[r] = poll(leg, r, k);
      }
#pragma unroll
      for (unsigned r = 0; r < config::world; ++r) {
        if (!comes_by_link(leg, r) || !wanted[r] || arrived(data[r])) continue;
        missing = true;
        waited_for = r;
      }
    } while (missing && !wait.given_up &&
             !expired<kRank>(constants, wait, waited_for, leg == 0 ? phase_push : phase_broadcast, epoch));
    // Ordered before a peer's next store to the same slots by the fence or the end of the kernel: an ordinary store.
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) {
      if (!comes_by_link(leg, r) || !wanted[r]) continue;
      store_symmetric_local(arguments.workspace[kRank] + slot(leg, kRank, r, k), sentinel());
    }
  }
};
// Reductions over a row. Sums are taken in an order that depends on nothing but the hidden size: first the elements of a vector, then 32
// consecutive vectors (one warp) as a binary tree, then those partial sums as a binary tree. Batch, block, cluster and
// algorithm do not change a bit.

constexpr unsigned partials = (config::row_vectors + 31) / 32;
constexpr unsigned warps = config::threads / 32;
constexpr unsigned round_up_power(unsigned n) {
  unsigned p = 32;
  while (p < n) p *= 2;
  return p;
}
constexpr unsigned tree_width = round_up_power(partials);

ARBITER_DEVICE float warp_sum(float x) {
#pragma unroll
  for (unsigned mask = 16; mask != 0; mask /= 2) x = add(x, shuffle_xor(x, mask));
  return x;
}

// The tree over the partial sums: leaf i is added to leaf i + width / 2, until one is left. Absent leaves are 0.
// (One thread reading all of them was up to 3 us slower: a thousand threads, 32 loads each.)
ARBITER_DEVICE float partial_tree(const float* leaves) {
  const unsigned lane = thread_index() % 32;
  float leaf[tree_width / 32];
#pragma unroll
  for (unsigned i = 0; i < tree_width / 32; ++i)
    leaf[i] = lane + 32 * i < partials ? load_shared(leaves + lane + 32 * i) : 0.0f;
#pragma unroll
  for (unsigned width = tree_width / 64; width != 0; width /= 2) {
#pragma unroll
    for (unsigned i = 0; i < width; ++i) leaf[i] = add(leaf[i], leaf[i + width]);
  }
  return warp_sum(leaf[0]);
}

// Call first in a kernel that reduces rows: shared memory of another block may be written only once that block runs.
ARBITER_DEVICE void row_reductions_begin() {
  if (config::cluster == 1) return;
  if (thread_index() == 0) gather_init(warps);
  cluster_arrive();
}

constexpr unsigned partial_stride = (partials + 3) / 4 * 4;
// Floats of shared memory for reductions of kRows rows, the gather's included.
constexpr unsigned reduction_floats(unsigned rows) { return gather_bytes / 4 + 2 * rows * partial_stride; }

// Makes the warps' partial results known to every thread of the cluster: partial(row, k), equal in all threads of a warp,
// for its first kParts vectors. Returns where row 0's are; row i's lie i * partial_stride behind, in order of columns.
// Every thread of the cluster calls this; `round` counts the calls of the launch. Dynamic shared memory: gather_bytes if a
// row is spread over a cluster, then two buffers of kRows rows, used in turn: whoever writes to one again has passed the
// other one's barrier, so everybody has read it.
template <unsigned kRows, unsigned kParts, class Partial>
ARBITER_DEVICE const float* share_partials(unsigned round, const Partial& partial) {
  constexpr unsigned most = kParts * warps * config::cluster, shared = partials < most ? partials : most;
  const unsigned which = round & 1u;
  float* buffer = shared_floats() + (config::cluster == 1 ? 0 : gather_bytes / 4) + which * (kRows * partial_stride);
  const unsigned lane = thread_index() % 32, warp = thread_index() / 32;
  if (config::cluster != 1 && round == 0) cluster_wait();
#pragma unroll
  for (unsigned row = 0; row < kRows; ++row) {
#pragma unroll
    for (unsigned k = 0; k < kParts; ++k) {
      const float mine = partial(row, k);
      const unsigned index = (k * config::cluster + rank_in_cluster()) * warps + warp;
      if (index >= partials) continue;
      if (config::cluster == 1) {
        if (lane == 0) buffer[row * partial_stride + index] = mine;
      } else {
        if (lane < config::cluster) gather_send(which, buffer + row * partial_stride + index, lane, mine);
      }
    }
  }
  if (config::cluster == 1) {
    block_barrier();
  } else {
    if (lane == 0) gather_arrive(which, warp == 0 ? kRows * shared * 4 : 0);
    gather_wait(which, round / 2);
  }
  return buffer;
}

// Sums of kRows rows at once: in[row][k] is this thread's sum over its k-th vector (0 where it has none).
template <unsigned kRows>
ARBITER_DEVICE void row_sums(float (&in)[kRows][config::vectors], float (&out)[kRows], unsigned round) {
  const float* leaves =
      share_partials<kRows, config::vectors>(round, [&](unsigned row, unsigned k) { return warp_sum(in[row][k]); });
#pragma unroll
  for (unsigned row = 0; row < kRows; ++row) out[row] = partial_tree(leaves + row * partial_stride);
}

// The same for maxima, in any order.
template <unsigned kRows>
ARBITER_DEVICE void row_maxima(const unsigned (&in)[kRows][config::vectors], unsigned (&out)[kRows], unsigned round) {
  constexpr unsigned most = warps * config::cluster, shared = partials < most ? partials : most;
  const float* leaves = share_partials<kRows, 1>(round, [&](unsigned row, unsigned) {
    unsigned mine = in[row][0];
#pragma unroll
    for (unsigned k = 1; k < config::vectors; ++k) mine = in[row][k] > mine ? in[row][k] : mine;
    return bits_to_float(warp_max(mine));
  });
  const unsigned lane = thread_index() % 32;
#pragma unroll
  for (unsigned row = 0; row < kRows; ++row) {
    unsigned largest = 0;
#pragma unroll
    for (unsigned i = 0; i < (shared + 31) / 32; ++i) {
      if (lane + 32 * i >= shared) continue;
      const unsigned leaf = float_to_bits(load_shared(leaves + row * partial_stride + lane + 32 * i));
      largest = leaf > largest ? leaf : largest;
    }
    out[row] = warp_max(largest);
  }
}

// --- what a rank contributes -------------------------------------------------------------------------------------
// What this rank contributes: the sum over the top k permuted rows of a token of weight * row, then the optional shared
// expert. A map entry that names no row (-1) is skipped.
// What MoE prologues share: a weighted sum of rows, in fp32 and in order from +0, rounded once.

ARBITER_DEVICE float moe_weight(const Arguments& arguments, unsigned index) {
  if (arguments.moe_weights_fp32 != 0) return load_float(static_cast<const float*>(arguments.moe_weights) + index);
  return fp16_lo(load_short(static_cast<const unsigned short*>(arguments.moe_weights) + index));
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

ARBITER_DEVICE Vector contribution(const Arguments& arguments, unsigned row, unsigned col) {
  const auto place = [&](unsigned j) { return row * arguments.moe_count + j; };
  const auto source = [&](unsigned j) {
    const unsigned index = load_word(reinterpret_cast<const unsigned*>(arguments.moe_row_map) + place(j));
    return index < arguments.moe_rows ? index : no_row;
  };
  return weighted_sum(arguments, row, col, source, place);
}

// --- what follows the sum ----------------------------------------------------------------------------------------
// gamma, in the dtype of the message or in fp32. It is requested before the wait for the peers and kept as one vector; of
// an fp32 gamma with two vectors that is the first, and the other one is in the cache by the time it is needed.
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

  // Calls use(weights of the k-th vector). There is one copy of it for each type: values that may be either would need
  // registers of their own.
  template <class Use>
  ARBITER_DEVICE void apply(const Arguments& arguments, unsigned k, const Use& use) const {
    if (wide_vectors == 1 || arguments.gamma_fp32 == 0) {
      use(unpack(gamma[k]));
      return;
    }
    const Vector part[2] = {gamma[k], load_cached(place(arguments, k, 1, wide_vectors))};
    Values w;
#pragma unroll
    for (unsigned e = 0; e < elements; ++e) w.at[e] = bits_to_float(part[e / 4].word[e % 4]);
    use(w);
  }
};
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
      if (wanted<1>(arguments.residual_out))
        store(vector_at(arguments.residual_out, row[i], column(k)), x[i][k]);
    }
  }
}

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
          if (wanted<1>(arguments.norm_out))
            store(vector_at(arguments.norm_out, row[i], column(k)), x[i][k]);
        });
      }
    }
  }
};

// What quantisations share.

// The magnitude of a value as an integer. Integers of magnitudes are ordered as the magnitudes are, and NaN is above all.
ARBITER_DEVICE unsigned magnitude(float x) { return float_to_bits(x) & 0x7fffffffu; }
ARBITER_DEVICE unsigned larger(unsigned a, unsigned b) { return a > b ? a : b; }

// The largest magnitude of a vector, as that of an fp32.
ARBITER_DEVICE unsigned peak_of(const Vector& v) {
  // The same holds for 16 bits, and a wider type keeps the order.
  const unsigned halves = larger_halves(larger_halves(v.word[0] & 0x7fff7fffu, v.word[1] & 0x7fff7fffu),
                                        larger_halves(v.word[2] & 0x7fff7fffu, v.word[3] & 0x7fff7fffu));
  return float_to_bits(fp16_hi(larger_halves(halves, bytes_of(halves, halves, 0x1032))));
}

// x * inverse as FP8, one byte an element.
ARBITER_DEVICE void store_e4m3(const Arguments& arguments, unsigned row, unsigned col, const Values& scaled) {
  unsigned word[elements / 4];
#pragma unroll
  for (unsigned i = 0; i < elements / 4; ++i) {
    word[i] = pack_e4m3(scaled.at[4 * i], scaled.at[4 * i + 1]) |
              pack_e4m3(scaled.at[4 * i + 2], scaled.at[4 * i + 3]) << 16;
  }
  unsigned char* place =
      static_cast<unsigned char*>(arguments.quant_out) + static_cast<unsigned long long>(vector_index(row, col)) * elements;
  if (elements == 8) {
    store_pair(place, word[0], word[elements / 4 - 1]);
  } else {
    store_word(reinterpret_cast<unsigned*>(place), word[0]);
  }
}

ARBITER_DEVICE Values scaled(const Values& x, float factor) {
  Values y;
#pragma unroll
  for (unsigned e = 0; e < elements; ++e) y.at[e] = multiply(x.at[e], factor);
  return y;
}

// The largest magnitude of every vector of a thread; 0 where it has none.
template <unsigned kRows>
ARBITER_DEVICE void vector_peaks(const Arguments& arguments, const unsigned (&row)[kRows],
                                 const Vector (&x)[kRows][config::vectors], unsigned (&peak)[kRows][config::vectors]) {
#pragma unroll
  for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
    for (unsigned k = 0; k < config::vectors; ++k) {
      const unsigned largest = peak_of(x[i][k]);
      peak[i][k] = in_message(arguments, row[i], column(k)) ? largest : 0u;
    }
  }
}

// Who writes the padding of scales: the threads of the blocks that have no row if there are any, otherwise all threads.
// This one's work is first, first + step, ...
struct PaddingBlocks {
  unsigned first, step;
  ARBITER_DEVICE explicit PaddingBlocks(const Arguments& arguments) {
    const unsigned busy = arguments.rows * config::cluster, idle_from = grid_blocks() > busy ? busy : 0u;
    first = block_index() < idle_from ? 0xffffffffu : (block_index() - idle_from) * config::threads + thread_index();
    step = (grid_blocks() - idle_from) * config::threads;
  }
};

// NVFP4: e2m1 with an e4m3 scale for every 16 elements (two vectors of neighbouring threads), relative to a global scale.
struct Quantisation {
  static constexpr unsigned reductions = 0;
  static constexpr unsigned columns = config::hidden / 16;     // scales of a row
  static constexpr unsigned padded_columns = (columns + 3) / 4 * 4;   // in tiles
  static constexpr unsigned tile_rows = 8;          // 1: no tiles
  float global_scale;
  bool plain;  // the global scale is of a size that needs no care

  // Where the scales of a row's columns c, a multiple of 4, and the three behind it are, if they are in tiles.
  ARBITER_DEVICE static unsigned char* tile_place(const Arguments& arguments, unsigned row, unsigned c) {
    const unsigned inside = tile_rows == 128 ? row % 32 * 16 + row % 128 / 32 * 4 : row % tile_rows * 4;
    return static_cast<unsigned char*>(arguments.scale_out) +
           static_cast<unsigned long long>(row / tile_rows) * (padded_columns * tile_rows) + inside + c * tile_rows;
  }

  ARBITER_DEVICE void prepare(const Arguments& arguments) {
    global_scale = load_float(arguments.scale_in);
    plain = divides_plainly(global_scale);
    const unsigned tail = arguments.rows % tile_rows;
    if (tail == 0) return;
    // Rows up to the next multiple of the tile's are padding. It is written 16 bytes at a time where they all are: the
    // rows r, r + 32, r + 64 and r + 96 of a tile of 128 lie together, and so do four rows of a tile of 8.
    constexpr unsigned together = 4, step = tile_rows == 128 ? 32 : 1, units = tile_rows / together;
    const PaddingBlocks blocks(arguments);
    for (unsigned i = blocks.first; i < units * (padded_columns / 4); i += blocks.step) {
      const unsigned first = (i % units) * (step == 1 ? together : 1u);  // row within the tile
      unsigned char* place = tile_place(arguments, arguments.rows - tail + first, i / units * 4);
      if (first >= tail) {
        store(place, zero_vector());
        continue;
      }
#pragma unroll
      for (unsigned r = 1; r < together; ++r)
        if (first + r * step >= tail) store_word(reinterpret_cast<unsigned*>(place) + r, 0u);
    }
  }

  ARBITER_DEVICE static void store_scale(const Arguments& arguments, unsigned row, unsigned c, unsigned scale) {
    if (tile_rows == 1) {
      store_byte(static_cast<unsigned char*>(arguments.scale_out) + static_cast<unsigned long long>(row) * columns + c, scale);
      return;
    }
    unsigned char* place = tile_place(arguments, row, c / 4 * 4);
    store_byte(place + c % 4, scale);
    if (c == columns - 1) {
#pragma unroll
      for (unsigned pad = columns % 4; pad % 4 != 0; ++pad) store_byte(place + pad, 0u);
    }
  }

  // What the elements of a group with this scale are multiplied by.
  ARBITER_DEVICE float inverse_of(unsigned scale) const {
    const unsigned code = scale & 0x7fu;
    const float value = e4m3_value(code);
    if (plain && scale - 1u < 0x7eu) return plain_quotient(global_scale, value);
    if (code == 0u) return 0.0f;
    return code == 0x7fu ? bits_to_float(0x7fffffffu) : divide(global_scale, scale == code ? value : -value);
  }

  // x * inverse as eight e2m1; `peak` is the largest magnitude.
  ARBITER_DEVICE static unsigned quantised(const Vector& x, float inverse, unsigned peak) {
    if (converts_to_e2m1) return pack_e2m1(scaled(unpack(x), inverse).at);
    Values magnitude = unpack(x);
#pragma unroll
    for (unsigned e = 0; e < elements; ++e) magnitude.at[e] = multiply(absolute(magnitude.at[e]), inverse);
    // The signs of the even elements lie in byte 1 of every word, those of the odd ones in byte 3.
    const unsigned even = bytes_of(bytes_of(x.word[0], x.word[1], 0x51), bytes_of(x.word[2], x.word[3], 0x51), 0x5410);
    const unsigned odd = bytes_of(bytes_of(x.word[0], x.word[1], 0x73), bytes_of(x.word[2], x.word[3], 0x73), 0x5410);
    const unsigned signs = (odd & 0x80808080u) | (even >> 4 & 0x08080808u);
    return e2m1_codes(magnitude.at, signs, multiply(bits_to_float(peak), inverse) < 7.0f);
  }

  template <unsigned kRows>
  ARBITER_DEVICE void apply(const Arguments& arguments, const unsigned (&row)[kRows],
                            const Vector (&x)[kRows][config::vectors], unsigned) {
    unsigned peak[kRows][config::vectors];
    vector_peaks(arguments, row, x, peak);
#pragma unroll
    for (unsigned i = 0; i < kRows; ++i) {
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) {
        const unsigned largest = larger(peak[i][k], shuffle_xor(peak[i][k], 1));
        if (!in_message(arguments, row[i], column(k))) continue;
        const unsigned scale = pack_e4m3(multiply(global_scale, multiply(bits_to_float(largest), 1.0f / 6.0f)), 0.0f) & 0xffu;
        const unsigned col = column(k);
        store_word(static_cast<unsigned*>(arguments.quant_out) + vector_index(row[i], col),
                   quantised(x[i][k], inverse_of(scale), largest));
        if (col % 2 == 0) store_scale(arguments, row[i], col / 2, scale);
      }
    }
  }
};

// What follows the sum, stage by stage: residual, norm, quantisation. A row goes from one to the next as vectors that are
// rounded as if they had been written and read back, so the result is that of the separate operations.
template <unsigned kRows>
struct Epilogue {
  // Reductions over a row in one iteration, in order of execution: they share two buffers in turn.
  static constexpr unsigned reductions = Norm::reductions + Quantisation::reductions;

  Vector x[kRows][config::vectors];
  Norm norm;
  Quantisation quantisation;

  // First thing in the kernel.
  ARBITER_DEVICE void begin() {
    if (reductions != 0) row_reductions_begin();
  }

  // Once per launch, after the inputs may be read.
  ARBITER_DEVICE void prepare(const Arguments& arguments) {
    norm.prepare(arguments);
    quantisation.prepare(arguments);
  }

  // Once per iteration, before the wait for the peers.
  ARBITER_DEVICE void prefetch(const Arguments& arguments, const unsigned (&row)[kRows]) {
    prefetch_residual(arguments, row, x);
  }

  ARBITER_DEVICE void apply(const Arguments& arguments, const unsigned (&row)[kRows],
                            const Vector (&sum)[kRows][config::vectors], unsigned iteration) {
    add_residual(arguments, row, sum, x);
    norm.apply(arguments, row, x, iteration * reductions);
    quantisation.apply(arguments, row, x, iteration * reductions + Norm::reductions);
  }
};

// --- how the ranks exchange data ----------------------------------------------------------------------------------
// The epilogue alone, on an input that is already the sum.
template <unsigned kRank>
ARBITER_DEVICE void run(const Arguments& arguments) {
  Epilogue<1> epilogue;
  epilogue.begin();
  if (config::early_trigger == 2) grid_dependency_trigger();
  grid_dependency_wait();
  if (config::early_trigger == 1) grid_dependency_trigger();

  const auto row_of = [&](unsigned iteration) { return cluster_index() + iteration * grid_clusters(); };
  Vector following[config::vectors];
  const auto read = [&](unsigned iteration) {
#pragma unroll
    for (unsigned k = 0; k < config::vectors; ++k) {
      if (in_message(arguments, row_of(iteration), column(k)))
        following[k] = contribution(arguments, row_of(iteration), column(k));
    }
  };

  const auto prefetch = [&](unsigned iteration) {
    const unsigned row[1] = {row_of(iteration)};
    epilogue.prefetch(arguments, row);
  };

  // What the next row needs is on its way before anything waits for it. What a prologue reads does not fit in registers
  // beside the current row.
  constexpr bool ahead = !config::prologue;
  if (ahead) {
    read(0);
    prefetch(0);
  }
  epilogue.prepare(arguments);
  for (unsigned iteration = 0; iteration < arguments.iterations; ++iteration) {
    if (!ahead) {
      prefetch(iteration);
      read(iteration);
    }
    Vector sum[1][config::vectors];
#pragma unroll
    for (unsigned k = 0; k < config::vectors; ++k) sum[0][k] = following[k];
    const bool more = ahead && iteration + 1 < arguments.iterations;
    if (more) read(iteration + 1);
    const unsigned row[1] = {row_of(iteration)};
    epilogue.apply(arguments, row, sum, iteration);
    if (more) prefetch(iteration + 1);
  }
}

extern "C" void arbiter_kernel_rank0(const void* arguments) { run<0>(*static_cast<const Arguments*>(arguments)); }
