// trtllm/oneshot_push:cluster=1,early_trigger=1,multicast=0,threads=256,vectors=1 allreduce bf16 world=4
// Arbiter 0.1.0: trtllm/oneshot_push for allreduce. Every rank stores its vectors into a slot of every peer and sums what arrives.
// Rendered; edit the templates, not this text.

// What the host hands to every kernel, by value. The same text is compiled into kernels and into the runtime, so it
// includes nothing and uses only types that are the same on both sides.

namespace arbiter_abi {

constexpr unsigned max_world = 16;

// Largest grid of a kernel that keeps protocol state. Every block owns one epoch, advanced by every call.
constexpr unsigned max_blocks = 1280;

// How many calls of a communicator may wait for as long as Arguments::first_timeout_ns.
constexpr unsigned first_calls = 16;

// Written by the first thread that gives up; read by the host at any time (host-visible memory).
struct FaultRecord {
  unsigned state;         // 0: none, 1: a wait passed its deadline, 2: a peer asked to abort, 3: the messages of
                          // waiting_rank and waited_for are not of one length, 4: as 1, in the first calls
  unsigned waiting_rank;  // who waited
  unsigned waited_for;    // for whom
  unsigned block;
  unsigned thread;
  unsigned phase;  // 1: data of a peer, 2: result of a peer, 3: barrier
  unsigned epoch;
  unsigned vectors[2];  // of state 3: of waiting_rank's message, of waited_for's; filled in by the host
};

// Start of every rank's workspace. Behind it lie, for each protocol of the catalogue, its epochs (arrays of max_blocks
// words: what a block has passed) and its flags (the same for each of max_world ranks: written by rank r, its epoch for
// this block), and then the rotating buffers and the staging area.
// Zero-filled at creation.
struct Control {
  unsigned abort;     // not 0: give up waiting; set by whoever gave up first, on all ranks
  unsigned reported;  // not 0: a thread of this rank has written the fault record
  unsigned calls;     // launches so far, this one included once it waits; read by those who wait for long
  unsigned reserved[29];
  unsigned long long place[2][max_world];  // written by peer [r]: where its input and its output lie (pull.h)
  unsigned long long said[max_world];  // and: in which epoch of the barriers (upper half), of how many vectors (lower)
  unsigned lengths[max_world][3];      // written by peer [r]: a rank whose message has another length than r's; the
                                       // vectors of r's message, and of that rank's
};

// Rotating buffers of the push protocol, and the 32-bit word that means "nothing has arrived yet". It reads as -0 in
// fp32 and as (+0, -0) in a pair of 16-bit values, so replacing it by 0 in a payload changes no number. Buffers are
// filled with it at creation; whoever reads a word puts it back.
constexpr unsigned push_buffers = 4;
constexpr unsigned sentinel_word = 0x80000000u;

// Tensors are null where the pattern has none, and where the caller leaves out an optional one.
struct Arguments {
  const void* input;        // [rows, hidden] or a flat message, activation dtype; MoE: see prologues/
  void* output;             // the sum; may be input
  const void* residual_in;  // [rows, hidden]
  void* residual_out;       // [rows, hidden]
  const void* gamma;        // [hidden]
  void* norm_out;           // [rows, hidden]
  void* quant_out;          // [rows, hidden] bytes, or half of it
  const float* scale_in;    // one number
  void* scale_out;          // as the quantisation lays its scales out
  const void* moe_weights;  // [experts, rows] or [rows, top_k]
  const int* moe_row_map;   // [rows, top_k]: which row of input; -1 for none
  const void* moe_shared;   // [rows, hidden]: added last
  float epsilon;
  float weight_bias;          // the norm multiplies by (gamma + weight_bias)
  unsigned gamma_fp32;        // not 0: gamma is fp32, whatever the activation dtype
  unsigned moe_weights_fp32;  // not 0: moe_weights is fp32
  unsigned moe_count;         // experts, or top_k
  unsigned moe_rows;          // rows of input that moe_row_map may name
  unsigned rows;              // tokens for row patterns; rows of `row_vectors` (last one partial) for flat ones
  unsigned iterations;        // tiles of one cluster, equal for all clusters of the grid
  unsigned vectors;           // 16-byte vectors of the message: at most 64 GiB - 16
  unsigned push_epochs;       // epochs this launch uses: iterations / push_iterations, rounded up
  unsigned char* workspace[max_world];  // every rank's workspace as this rank addresses it; [rank] is local
  unsigned long long push_offset;       // first rotating buffer, bytes from the start of the workspace
  unsigned push_stride;                 // bytes of one rotating buffer, < 4 GiB
  unsigned push_iterations;             // iterations side by side in a rotating buffer: all, or at least 2
  unsigned long long staging_offset;    // data on the way to a sum; first half of the staging area
  unsigned long long results_offset;    // sums on the way to all; second half
  unsigned long long timeout_ns;        // deadline of one wait; 0 means none
  unsigned long long first_timeout_ns;  // the same for the first calls of a communicator
  FaultRecord* fault;
  unsigned char* workspace_at[max_world];  // this rank's workspace, input and output as rank r addresses them;
  unsigned char* input_at[max_world];      // null where no peer can
  unsigned char* output_at[max_world];
  // Multicast memory: a store goes to the same place on all ranks, a load adds up what is there.
  unsigned char* multicast;        // all workspaces; null without multicast
  unsigned char* multicast_input;  // null where the tensor does not lie in multicast memory
  unsigned char* multicast_output;
  unsigned long long input_id;  // equal on two ranks if their tensors lie at the same place; 0: not in multicast memory
  unsigned long long output_id;
};

}  // namespace arbiter_abi

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

