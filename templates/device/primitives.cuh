// Device primitives: everything that is not plain C++ on a GPU. Inline PTX lives here and nowhere else.
// host/primitives.h offers the same names to the CPU device.

#define ARBITER_DEVICE __device__ __forceinline__
#define ARBITER_COLD __device__ __noinline__

struct alignas(16) Vector {
  unsigned word[4];
};

// --- where this thread is ---------------------------------------------------------------------------------------
ARBITER_DEVICE unsigned thread_index() { return threadIdx.x; }
ARBITER_DEVICE unsigned block_index() { return blockIdx.x; }
ARBITER_DEVICE unsigned grid_blocks() { return gridDim.x; }
ARBITER_DEVICE unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// --- plain memory -----------------------------------------------------------------------------------------------
ARBITER_DEVICE Vector load(const void* address) {
  Vector v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(address)
               : "memory");
  return v;
}
// For what is loaded again, or whose neighbour is: it stays in the cache of the multiprocessor.
ARBITER_DEVICE Vector load_cached(const void* address) {
  Vector v;
  asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(address)
               : "memory");
  return v;
}
ARBITER_DEVICE void store(void* address, const Vector& v) {
  asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(address), "r"(v.word[0]), "r"(v.word[1]), "r"(v.word[2]),
               "r"(v.word[3])
               : "memory");
}
ARBITER_DEVICE unsigned load_word(const unsigned* address) {
  unsigned v;
  asm volatile("ld.global.u32 %0, [%1];" : "=r"(v) : "l"(address) : "memory");
  return v;
}
ARBITER_DEVICE void store_word(unsigned* address, unsigned v) {
  asm volatile("st.global.u32 [%0], %1;" ::"l"(address), "r"(v) : "memory");
}
ARBITER_DEVICE unsigned load_short(const unsigned short* address) {
  unsigned short v;
  asm volatile("ld.global.u16 %0, [%1];" : "=h"(v) : "l"(address) : "memory");
  return v;
}
ARBITER_DEVICE float load_float(const float* address) {
  float v;
  asm volatile("ld.global.f32 %0, [%1];" : "=f"(v) : "l"(address) : "memory");
  return v;
}
ARBITER_DEVICE void store_float(float* address, float v) {
  asm volatile("st.global.f32 [%0], %1;" ::"l"(address), "f"(v) : "memory");
}
ARBITER_DEVICE void store_pair(void* address, unsigned lo, unsigned hi) {
  asm volatile("st.global.v2.u32 [%0], {%1,%2};" ::"l"(address), "r"(lo), "r"(hi) : "memory");
}
ARBITER_DEVICE void store_short(void* address, unsigned v) {
  asm volatile("st.global.u16 [%0], %1;" ::"l"(address), "h"(static_cast<unsigned short>(v)) : "memory");
}
ARBITER_DEVICE void store_byte(unsigned char* address, unsigned v) {
  asm volatile("st.global.u8 [%0], %1;" ::"l"(address), "r"(v) : "memory");
}

// --- memory shared with peers -----------------------------------------------------------------------------------
// A vector that a peer stores: each 32-bit word is read whole; nothing is promised about all four together.
ARBITER_DEVICE Vector load_polled(const void* address) {
  Vector v;
  asm volatile("ld.relaxed.sys.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(address)
               : "memory");
  return v;
}
// A store into the own part of shared memory that a peer touches only after a fence or after the kernel.
ARBITER_DEVICE void store_symmetric_local(void* address, const Vector& v) { store(address, v); }
// A store that a peer polls.
ARBITER_DEVICE void store_shared_vector(void* address, const Vector& v) {
  asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(address), "r"(v.word[0]), "r"(v.word[1]),
               "r"(v.word[2]), "r"(v.word[3])
               : "memory");
}
ARBITER_DEVICE unsigned load_acquire(const unsigned* address) {
  unsigned v;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(address) : "memory");
  return v;
}
ARBITER_DEVICE unsigned load_relaxed(const unsigned* address) {
  unsigned v;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(address) : "memory");
  return v;
}
ARBITER_DEVICE void store_release(unsigned* address, unsigned v) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(address), "r"(v) : "memory");
}
ARBITER_DEVICE void store_relaxed(unsigned* address, unsigned v) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(address), "r"(v) : "memory");
}
ARBITER_DEVICE unsigned long long load_relaxed(const unsigned long long* address) {
  unsigned long long v;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(address) : "memory");
  return v;
}
ARBITER_DEVICE void store_relaxed(unsigned long long* address, unsigned long long v) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(address), "l"(v) : "memory");
}
ARBITER_DEVICE unsigned exchange(unsigned* address, unsigned v) { return atomicExch(address, v); }
// Adds 1, without waiting for what was there.
ARBITER_DEVICE void count_up(unsigned* address) {
  asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(address) : "memory");
}
ARBITER_DEVICE void fence_system() { asm volatile("fence.acq_rel.sys;" ::: "memory"); }

