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
