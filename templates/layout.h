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