using namespace arbiter_abi;

namespace config {
constexpr unsigned world = 4;
constexpr unsigned hidden = 0;       // elements of a row; 0 if the message is flat
constexpr unsigned row_vectors = 0;  // 16-byte vectors of a row; 0 if the message is flat
constexpr bool prologue = 0;         // a rank contributes something else than its input
constexpr bool quantised = 0;
constexpr unsigned control_arrays = 0;  // of other protocols, before those of this algorithm's
// What the caller may leave out.
constexpr bool output_optional = 0, residual_out_optional = 1, norm_out_optional = 1;
// Axes of the algorithm and numbers of the pattern's parts. All algorithms have `threads` (per block), `vectors` (per thread
// and row), `cluster` (blocks that share a row) and `early_trigger` (dependents may launch once the inputs are ready, not
// only at the end; they wait themselves).
constexpr unsigned threads = 256;
constexpr unsigned vectors = 1;
constexpr unsigned cluster = 1;
constexpr unsigned early_trigger = 1;
constexpr unsigned multicast = 0;
constexpr unsigned group = 0;
constexpr unsigned power_of_two = 0;
constexpr unsigned scale_tile_rows = 0;
// Code is fetched anew in every launch. Kernels that work on rows are long, so a launch of one iteration gets a path
// without the loop (0.1 us at one token on H200); it would only cost compile time elsewhere.
constexpr bool single_path = row_vectors != 0;
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
    x.at[2 * i] = bf16_lo(v.word[i]);
    x.at[2 * i + 1] = bf16_hi(v.word[i]);
  }
  return x;
}

