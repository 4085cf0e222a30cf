/* Arbiter's C interface: allreduce between GPUs, plain or fused with what follows it, by the fastest proven kernel.
 *
 * C99. Link with libarbiter.so, which exports nothing but what is declared here. docs/c.md shows a whole program.
 *
 * Results. Functions that can fail return an arbiter_status; no exception leaves them. arbiter_last_error() says in
 * words what was wrong, what was expected and what to do. A function that was refused has changed nothing. Structs
 * begin with struct_size: set them up with their ARBITER_..._INIT macro, so that a program and a library of different
 * age understand each other. A member that is 0 or NULL means the default that its comment names. Collective functions
 * are called by all ranks of a communicator, in the same order and with equal arguments, and return when all ranks have
 * called them (or failed to). Threads. A communicator is used from one thread at a time, with its device current in
 * that thread. From any thread, at any time: arbiter_last_error, arbiter_check, arbiter_abort, arbiter_stats. Several
 * communicators are independent. Streams. `stream` is a cudaStream_t (NULL: the default stream) and is ignored by the
 * CPU device, where calls are complete when they return. Stream-ordered functions may be captured into a CUDA graph.
 * Tensors are contiguous device memory of the rank's GPU (host memory on the CPU device). T: tokens, H: hidden.
 */
#ifndef ARBITER_H
#define ARBITER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

#define ARBITER_VERSION_MAJOR 0
#define ARBITER_VERSION_MINOR 1
#define ARBITER_VERSION_PATCH 0
#define ARBITER_VERSION_STRING "0.1.0"

/** Changes when a program that was compiled against an older header would misbehave. Also the number in the library's
 *  SONAME (libarbiter.so.1). Additions do not change it. */
#define ARBITER_ABI_VERSION 1

/** The library's version, "0.1.0"; may differ from ARBITER_VERSION_STRING, which is the header's. Static storage. */
const char* arbiter_version(void);
/** The library's ABI version. A program that opens the library with dlopen() compares it with ARBITER_ABI_VERSION
 * before it calls anything else. Creation does so too, through the options. */
uint32_t arbiter_abi_version(void);

typedef enum arbiter_status {
  ARBITER_SUCCESS = 0,
  ARBITER_INVALID_ARGUMENT = 1, /**< can never work: a shape, dtype, pointer, name or number is wrong */
  ARBITER_UNSUPPORTED = 2,      /**< legal, but this device, build or configuration cannot; or it was not prepared */
  ARBITER_UNAVAILABLE = 3,      /**< something outside the program is missing: driver, NCCL, NVRTC, compiler, memory */
  ARBITER_COMPILE_ERROR = 4,    /**< a kernel did not compile, or a cache entry is broken */
  ARBITER_DATABASE_ERROR = 5,   /**< a file of decisions cannot be used */
  ARBITER_DISAGREEMENT = 6, /**< the ranks differ in something that must be equal; the message says what and where */
  ARBITER_DEVICE_ERROR = 7, /**< a call of CUDA, NCCL or the operating system failed */
  ARBITER_POISONED = 8,     /**< a peer did not come in time: destroy the communicator and create a new one */
  ARBITER_BUFFER_TOO_SMALL = 9, /**< the text did not fit; *needed says how much it takes */
  ARBITER_OUT_OF_MEMORY = 10,   /**< host memory */
  ARBITER_INTERNAL_ERROR = 11   /**< anything else; a fault of the library or of a callback */
} arbiter_status;

/** "poisoned", ...; "unknown" for other numbers. Static storage. */
const char* arbiter_status_name(arbiter_status status);

typedef struct arbiter_communicator arbiter_communicator;
/** A prepared family; belongs to its communicator and is valid until that is destroyed. */
typedef struct arbiter_handle arbiter_handle;

/** The message of the last function that failed: on this communicator from whatever thread, or (NULL) of the calling
 *  thread, which is how the reason of a failed creation is read. "" when nothing failed. Valid until the calling thread
 *  asks again. Never NULL. */
const char* arbiter_last_error(const arbiter_communicator* communicator);