// Between what a thread does to memory through its multicast address and what anybody does through another address of
// it, on both sides of the synchronisation between them.
ARBITER_DEVICE void fence_aliases() { asm volatile("fence.proxy.alias;" ::: "memory"); }
// Multicast memory (SM 90 and an NVLink switch). A store that peers poll, to the same place on all ranks. Bits are
// stored as they are: the type only says how wide a vector is.
ARBITER_DEVICE void store_multicast(void* address, const Vector& v) {
  asm volatile("multimem.st.relaxed.sys.global.v4.f32 [%0], {%1,%2,%3,%4};" ::"l"(address),
               "f"(__uint_as_float(v.word[0])), "f"(__uint_as_float(v.word[1])), "f"(__uint_as_float(v.word[2])),
               "f"(__uint_as_float(v.word[3]))
               : "memory");
}
// The sum of what lies there on all ranks: added in fp32 in the order of the switch, and rounded once.
ARBITER_DEVICE Vector load_reduced_fp32(const void* address) {
  float x[4];
  asm volatile("multimem.ld_reduce.relaxed.sys.global.add.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
               : "l"(address)
               : "memory");
  Vector v;
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) v.word[i] = __float_as_uint(x[i]);
  return v;
}
ARBITER_DEVICE Vector load_reduced_bf16(const void* address) {
  Vector v;
  asm volatile("multimem.ld_reduce.relaxed.sys.global.add.acc::f32.v4.bf16x2 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(address)
               : "memory");
  return v;
}
ARBITER_DEVICE Vector load_reduced_fp16(const void* address) {
  Vector v;
  asm volatile("multimem.ld_reduce.relaxed.sys.global.add.acc::f32.v4.f16x2 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(address)
               : "memory");
  return v;
}

// The value, computed by now: the compiler may not move the work behind the next wait.
ARBITER_DEVICE unsigned in_register(unsigned v) {
  asm volatile("" : "+r"(v));
  return v;
}
ARBITER_DEVICE unsigned long long in_register(unsigned long long v) {
  asm volatile("" : "+l"(v));
  return v;
}
template <class T>
ARBITER_DEVICE T* in_register(T* address) {
  return reinterpret_cast<T*>(in_register(reinterpret_cast<unsigned long long>(address)));
}

// --- order between kernels --------------------------------------------------------------------------------------
ARBITER_DEVICE void grid_dependency_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
ARBITER_DEVICE void grid_dependency_trigger() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// --- threads of a block and of a cluster ------------------------------------------------------------------------
ARBITER_DEVICE void block_barrier() { __syncthreads(); }
// Orders nothing but what gather_init() fenced: a release would wait for every store of the thread, on all GPUs.
ARBITER_DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory"); }
ARBITER_DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
ARBITER_DEVICE float shuffle_xor(float v, unsigned mask) {
  return __shfl_xor_sync(0xffffffffu, v, static_cast<int>(mask));
}
ARBITER_DEVICE unsigned shuffle_xor(unsigned v, unsigned mask) {
  return __shfl_xor_sync(0xffffffffu, v, static_cast<int>(mask));
}
// The largest value of the 32 threads of a warp.
ARBITER_DEVICE unsigned warp_max(unsigned v) { return __reduce_max_sync(0xffffffffu, v); }
ARBITER_DEVICE float* shared_floats() {
  extern __shared__ __align__(16) float arbiter_shared[];
  return arbiter_shared;
}
ARBITER_DEVICE float load_shared(const float* address) { return *address; }
// The word becomes v if that is larger, whoever else does the same.
ARBITER_DEVICE void shared_max(unsigned* address, unsigned v) { atomicMax(address, v); }

