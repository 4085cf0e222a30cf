// custom/twoshot_pull:cluster=1,early_trigger=1,threads=512,vectors=1 allreduce bf16 world=2
// Arbiter 0.1.0: custom/twoshot_pull for allreduce. Barrier, sum every world-th row by reading the peers' inputs where they lie, store the result to all, barrier.
// Rendered; edit the templates, not this text.

// ...

namespace config {
// ...

// ...

  // Where each rank wants a plain sum: in its output, if this rank can address that, or in its workspace.
// ...
// Two-shot, by pulling: barrier, sum every N-th row by reading the peers' inputs where they lie, store the result to
// all, barrier. As in oneshot_pull a contribution that peers cannot address is copied first, and every rank says with
// the first barrier where its input and its output lie (pull.h). A plain sum goes straight into the outputs that peers
// can address, and such a rank is done behind the second barrier; all other sums go through the workspace.
// ...
// A row is written only by the rank that has summed it, which is the only one that reads it, so the input may be the
// output without a copy. Nobody stores to a peer's output before that peer has entered this launch: it has arrived at
// the barrier.
// ...
  static constexpr bool plain = config::row_vectors == 0;  // only a bare sum is flat
// ...

// ...

  ARBITER_DEVICE void run(Epilogue<rows>& epilogue, unsigned iterations) {
    Wait wait;
    Barrier<kRank> barrier(constants);
    const Pull<kRank> pull(arguments, constants, false);
    pull.template stage<config::world>(iterations);
    pull.publish();
    barrier.meet(wait);
    barrier.advance(1);
    const unsigned char* input[config::world];
    unsigned char* sums[config::world];
    pull.find_inputs(barrier, input);
    if (plain) {
      pull.find_outputs(barrier, sums);
    } else {
#pragma unroll
      for (unsigned r = 0; r < config::world; ++r) sums[r] = pull.results_of(r);
    }

    for (unsigned iteration = 0; iteration < iterations; ++iteration) {
      const unsigned row = tile_row<config::world>(iteration, kRank);
      each_vector(arguments, row, [&](unsigned k) {
        const Vector sum = load_and_sum([&](unsigned r) { return input[r]; }, row, column(k));
        store_to_all<kRank>([&](unsigned r) { return sums[r]; }, row, column(k), sum);
      });
    }
    barrier.pass(wait);
    if (plain && constants.output_at[kRank] != nullptr) return;  // the peers have written it

    epilogue.prepare(arguments);
    finish_tiles(arguments, epilogue, sums[kRank], 0, iterations);
// ...

// ...

extern "C" __global__ void __launch_bounds__(512) arbiter_kernel(const __grid_constant__ Arguments arguments) {
  run<1>(arguments);
}