typedef enum arbiter_dtype { ARBITER_BF16 = 0, ARBITER_FP16 = 1, ARBITER_FP32 = 2 } arbiter_dtype;
typedef enum arbiter_mode { ARBITER_GRAPH = 0, ARBITER_EAGER = 1 } arbiter_mode;
typedef enum arbiter_device_kind {
  ARBITER_DEVICE_AUTO = 0, /**< a GPU if there is one, else the CPU device */
  ARBITER_DEVICE_CUDA = 1,
  ARBITER_DEVICE_CPU =
      2 /**< runs the same kernels on the host: slow, for tests; the ranks are threads of one process */
} arbiter_device_kind;
typedef enum arbiter_switch { ARBITER_DEFAULT = 0, ARBITER_ON = 1, ARBITER_OFF = 2 } arbiter_switch;
typedef enum arbiter_log_level {
  ARBITER_LOG_TRACE = 0,
  ARBITER_LOG_DEBUG = 1,
  ARBITER_LOG_INFO = 2,
  ARBITER_LOG_WARN = 3,
  ARBITER_LOG_ERROR = 4
} arbiter_log_level;

/** One message, without a newline; `text` is valid during the call. Called from the threads that use the communicator,
 * by several ranks of one process at a time; must not call the library. */
typedef void (*arbiter_log_callback)(void* user, arbiter_log_level level, const char* text);

/** How a communicator is set up. Equal on all ranks, but for ordinal, cache_dir and logging. */
typedef struct arbiter_communicator_options {
  size_t struct_size;
  uint32_t abi_version; /**< ARBITER_ABI_VERSION of the header that the program was compiled with */
  int32_t device;       /**< arbiter_device_kind */
  int32_t ordinal;      /**< of the GPU, as visible to this process; -1: the current one (launcher: the local rank's) */
  int32_t multicast;    /**< arbiter_switch: kernels that use NVLink multicast; default: ARBITER_MULTICAST */
  int32_t nccl;         /**< arbiter_switch: NCCL as a backend, where it is found; default: on, but with callbacks it is
                             started by arbiter_prepare, when a family is to be served by it: until then, what no
                             prepared family covers is refused (arbiter_prepare_nccl). ARBITER_ON: it is started at
                             creation, and serves messages of any size */
  int32_t jit;          /**< arbiter_switch: compile kernels that are not in the cache; default: ARBITER_JIT */
  int32_t shipped;      /**< arbiter_switch: decisions that are built into the library; default: on */
  int32_t kernels;      /**< arbiter_switch: run the compiled kernels that the decisions carry, as this user: of a file
                             only if it is this user's or root's and closed to the writing of others, of bytes without
                             a look at anything; default: ARBITER_KERNELS for files, off for bytes */
  /** Measured decisions: a snapshot or database that `arbiter tune` wrote. Rank 0's path or bytes serve all ranks. The
   * bytes win over the path; with neither, ARBITER_DB names a file. What cannot be read is refused
   * (ARBITER_DATABASE_ERROR), but a file that only ARBITER_DB names is a warning. */
  const char* decisions_path;
  const void* decisions_data; /**< read during creation only */
  size_t decisions_bytes;
  /** "auto", "trtllm", "mnnvl", "custom", "nvls", "nccl"; NULL: ARBITER_BACKEND. "off": NCCL as it chooses, and no
   * kernels: fused calls, and plain ones without NCCL, are refused, and arbiter_can_use() is 0 for everything. */
  const char* backend;
  const char* numerics; /**< "any"; "strict": bit-identical results in rank order; "lossy": 8-bit transport too; NULL:
                           ARBITER_NUMERICS */
  /** The one candidate to use wherever it can ("custom/oneshot_push/b8t512"), or "oneshot" or "twoshot": the built-in
   * choice among the kernels of that kind. NULL: choose. */
  const char* candidate;
  const char* cache_dir; /**< folder of compiled kernels; NULL: ARBITER_CACHE_DIR, ~/.cache/arbiter */
  int64_t timeout_ms;    /**< deadline of every wait for a peer on the device; -1: none; 0: ARBITER_TIMEOUT_MS, 60 s */
  const char* log_level; /**< "trace" ... "error", "off"; NULL: ARBITER_LOG */
  arbiter_log_callback log; /**< NULL: standard error */
  void* log_user;
  /** The deadline until the communicator's first 16 calls are through, when peers may still be compiling elsewhere; the
   * longer of the two counts. -1: none; 0: ARBITER_FIRST_TIMEOUT_MS, 10 minutes */
  int64_t first_timeout_ms;
  int32_t max_sms;  /**< multiprocessors that a kernel may take; 0: ARBITER_MAX_SMS, all */
  int32_t reserved; /**< 0 */
  /** What prepare may spend on measuring families for which nothing was measured, with no backend and no candidate
   * asked for; what it finds is kept in startup.db in the cache folder of rank 0, for the starts to come. -1: nothing;
   * 0: ARBITER_STARTUP_TUNE_MS, which is nothing unless it is set */
  int64_t startup_tune_ms;
} arbiter_communicator_options;