// Rounds to nearest even, once.
ARBITER_DEVICE Vector pack(const Values& x) {
  Vector v;
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
    v.word[i] = pack_bf16(x.at[2 * i], x.at[2 * i + 1]);
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

// The sum as every algorithm returns it, and the numerics class rank_order_fp32: fp32 in rank order starting from +0,
// rounded once, sanitised.
ARBITER_DEVICE Vector rank_order_sum(const Vector (&of_rank)[config::world]) {
  Values total = zero();
#pragma unroll
  for (unsigned r = 0; r < config::world; ++r) total = plus(total, unpack(of_rank[r]));
  return sanitised(pack(total));
}

// The sum of another class: in fp32 in the order of the switch, rounded once.
ARBITER_DEVICE Vector load_reduced(const void* multicast_address) { return load_reduced_bf16(multicast_address); }
// The arguments in registers. Reading them is a miss of the constant cache in every launch; done before the grid
// dependency is waited for, it costs nothing.
ARBITER_DEVICE Arguments in_registers(const Arguments& arguments) {
  Arguments a = arguments;
  a.input = in_register(arguments.input);
  a.output = in_register(arguments.output);
  a.vectors = in_register(arguments.vectors);
  a.rows = in_register(arguments.rows);
  a.iterations = in_register(arguments.iterations);
#pragma unroll
  for (unsigned r = 0; r < config::world; ++r) a.workspace[r] = in_register(arguments.workspace[r]);
  if (config::row_vectors != 0) {
    a.residual_in = in_register(arguments.residual_in);
    a.residual_out = in_register(arguments.residual_out);
    a.gamma = in_register(arguments.gamma);
    a.norm_out = in_register(arguments.norm_out);
  }
  if (config::quantised) {
    a.quant_out = in_register(arguments.quant_out);
    a.scale_out = in_register(arguments.scale_out);
  }
  return a;
}

// Which thread handles which vector. A message is a list of rows; a cluster handles one row (or, with two-shot, one row
// per rank) in one iteration. A flat message is cut into rows of exactly one cluster's width.

constexpr unsigned cluster_width = config::threads * config::vectors * config::cluster;

ARBITER_DEVICE unsigned rank_in_cluster() { return config::cluster == 1 ? 0u : cluster_rank(); }
ARBITER_DEVICE unsigned cluster_index() { return block_index() / config::cluster; }
ARBITER_DEVICE unsigned grid_clusters() { return grid_blocks() / config::cluster; }

// A tile is what a cluster handles in one iteration: kRows rows. This is the r-th of them.
template <unsigned kRows>
ARBITER_DEVICE unsigned tile_row(unsigned iteration, unsigned r) {
  return (cluster_index() + iteration * grid_clusters()) * kRows + r;
}

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

// body(k) for every vector of the row that this thread has.
template <class Body>
ARBITER_DEVICE void each_vector(const Arguments& arguments, unsigned row, const Body& body) {
#pragma unroll
  for (unsigned k = 0; k < config::vectors; ++k) {
    if (in_message(arguments, row, column(k))) body(k);
  }
}

ARBITER_DEVICE const void* vector_at(const void* base, unsigned row, unsigned col) {
  return static_cast<const unsigned char*>(base) +
         static_cast<unsigned long long>(vector_index(row, col)) * sizeof(Vector);
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

// The control words of this algorithm's protocol in a rank's workspace: see Control.
ARBITER_DEVICE unsigned* control_array(const Arguments& arguments, unsigned rank, unsigned array) {
  return reinterpret_cast<unsigned*>(arguments.workspace[rank] + sizeof(Control)) +
         (config::control_arrays + array) * max_blocks;
}
ARBITER_DEVICE unsigned* epochs_of(const Arguments& arguments, unsigned rank) {
  return control_array(arguments, rank, 0);
}
// Flag array `number` of a protocol with one array of epochs, as rank `writer` writes it.
ARBITER_DEVICE unsigned* flags_of(const Arguments& arguments, unsigned rank, unsigned writer, unsigned number = 0) {
  return control_array(arguments, rank, 1 + number * max_world + writer);
}

// Every block owns one counter of protocol state; a call advances all of them, also those of blocks that did not run,
// so that the next call may have any grid. `epoch` is the value this block read.
ARBITER_DEVICE void advance_epochs(unsigned* epochs, unsigned epoch) {
  for (unsigned block = block_index() + grid_blocks() * thread_index(); block < max_blocks;
       block += grid_blocks() * config::threads)
    store_word(epochs + block, epoch);
}

// Once a launch, before its first wait: what says which deadline holds (watchdog.h). Nobody waits for the answer.
ARBITER_DEVICE void count_call(Control* control) {
  if (block_index() == 0 && thread_index() == 0) count_up(&control->calls);
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

// True when waiting makes no sense any more: the deadline has passed, or somebody else gave up. Which deadline holds is
// asked here and not by whoever launches, so that it is right for captured launches too. Kernels keep their registers
// over this call, so it uses few.
template <unsigned kRank>
ARBITER_COLD bool give_up(const Arguments& arguments, unsigned waited_for, unsigned phase, unsigned epoch,
                          unsigned long long waited_ns) {
  Control* control = reinterpret_cast<Control*>(arguments.workspace[kRank]);
  unsigned state = 2;
  if (load_acquire(&control->abort) == 0u) {
    state = load_relaxed(&control->calls) <= first_calls ? 0 : 1;
    const unsigned long long deadline = state == 0 ? arguments.first_timeout_ns : arguments.timeout_ns;
    if (deadline == 0 || waited_ns < deadline) return false;
  }
  if (exchange(&control->reported, 1u) == 0u) {
    FaultRecord* fault = arguments.fault;
    store_relaxed(&fault->waiting_rank, kRank);
    store_relaxed(&fault->waited_for, waited_for);
    store_relaxed(&fault->block, block_index());
    store_relaxed(&fault->thread, thread_index());
    store_relaxed(&fault->phase, phase);
    store_relaxed(&fault->epoch, epoch);
    store_release(&fault->state, state == 0 ? 4u : state);
    for (unsigned r = 0; r < config::world; ++r)
      store_relaxed(&reinterpret_cast<Control*>(arguments.workspace[r])->abort, 1u);
  }
  return true;
}

// The message of `peer` has another length than this rank's: nobody's sum can be right. All ranks get to know which two
// they are, and those that wait give up.
template <unsigned kRank>
ARBITER_COLD void report_lengths(const Arguments& arguments, unsigned peer, unsigned vectors, unsigned epoch) {
  if (exchange(&reinterpret_cast<Control*>(arguments.workspace[kRank])->reported, 1u) != 0u) return;
  for (unsigned r = 0; r < config::world; ++r) {
    Control* control = reinterpret_cast<Control*>(arguments.workspace[r]);
    store_relaxed(&control->lengths[kRank][0], peer);
    store_relaxed(&control->lengths[kRank][1], arguments.vectors);
    store_relaxed(&control->lengths[kRank][2], vectors);
    fence_system();
    store_release(&control->abort, 1u);
  }
  FaultRecord* fault = arguments.fault;
  store_relaxed(&fault->waiting_rank, kRank);
  store_relaxed(&fault->waited_for, peer);
  store_relaxed(&fault->block, block_index());
  store_relaxed(&fault->thread, thread_index());
  store_relaxed(&fault->phase, static_cast<unsigned>(phase_barrier));
  store_relaxed(&fault->epoch, epoch);
  store_release(&fault->state, 3u);
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

// --- what a rank contributes -------------------------------------------------------------------------------------
// What this rank contributes to the sum: its input.
ARBITER_DEVICE Vector contribution(const Arguments& arguments, unsigned row, unsigned col) {
  return load(vector_at(arguments.input, row, col));
}

// --- what follows the sum ----------------------------------------------------------------------------------------
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

// --- how the ranks exchange data ----------------------------------------------------------------------------------
// What algorithms do with whole tiles.

template <unsigned kRows>
ARBITER_DEVICE void tile_rows(unsigned iteration, unsigned (&row)[kRows]) {
#pragma unroll
  for (unsigned r = 0; r < kRows; ++r) row[r] = tile_row<kRows>(iteration, r);
}

// What this rank contributes to a tile.
template <unsigned kRows>
ARBITER_DEVICE void read_tile(const Arguments& arguments, unsigned iteration, Vector (&tile)[config::vectors][kRows]) {
#pragma unroll
  for (unsigned r = 0; r < kRows; ++r) {
    const unsigned row = tile_row<kRows>(iteration, r);
    each_vector(arguments, row, [&](unsigned k) { tile[k][r] = contribution(arguments, row, column(k)); });
  }
}

// Copies what this rank contributes to where peers can load it.
template <unsigned kRows>
ARBITER_DEVICE void stage_tiles(const Arguments& arguments, unsigned char* copy, unsigned iterations) {
  for (unsigned iteration = 0; iteration < iterations; ++iteration) {
    for (unsigned r = 0; r < kRows; ++r) {
      const unsigned row = tile_row<kRows>(iteration, r);
      each_vector(arguments, row, [&](unsigned k) {
        store_shared_vector(vector_at(copy, row, column(k)), contribution(arguments, row, column(k)));
      });
    }
  }
}

// The sum of a vector of which rank r's part lies in from(r).
template <class From>
ARBITER_DEVICE Vector load_and_sum(const From& from, unsigned row, unsigned col) {
  Vector of_rank[config::world];
#pragma unroll
  for (unsigned r = 0; r < config::world; ++r) of_rank[r] = load(vector_at(from(r), row, col));
  return rank_order_sum(of_rank);
}

// A vector to to(r) of every rank, from the own one on, so that the ranks do not all store to the same one.
template <unsigned kRank, class To>
ARBITER_DEVICE void store_to_all(const To& to, unsigned row, unsigned col, const Vector& v) {
#pragma unroll
  for (unsigned distance = 0; distance < config::world; ++distance)
    store_shared_vector(vector_at(to((kRank + distance) % config::world), row, col), v);
}

// What follows the sum, for iterations first to end - 1 of tiles with a row per rank whose sums lie at `results`: as
// many rows at once as the epilogue takes.
template <unsigned kRows>
ARBITER_DEVICE void finish_tiles(const Arguments& arguments, Epilogue<kRows>& epilogue, const unsigned char* results,
                                 unsigned first, unsigned end) {
  constexpr unsigned steps = config::world / kRows;
  for (unsigned iteration = first; iteration < end; ++iteration) {
    for (unsigned step = 0; step < steps; ++step) {
      unsigned row[kRows];
      Vector sum[kRows][config::vectors];
#pragma unroll
      for (unsigned i = 0; i < kRows; ++i) row[i] = tile_row<config::world>(iteration, step * kRows + i);
      epilogue.prefetch(arguments, row);
#pragma unroll
      for (unsigned i = 0; i < kRows; ++i)
        each_vector(arguments, row[i], [&](unsigned k) { sum[i][k] = load(vector_at(results, row[i], column(k))); });
      epilogue.apply(arguments, row, sum, iteration * steps + step);
    }
  }
}
// The push protocol: data is its own flag. A rank stores vectors into slots of a peer's rotating buffer; the owner of
// the slot polls its local copy until no word is the sentinel, takes the vector, and puts the sentinel back.
//
// An epoch is what goes through one rotating buffer: the iterations of a launch, up to `push_iterations` side by side.
// Nothing else is needed, because a slot is read and re-armed by one thread, and is stored to again only when the peer
// knows that this has happened:
// - Within a launch, a fence at the first store of an epoch orders everything re-armed so far before it. It waits for
// the
//   links and is expensive, so there is one an epoch and not one an iteration. Between launches the end of the kernel
//   does the same.
// - A rank sends iteration i + 1 before it takes iteration i, so it may be two iterations ahead of a peer. An epoch of
// a
//   launch with several of them holds at least two iterations: a rank that enters the next one knows of its peers'
//   entry into this launch.
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

  const Arguments& arguments;  // in registers
  const Arguments& constants;  // the kernel's parameter, for the slow path
  unsigned* epochs;            // one per block: what the next launch begins with
  unsigned slot_stride;        // bytes between two slots of one thread
  unsigned buffer_stride;
  unsigned iterations_per_epoch;
  unsigned long long first_place;  // of this thread's slot 0 in buffer 0, from the start of the workspace
  unsigned long long place;        // the same for the current iteration
  unsigned char* multicast;        // all workspaces; only with kMulticast
  unsigned epoch;
  unsigned in_epoch = 0;  // iterations of this epoch behind us

  // Everything that does not depend on the epoch is computed here, while the previous kernel still runs.
  ARBITER_DEVICE Push(const Arguments& a, const Arguments& constants_) : arguments(a), constants(constants_) {
    epochs = in_register(epochs_of(a, kRank));
    slot_stride = in_register(grid_blocks() * config::threads * static_cast<unsigned>(sizeof(Vector)));
    buffer_stride = in_register(a.push_stride);
    iterations_per_epoch = in_register(a.push_iterations);
    first_place = in_register(a.push_offset + (block_index() * config::threads + thread_index()) *
                                                  static_cast<unsigned>(sizeof(Vector)));
    if (kMulticast) multicast = in_register(a.multicast);
  }

  // The epoch that this launch begins with.
  ARBITER_DEVICE unsigned first_epoch() const { return load_word(&epochs[block_index()]); }
  ARBITER_DEVICE void begin(unsigned first) {
    epoch = first;
    place = first_place + static_cast<unsigned long long>(first % push_buffers) * buffer_stride;
  }
  // Once a launch, when all threads of the block have read the epoch: what the next launch begins with.
  ARBITER_DEVICE void end(unsigned first) const {
    count_call(control_of(arguments, kRank));
    advance_epochs(epochs, first + constants.push_epochs);
  }
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
  // alone unless its vector comes by multicast. All slots are polled together, so that the wait is one round trip and
  // not one per peer.
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
  // The same from every peer.
  ARBITER_DEVICE void receive_all(unsigned leg, unsigned k, Vector (&data)[config::world], Wait& wait) const {
    bool wanted[config::world];
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) wanted[r] = true;
    receive(leg, k, wanted, data, wait);
  }
};

// The loop of the push algorithms. The next tile leaves before this one is waited for, so that the links never rest.
// They differ in what they send where:
//   legs                                    their Push;
//   send(to, iteration, tile)               the first leg; this rank contributes tile[k][r] to the r-th row;
//   forwards, forward(to, iteration, ...)   whether something must leave before the next tile does, and what;
//   collect(from, row, tile, sum, wait)     the sums of all rows of the tile.
template <class Algorithm>
ARBITER_DEVICE void push_tiles(Algorithm& algorithm, Epilogue<Algorithm::rows>& epilogue, unsigned iterations) {
  constexpr unsigned rows = Algorithm::rows, vectors = config::vectors;
  auto& legs = algorithm.legs;
  const Arguments& arguments = legs.arguments;
  Wait wait;
  const unsigned first = legs.first_epoch();
  Vector mine[vectors][rows];
  read_tile(arguments, 0, mine);
  legs.begin(first);
  algorithm.send(legs, 0, mine);
  epilogue.prepare(arguments);
  block_barrier();  // every thread of the block has read the epoch
  legs.end(first);

  for (unsigned iteration = 0; iteration < iterations; ++iteration) {
    const bool more = iteration + 1 < iterations;
    Vector following[vectors][rows], sum[rows][vectors];
    if constexpr (Algorithm::forwards) {
      if (more) read_tile(arguments, iteration + 1, following);
      algorithm.forward(legs, iteration, mine, sum, wait);
    }
    auto next = legs;
    if (more) {
      if constexpr (!Algorithm::forwards) read_tile(arguments, iteration + 1, following);
      next.advance();
      algorithm.send(next, iteration + 1, following);
    }
    unsigned row[rows];
    tile_rows(iteration, row);
    epilogue.prefetch(arguments, row);
    algorithm.collect(legs, row, mine, sum, wait);
    epilogue.apply(arguments, row, sum, iteration);

    legs.step_to(next);
#pragma unroll
    for (unsigned k = 0; k < vectors; ++k) {
#pragma unroll
      for (unsigned r = 0; r < rows; ++r) mine[k][r] = following[k][r];
    }
  }
}
// Barriers between the ranks. Blocks with the same index work on the same vectors on every rank, so a barrier joins
// only those. An epoch counts the barriers that a block has passed; a flag holds a peer's epoch.
template <unsigned kRank>
struct Barrier {
  const Arguments& constants;
  unsigned epoch;

  ARBITER_DEVICE explicit Barrier(const Arguments& constants_)
      : constants(constants_), epoch(load_word(&epochs_of(constants_, kRank)[block_index()])) {
    count_call(control_of(constants, kRank));
  }

  // The first barrier of a launch. A rank says with it how long its message is; whoever finds another length than its
  // own says so, because such a program is wrong, and the peer's message may end where this rank would go on reading.
  ARBITER_DEVICE void meet(Wait& wait) {
    const unsigned peer = thread_index();
    const bool joins = peer < config::world && peer != kRank;
    if (joins) store_relaxed(&control_of(constants, peer)->said[kRank], said(constants.vectors, epoch + 1));
    pass(wait);
    if (!joins) return;
    const unsigned long long theirs = load_relaxed(&control_of(constants, kRank)->said[peer]);
    const unsigned vectors = static_cast<unsigned>(theirs);
    if (theirs == said(vectors, epoch) && vectors != constants.vectors) {
      report_lengths<kRank>(constants, peer, vectors, epoch);
    }
  }
  // Behind it: has the peer come, with a message like this one? Not if the wait for it was given up.
  ARBITER_DEVICE bool has_met(unsigned peer) const {
    return load_relaxed(&control_of(constants, kRank)->said[peer]) == said(constants.vectors, epoch);
  }

  // Everything that any thread of this block stored before is visible to the same block of every peer afterwards.
  ARBITER_DEVICE void pass(Wait& wait) {
    ++epoch;
    block_barrier();
    const unsigned peer = thread_index();
    if (peer < config::world && peer != kRank) {
      fence_system();
      store_release(&flags_of(constants, peer, kRank)[block_index()], epoch);
      const unsigned* flag = &flags_of(constants, kRank, peer)[block_index()];
      wait.polls = 0;
      while (static_cast<int>(load_acquire(flag) - epoch) < 0) {
        if (wait.given_up || expired<kRank>(constants, wait, peer, phase_barrier, epoch)) break;
      }
    }
    block_barrier();
  }

  // Once a launch, between its first barrier and its last: what the next launch begins with, when `left` more barriers
  // follow here. Blocks that do not run advance too, and so do the flags that peers would have raised for them: a flag
  // that stands still would look like one of the future when the epoch has gone half around. No peer stores to those
  // flags now: all of them are in this launch until this block arrives at the last barrier.
  ARBITER_DEVICE void advance(unsigned left) const {
    advance_epochs(epochs_of(constants, kRank), epoch + left);
    for (unsigned r = 0; r < config::world; ++r) {
      for (unsigned block = block_index() + grid_blocks() * (thread_index() + 1); block < max_blocks;
           block += grid_blocks() * config::threads)
        store_word(&flags_of(constants, kRank, r)[block], epoch + left);
    }
  }

 private:
  static ARBITER_DEVICE unsigned long long said(unsigned vectors, unsigned epoch) {
    return static_cast<unsigned long long>(epoch) << 32 | vectors;
  }
};
// How a rank finds the tensors of its peers. A rank says with its first barrier where its contribution of this call
// lies, as the peer addresses it: the input itself, if peers can address that (zero copy), or a copy in its workspace.
// Every rank decides for itself and the others read what it said, so it does not matter whether they decide alike.

// What a rank says: two numbers. They hold for the launch whose first barrier follows (Barrier::meet).
template <unsigned kRank>
struct PlacesOf {
  enum : unsigned { input, output };

  // Before the first barrier. Every block says the same; only its own barrier makes it known to the peer's block.
  template <class Input, class Output>
  static ARBITER_DEVICE void publish(const Arguments& constants, const Input& input_for, const Output& output_for) {
    const unsigned peer = thread_index();
    if (peer >= config::world || peer == kRank) return;
    Control* theirs = control_of(constants, peer);
    store_relaxed(&theirs->place[input][kRank], input_for(peer));
    store_relaxed(&theirs->place[output][kRank], output_for(peer));
  }

  // Behind the first barrier. 0 for a peer that has not come in time, or whose message is of another length.
  static ARBITER_DEVICE unsigned long long find(const Arguments& constants, const Barrier<kRank>& barrier,
                                                unsigned what, unsigned r) {
    const Control* control = control_of(constants, kRank);
    const unsigned long long place = load_relaxed(&control->place[what][r]);
    return barrier.has_met(r) ? place : 0;
  }
};

template <unsigned kRank>
struct Pull {
  using Places = PlacesOf<kRank>;

  const Arguments& arguments;  // in registers
  const Arguments& constants;
  const bool staged;  // the contribution is a copy

  // `overwritten`: the kernel writes its input before all peers have read it. What a prologue makes lies nowhere yet.
  ARBITER_DEVICE Pull(const Arguments& a, const Arguments& constants_, bool overwritten)
      : arguments(a),
        constants(constants_),
        staged(config::prologue || constants_.input_at[kRank] == nullptr || overwritten) {}

  ARBITER_DEVICE unsigned char* own_copy() const { return arguments.workspace[kRank] + constants.staging_offset; }
  ARBITER_DEVICE unsigned char* results_of(unsigned r) const {
    return arguments.workspace[r] + constants.results_offset;
  }

  // The contribution, if it has to be copied.
  template <unsigned kRows>
  ARBITER_DEVICE void stage(unsigned iterations) const {
    if (staged) stage_tiles<kRows>(arguments, own_copy(), iterations);
  }

  ARBITER_DEVICE void publish() const {
    Places::publish(
        constants,
        [&](unsigned peer) {
          return address_bits(staged ? constants.workspace_at[peer] + constants.staging_offset
                                     : constants.input_at[peer]);
        },
        [&](unsigned peer) { return address_bits(constants.output_at[peer]); });
  }

  // The contributions of all ranks; the own one for a peer that has said nothing, because nobody needs the sum then.
  ARBITER_DEVICE void find_inputs(const Barrier<kRank>& barrier, const unsigned char* (&input)[config::world]) const {
    const unsigned char* mine = staged ? own_copy() : static_cast<const unsigned char*>(arguments.input);
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) {
      const unsigned char* theirs = r == kRank ? mine : address_of(Places::find(constants, barrier, Places::input, r));
      input[r] = theirs == nullptr ? mine : theirs;
    }
  }

  // Where each rank wants a plain sum: in its output, if this rank can address that, or in its workspace.
  ARBITER_DEVICE void find_outputs(const Barrier<kRank>& barrier, unsigned char* (&output)[config::world]) const {
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) {
      output[r] =
          r == kRank ? constants.output_at[kRank] : address_of(Places::find(constants, barrier, Places::output, r));
      if (output[r] == nullptr) output[r] = results_of(r);
    }
  }
};
// One-shot, by pushing. Every rank stores its row into a slot of every peer; every rank waits for the rows of all
// others in its own memory and sums them in rank order. Data is its own flag (push.h), so there is no barrier: the
// result is there one hop after the last rank has come. Every rank receives N - 1 times the message, so this is for few
// bytes, or for two ranks, where two-shot would move as many in more steps.
//
// A row is handled by a cluster of blocks, on all ranks by the same one. The row of the next iteration leaves before
// this one is waited for. A rank that takes iteration i has every peer's row of it, and each of those left before its
// sender took i - 1: so a rank is at most two iterations ahead of a peer, as push.h allows. With multicast the switch
// makes the copies.
template <unsigned kRank>
struct Algorithm {
  static constexpr unsigned rows = 1;
  static constexpr bool forwards = false;
  static constexpr bool single_path = true;
  using Legs = Push<kRank, 1, config::multicast != 0>;
  Legs legs;

