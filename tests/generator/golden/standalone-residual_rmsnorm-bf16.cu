// custom/standalone:cluster=2,early_trigger=1,threads=256,vectors=1 allreduce_residual_rmsnorm bf16 world=1 hidden=4096
// Arbiter 0.1.0: custom/standalone for allreduce_residual_rmsnorm. Prologue or stages alone, without an exchange: what runs before and after NCCL.
// Rendered; edit the templates, not this text.

// ...

namespace config {
constexpr unsigned world = 1;
constexpr unsigned hidden = 4096;       // elements of a row; 0 if the message is flat
constexpr unsigned row_vectors = 512;  // 16-byte vectors of a row; 0 if the message is flat
// ...

// ...

  // Where each rank wants a plain sum: in its output, if this rank can address that, or in its workspace.
// ...
// What follows the sum alone, on an input that is already the sum: behind NCCL, or behind a plain allreduce. It talks
// to nobody, so there is neither a wait nor a barrier, and its world is one rank.
// ...
// What the next row needs is on its way before anything waits for it. What a prologue reads does not fit in registers
// beside the current row, so behind a prologue every row is read when it is its turn.
// ...
  static constexpr bool ahead = !config::prologue;
// ...

  ARBITER_DEVICE Algorithm(const Arguments&, const Arguments& constants) : arguments(constants) {}

  ARBITER_DEVICE void run(Epilogue<rows>& epilogue, unsigned iterations) {
    Vector following[config::vectors][1];
    const auto read = [&](unsigned iteration) { read_tile(arguments, iteration, following); };
    const auto prefetch = [&](unsigned iteration) {
      const unsigned row[1] = {tile_row<1>(iteration, 0)};
      epilogue.prefetch(arguments, row);
    };

    if (ahead) {
      read(0);
      prefetch(0);
    }
    epilogue.prepare(arguments);
    for (unsigned iteration = 0; iteration < iterations; ++iteration) {
      if (!ahead) {
        prefetch(iteration);
        read(iteration);
      }
      Vector sum[1][config::vectors];
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) sum[0][k] = following[k][0];
      const bool more = ahead && iteration + 1 < iterations;
      if (more) read(iteration + 1);
      const unsigned row[1] = {tile_row<1>(iteration, 0)};
      epilogue.apply(arguments, row, sum, iteration);
      if (more) prefetch(iteration + 1);
    }
  }
};

// ...

extern "C" __global__ void __launch_bounds__(256) arbiter_kernel(const __grid_constant__ Arguments arguments) {
  run<0>(arguments);
// ...