#define ARBITER_COMMUNICATOR_OPTIONS_INIT                                                                             \
  {                                                                                                                   \
    sizeof(arbiter_communicator_options), ARBITER_ABI_VERSION, ARBITER_DEVICE_AUTO, -1, 0, 0, 0, 0, 0, NULL, NULL, 0, \
        NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, 0, 0, 0, 0                                                       \
  }

/* ---- Creation: collective. `options` may be NULL (all defaults). On failure *communicator is NULL.
 * --------------------- Errors: ARBITER_INVALID_ARGUMENT (an option, or a header of another ABI version),
 * ARBITER_DISAGREEMENT (options, version or decisions differ between ranks), ARBITER_UNAVAILABLE (no GPU, no way to
 * exchange data), ARBITER_DATABASE_ERROR, ARBITER_POISONED (a rank did not come). */

/** The host program's process group, over exactly the ranks of the communicator: a sub-group works like the world. The
 *  functions are collective and work on host memory; they return 0, or anything else when they failed. They are called
 * in collective functions only, from the calling thread, and must stay usable until the communicator is destroyed. */
typedef struct arbiter_callbacks {
  size_t struct_size;
  int32_t rank;
  int32_t size;
  int (*allgather)(void* user, const void* send, size_t bytes, void* receive); /**< receive: size * bytes, by rank */
  int (*broadcast)(void* user, void* data, size_t bytes, int root);
  int (*barrier)(void* user);
  void* user;
} arbiter_callbacks;

#define ARBITER_CALLBACKS_INIT \
  { sizeof(arbiter_callbacks), 0, 1, NULL, NULL, NULL, NULL }

arbiter_status arbiter_create_from_callbacks(const arbiter_callbacks* callbacks,
                                             const arbiter_communicator_options* options,
                                             arbiter_communicator** communicator);

#define ARBITER_UNIQUE_ID_BYTES 128
/** A fresh id (an ncclUniqueId) for one communicator: made by one rank, given to all by the host program. Not
 * collective. ARBITER_UNAVAILABLE without NCCL. */
arbiter_status arbiter_get_unique_id(void* id);
/** From an ncclUniqueId of 128 bytes, equal on all ranks. Needs NCCL and a GPU for every rank. */
arbiter_status arbiter_create_from_unique_id(const void* id, int rank, int size,
                                             const arbiter_communicator_options* options,
                                             arbiter_communicator** communicator);
/** From a connected ncclComm_t, over its ranks and its device (options->ordinal is ignored). It is used for small
 * exchanges in collective functions, on a stream of the library's own; it must outlive the communicator, and the host
 * program must not use it at the same time. */
arbiter_status arbiter_create_from_nccl(void* nccl_comm, const arbiter_communicator_options* options,
                                        arbiter_communicator** communicator);
/** From the variables of torchrun, mpirun, srun or PMI. A single rank needs no GPU. */
arbiter_status arbiter_create_from_environment(const arbiter_communicator_options* options,
                                               arbiter_communicator** communicator);
/** `size` ranks of this process, for one thread each: fills communicators[0 .. size - 1]. Not collective: one thread
 * calls it. With GPUs, rank r uses GPU r. All or nothing: on failure all of them are NULL. */
arbiter_status arbiter_create_in_process(int size, const arbiter_communicator_options* options,
                                         arbiter_communicator** communicators);

/** Collective, when the communicator's work has completed. Frees everything, what was allocated or registered through
 * it included. Does not wait for peers if it is poisoned. NULL is ignored. */
void arbiter_destroy(arbiter_communicator* communicator);

int arbiter_rank(const arbiter_communicator* communicator); /**< -1 for NULL */
int arbiter_size(const arbiter_communicator* communicator); /**< -1 for NULL */