// A gather of floats into the shared memory of every block of a cluster: cheaper than stores and a cluster barrier,
// because the data carries its own completion. Two of them alternate; each lives in the first 16 bytes of the dynamic
// shared memory. Every warp arrives once in every round, so that nobody can be a round behind unnoticed.
constexpr unsigned gather_bytes = 16;
ARBITER_DEVICE unsigned gather_object(unsigned which) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared_floats())) + 8 * which;
}
// By one thread, before cluster_arrive().
ARBITER_DEVICE void gather_init(unsigned warps) {
  for (unsigned which = 0; which < 2; ++which)
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(gather_object(which)), "r"(warps) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// Store `v` where `address` is in block `rank` of the cluster.
ARBITER_DEVICE void gather_send(unsigned which, float* address, unsigned rank, float v) {
  const unsigned local = static_cast<unsigned>(__cvta_generic_to_shared(address));
  unsigned remote, object;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(local), "r"(rank));
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(object) : "r"(gather_object(which)), "r"(rank));
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(remote),
               "r"(__float_as_uint(v)), "r"(object)
               : "memory");
}
// By one thread of every warp; `bytes` that will arrive in this block, named by exactly one of them (0 by the others).
ARBITER_DEVICE void gather_arrive(unsigned which, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(gather_object(which)), "r"(bytes)
               : "memory");
}
// `round`: how often this gather has completed before.
ARBITER_DEVICE void gather_wait(unsigned which, unsigned round) {
  unsigned done = 0;
  while (done == 0) {
    asm volatile(
        "{.reg .pred p; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
        : "=r"(done)
        : "r"(gather_object(which)), "r"(round & 1u)
        : "memory");
  }
}

// --- time -------------------------------------------------------------------------------------------------------
ARBITER_DEVICE unsigned long long now_ns() {
  unsigned long long t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}
ARBITER_DEVICE void poll_pause() {}

// --- arithmetic whose rounding is fixed -------------------------------------------------------------------------
ARBITER_DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
ARBITER_DEVICE float multiply(float a, float b) { return __fmul_rn(a, b); }
// a * b + c, rounded once.
ARBITER_DEVICE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
ARBITER_DEVICE float divide(float a, float b) { return __fdiv_rn(a, b); }
ARBITER_DEVICE float reciprocal(float x) { return __frcp_rn(x); }
// 1 / x, not rounded in any particular way.
ARBITER_DEVICE float reciprocal_estimate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
ARBITER_DEVICE float absolute(float x) { return fabsf(x); }
ARBITER_DEVICE float reciprocal_sqrt(float x) { return rsqrtf(x); }
ARBITER_DEVICE float bits_to_float(unsigned bits) { return __uint_as_float(bits); }
ARBITER_DEVICE unsigned float_to_bits(float x) { return __float_as_uint(x); }

// Two 16-bit values of one word; `lo` is the one with the smaller index.
ARBITER_DEVICE float bf16_lo(unsigned word) { return __uint_as_float(word << 16); }
ARBITER_DEVICE float bf16_hi(unsigned word) { return __uint_as_float(word & 0xffff0000u); }
ARBITER_DEVICE unsigned pack_bf16(float lo, float hi) {
  unsigned word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(hi), "f"(lo));
  return word;
}
ARBITER_DEVICE float fp16_lo(unsigned word) {
  float x;
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(x) : "r"(word));
  return x;
}
ARBITER_DEVICE float fp16_hi(unsigned word) {
  float x;
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h;}" : "=f"(x) : "r"(word));
  return x;
}
ARBITER_DEVICE unsigned pack_fp16(float lo, float hi) {
  unsigned word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(hi), "f"(lo));
  return word;
}
// Four bytes of two words, each named by a hexadecimal digit of `which`, the lowest byte first: 0 to 3 are a's, 4 to 7
// b's.
ARBITER_DEVICE unsigned bytes_of(unsigned a, unsigned b, unsigned which) { return __byte_perm(a, b, which); }
