// custom/epilogue:cluster=2,early_trigger=1,threads=256,vectors=1 allreduce_residual_rmsnorm bf16 world=1 hidden=4096
// Arbiter 0.1.0: custom/epilogue for allreduce_residual_rmsnorm. The epilogue alone, on an input that is already the sum: what NCCL is followed by.
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
ARBITER_DEVICE void fence_system() { asm volatile("fence.acq_rel.sys;" ::: "memory"); }

// Between what a thread does to memory through its multicast address and what anybody does through another address of it,
// on both sides of the synchronisation between them.
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
  return Vector{ {__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3])} };
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
ARBITER_DEVICE unsigned pinned(unsigned v) {
  asm volatile("" : "+r"(v));
  return v;
}
ARBITER_DEVICE unsigned long long pinned(unsigned long long v) {
  asm volatile("" : "+l"(v));
  return v;
}
template <class T>
ARBITER_DEVICE T* pinned(T* address) {
  return reinterpret_cast<T*>(pinned(reinterpret_cast<unsigned long long>(address)));
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
ARBITER_DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
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
constexpr bool prologue = 0;     // a rank contributes something else than its input
constexpr bool quantised = 0;
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
// What this rank contributes to the sum: its input.
ARBITER_DEVICE Vector contribution(const Arguments& arguments, unsigned row, unsigned col) {
  return load(vector_at(arguments.input, row, col));
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
          if (wanted<0>(arguments.norm_out))
            store(vector_at(arguments.norm_out, row[i], column(k)), x[i][k]);
        });
      }
    }
  }
};

// No quantisation.
struct Quantisation {
  static constexpr unsigned reductions = 0;
  ARBITER_DEVICE void prepare(const Arguments&) {}
  template <unsigned kRows>
  ARBITER_DEVICE void apply(const Arguments&, const unsigned (&)[kRows], const Vector (&)[kRows][config::vectors],
                            unsigned) {}
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

extern "C" __global__ void __launch_bounds__(256) arbiter_kernel(const __grid_constant__ Arguments arguments) {
  run<0>(arguments);
}