/* ---- Preparing: collective, outside capture
 * --------------------------------------------------------------------------- */

/** What will be called: every token count from 1 to max_tokens. */
typedef struct arbiter_family {
  size_t struct_size;
  const char* pattern; /**< "allreduce", "allreduce_residual_rmsnorm", ...: docs/catalogue.md */
  int32_t dtype;       /**< arbiter_dtype */
  int32_t hidden;      /**< elements of a row, also for plain allreduce (a message is tokens * hidden) */
  int64_t max_tokens;
  int32_t mode; /**< arbiter_mode: which measurements apply; calls may be captured or eager in either mode */
  int32_t reserved;
} arbiter_family;

#define ARBITER_FAMILY_INIT \
  { sizeof(arbiter_family), "allreduce", ARBITER_BF16, 0, 0, ARBITER_GRAPH, 0 }

/** Choose, compile or load, and make room for everything up to max_tokens. May be called again with more; once a call
 * was captured, what would have to move is refused (ARBITER_UNSUPPORTED). ARBITER_DISAGREEMENT if ranks ask for
 * different families. */
arbiter_status arbiter_prepare(arbiter_communicator* communicator, const arbiter_family* families, size_t count);
/** The same for one family, and a handle for its calls. Asked again with the same family, it gives the same handle. */
arbiter_status arbiter_prepare_handle(arbiter_communicator* communicator, const arbiter_family* family,
                                      arbiter_handle** handle);
/** NCCL for plain messages of this dtype, up to `max_count` elements, that no prepared family covers: starts it where
 * it was put off, and calls it once at sizes of every order, so that later calls may be captured. ARBITER_UNSUPPORTED,
 * with the reason, where there is no NCCL; a single rank needs none. */
arbiter_status arbiter_prepare_nccl(arbiter_communicator* communicator, arbiter_dtype dtype, int64_t max_count);

/** Would a prepared communicator serve this? 1: yes; 0: no, and arbiter_explain() says why. Pure, equal on all ranks,
 * launches nothing. The family's max_tokens is ignored. Says nothing about pointers. */
int arbiter_can_use(const arbiter_communicator* communicator, const arbiter_family* family, int64_t tokens);

/* ---- Calls: stream-ordered, legal in capture; all ranks make the same calls in the same order
 * ------------------------- */

/** Tensors of one call. Which ones a pattern needs: docs/catalogue.md; the others are ignored. Aligned to
 * their elements; those aligned to 16 bytes save a copy, on every rank for itself. A stage's result that a later stage
 * goes on from may be NULL. output may equal input (without a MoE prologue), residual_out may equal residual_in;
 * nothing else that is written may overlap anything. */
typedef struct arbiter_tensors {
  size_t struct_size;
  const void* input;        /**< [T, H]; moe_reduce: [moe_experts, T, H]; moe_finalize: [moe_rows, H] */
  void* output;             /**< [T, H], the sum; absent with a residual */
  const void* residual_in;  /**< [T, H] */
  void* residual_out;       /**< [T, H] */
  const void* gamma;        /**< [H], in dtype or (gamma_fp32) fp32 */
  void* norm_out;           /**< [T, H] */
  float epsilon;            /**< of the norm: 1e-6 from the macro */
  float weight_bias;        /**< the norm multiplies by gamma + weight_bias: 0, or 1 for Gemma-style weights */
  int32_t gamma_fp32;       /**< not 0: gamma is fp32 */
  int32_t moe_weights_fp32; /**< not 0: moe_weights are fp32 */
  void* quant_out;       /**< arbiter_quant_out_bytes(): fp8 [T, H]; nvfp4 [T, H/2], the even element in the low half */
  const float* scale_in; /**< one number: the scale of fp8_static, the global scale of nvfp4; aligned to 4 */
  void* scale_out;       /**< arbiter_scale_out_bytes(), padding included (written as 0) */
  size_t scale_out_bytes;     /**< bytes that may be written there */
  const void* moe_weights;    /**< [moe_experts, T] or [T, moe_top_k]; aligned to its element */
  const int32_t* moe_row_map; /**< [T, moe_top_k] rows of input; -1: none; aligned to 4 */
  const void* moe_shared;     /**< [T, H] or NULL: added last */
  int32_t moe_experts;        /**< moe_reduce: of this rank */
  int32_t moe_top_k;          /**< moe_finalize */
  int64_t moe_rows;           /**< moe_finalize: rows of input */
} arbiter_tensors;