  ARBITER_DEVICE Algorithm(const Arguments& arguments, const Arguments& constants) : legs(arguments, constants) {}

  ARBITER_DEVICE void run(Epilogue<rows>& epilogue, unsigned iterations) { push_tiles(*this, epilogue, iterations); }

  ARBITER_DEVICE void send(const Legs& to, unsigned iteration, const Vector (&tile)[config::vectors][1]) const {
    each_vector(to.arguments, tile_row<1>(iteration, 0), [&](unsigned k) { to.broadcast(k, sanitised(tile[k][0])); });
  }

  ARBITER_DEVICE void collect(const Legs& from, const unsigned (&row)[1], const Vector (&tile)[config::vectors][1],
                              Vector (&sum)[1][config::vectors], Wait& wait) const {
    each_vector(from.arguments, row[0], [&](unsigned k) {
      Vector of_rank[config::world];
      of_rank[kRank] = tile[k][0];
      from.receive_all(0, k, of_rank, wait);
      sum[0][k] = rank_order_sum(of_rank);
    });
  }
};

// The beginning of every kernel. An algorithm is a struct that says what comes then:
//   rows           of a tile that what follows the sum takes at once;
//   single_path    whether a launch of one iteration is worth code of its own;
//   Algorithm(arguments, constants)   what can be computed while the previous kernel still runs: it touches no memory;
//   run(epilogue, iterations)         the rest, when inputs may be read and outputs written.
// `arguments` are those in registers; `constants` are the kernel's parameter, for what is used late or never.
template <unsigned kRank, bool kSingle>
ARBITER_DEVICE void exchange(const Arguments& arguments, const Arguments& constants) {
  Algorithm<kRank> algorithm(arguments, constants);
  Epilogue<Algorithm<kRank>::rows> epilogue;
  epilogue.begin();
  grid_dependency_wait();
  if (config::early_trigger != 0) grid_dependency_trigger();
  algorithm.run(epilogue, kSingle ? 1 : arguments.iterations);
}

template <unsigned kRank>
ARBITER_DEVICE void run(const Arguments& constants) {
  const Arguments arguments = in_registers(constants);
  if (config::single_path && Algorithm<kRank>::single_path && arguments.iterations == 1) {
    exchange<kRank, true>(arguments, constants);
  } else {
    exchange<kRank, false>(arguments, constants);
  }
}

extern "C" __global__ void __launch_bounds__(256) arbiter_kernel(const __grid_constant__ Arguments arguments) {
  run<3>(arguments);
}