#define ARBITER_TENSORS_INIT                                                                                         \
  {                                                                                                                  \
    sizeof(arbiter_tensors), NULL, NULL, NULL, NULL, NULL, NULL, 1e-6F, 0.0F, 0, 1, NULL, NULL, NULL, 0, NULL, NULL, \
        NULL, 0, 0, 0                                                                                                \
  }

/** One call of a prepared family. 0 tokens: nothing happens. Errors: ARBITER_INVALID_ARGUMENT (a tensor, or more tokens
 *  than max_tokens), ARBITER_POISONED. Nothing is compiled, allocated or decided here. */
arbiter_status arbiter_run(arbiter_handle* handle, const arbiter_tensors* tensors, int64_t tokens, void* stream);

/** output = the sum of the ranks' inputs, of `count` elements, in place when output is input. Any prepared plain family
 * of this dtype with max_tokens * hidden >= count serves it; NCCL, where there is one, serves the rest.
 * ARBITER_UNSUPPORTED names what to prepare. */
arbiter_status arbiter_all_reduce(arbiter_communicator* communicator, const void* input, void* output, int64_t count,
                                  arbiter_dtype dtype, void* stream);

/* ---- Calls with a binding's own tensor objects: one call of the library reads them, checks them and launches. For
 * languages in which every question to a tensor costs as much as the launch. arbiter_tensors has no such objects and
 * serves every pattern; this is for the plain sum and for patterns of a residual, a norm or both.
 * ------------------------- */

/** How objects are read, and what may be called with them. It is read in every call: keep it, and change it only
 * between calls. */
typedef struct arbiter_object_calls {
  size_t struct_size;
  /** Fills the DLTensor (DLPack 1.0) at `tensor` with what `object` is, without taking it over. 0: done. For Python
   * this is dltensor_from_py_object_no_sync of the type's __dlpack_c_exchange_api__, to be called with the GIL held. */
  int (*read)(void* object, void* tensor);
  /** The stream that the objects' owner works on now. 0: done. For Python: current_work_stream of the same table. */
  int (*current_stream)(int32_t device_type, int32_t device_id, void** stream);
  const void* absent;                 /**< the object that stands for no tensor (Python's None), or NULL */
  int32_t device_type;                /**< DLPack's number: 2 for CUDA, 1 on the CPU device */
  int32_t device_id;                  /**< where all tensors must be; -1: on the device of the first */
  arbiter_communicator* communicator; /**< of arbiter_all_reduce_objects */
  const arbiter_family* families;     /**< of arbiter_run_objects: the first that fits serves; all of one pattern */
  arbiter_handle* const* handles;     /**< of each family */
  size_t family_count;
  int32_t residual;  /**< not 0: the pattern adds one */
  int32_t norm;      /**< not 0: the pattern has one */
  float epsilon;     /**< of the norm: 1e-6 from the macro */
  float weight_bias; /**< the norm multiplies by gamma + weight_bias */
  void* stream;      /**< counts if stream_given is not 0; else current_stream is asked */
  int32_t stream_given;
  int32_t reserved;
} arbiter_object_calls;

#define ARBITER_OBJECT_CALLS_INIT \
  { sizeof(arbiter_object_calls), NULL, NULL, NULL, 2, -1, NULL, NULL, NULL, 0, 0, 0, 1e-6F, 0.0F, NULL, 0, 0 }

/** arbiter_run() of the first family with the dtype and the last dimension of `input` and room for its rows. All
 * tensors are contiguous and have as many elements as `input`; gamma has [H], in the dtype or fp32. Objects of what the
 * pattern has not must be absent. ARBITER_INVALID_ARGUMENT: this is not such a call. Nothing was launched, and no
 * message was kept: the binding makes the call with arbiter_run(), which says what is wrong, or has more patterns.
 * Everything else as arbiter_run(). */
arbiter_status arbiter_run_objects(const arbiter_object_calls* calls, void* input, void* residual_in,
                                   void* residual_out, void* gamma, void* norm_out);
/** arbiter_all_reduce() of `input`, into `output` of the same dtype and as many elements; both contiguous. The rest as
 * arbiter_run_objects(). */
arbiter_status arbiter_all_reduce_objects(const arbiter_object_calls* calls, void* input, void* output);

/* ---- Asking
 * ------------------------------------------------------------------------------------------------------------ Texts
 * are JSON (UTF-8, ending in NUL). *needed (may be NULL) is the bytes they take, NUL included; pass NULL and 0 to ask
 * for it. A text that does not fit is cut off, and the status is ARBITER_BUFFER_TOO_SMALL. */

/** What serves this problem, and why: {"rule", "reason", "backend", "algorithm", "candidate", "numerics"}. The rules
 * are in docs/runtime.md. Fails as the call itself would: ARBITER_UNSUPPORTED when it is not prepared. */
arbiter_status arbiter_explain(const arbiter_communicator* communicator, const arbiter_family* family, int64_t tokens,
                               char* buffer, size_t bytes, size_t* needed);
/** Calls so far (a captured one counts once, when it is captured), per family, candidate and rule: {"version", "rank",
 *  "size", "device", "calls": [{"pattern", "dtype", "hidden", "max_tokens", "mode", "candidate", "rule", "count"}]}. */
arbiter_status arbiter_stats(const arbiter_communicator* communicator, char* buffer, size_t bytes, size_t* needed);
/** Device memory that the library holds for this communicator's exchanges; 0 for NULL. */
size_t arbiter_workspace_bytes(const arbiter_communicator* communicator);

/** ARBITER_POISONED, with who waited for whom, if a call of this rank missed a deadline or was told to give up; stays
 * so for good. Reads one word of host memory and does not synchronise: call it after synchronising a stream whose
 * results matter. */
arbiter_status arbiter_check(const arbiter_communicator* communicator);
/** Give up: peers that wait for this rank stop waiting and are poisoned, and so is this rank. For a watchdog. */
void arbiter_abort(arbiter_communicator* communicator);

/* ---- Memory that all ranks can address: collective, outside capture
 * ---------------------------------------------------- */

/** Zero-filled device memory that kernels of all ranks read and write without a copy. All ranks ask for as many bytes.
 *  ARBITER_UNAVAILABLE where nothing can be shared. */
arbiter_status arbiter_allocate_symmetric(arbiter_communicator* communicator, size_t bytes, void** memory);
/** The same for memory that exists. ARBITER_UNAVAILABLE on all ranks if that of any rank cannot be shared (on CUDA:
 * what does not come from cudaMalloc); calls on it work all the same, through a copy. */
arbiter_status arbiter_register_buffer(arbiter_communicator* communicator, void* memory, size_t bytes);
/** When no call and no graph uses the memory any more. `memory`: what either of the two was about. */
arbiter_status arbiter_release_shared(arbiter_communicator* communicator, const void* memory);

/* ---- Memory of the rank's own device: for programs without the CUDA runtime, and the only tensors that the CPU device
 * takes. Local, not collective, outside capture. On the CPU device the host may touch the memory. ---------------------
 */

/** Aligned to 512 bytes; not cleared. ARBITER_UNAVAILABLE when there is not enough. */
arbiter_status arbiter_device_allocate(arbiter_communicator* communicator, size_t bytes, void** memory);
/** What arbiter_device_allocate() gave, before the communicator is destroyed. NULL is ignored. */
arbiter_status arbiter_device_release(arbiter_communicator* communicator, void* memory);
/** Stream-ordered, between host and device in any direction. */
arbiter_status arbiter_device_copy(arbiter_communicator* communicator, void* destination, const void* source,
                                   size_t bytes, void* stream);
/** Waits for everything in the stream. ARBITER_DEVICE_ERROR after a fault on the device. */
arbiter_status arbiter_device_synchronize(arbiter_communicator* communicator, void* stream);

/** Bytes of arbiter_tensors.quant_out and .scale_out for `tokens` rows; 0 where the pattern has none.
 *  ARBITER_INVALID_ARGUMENT for an unknown pattern or a hidden size that it cannot divide. */
arbiter_status arbiter_quant_out_bytes(const char* pattern, int hidden, int64_t tokens, size_t* bytes);
arbiter_status arbiter_scale_out_bytes(const char* pattern, int hidden, int64_t tokens, size_t* bytes);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* ARBITER_H */
