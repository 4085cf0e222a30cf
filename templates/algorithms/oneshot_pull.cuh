// One-shot, by pulling: barrier, sum everything by reading the peers' inputs where they lie, barrier. An input that
// peers can address is read in place; another one, what a prologue makes, and an input that is also the output (peers
// may still read it when the sum is written) is copied to the workspace first. Every rank decides that for itself and
// says with the first barrier where its contribution lies (pull.h), so ranks need not decide alike.
//
// Loads go over the links and back, which takes two hops where a push takes one, but nothing is written twice and
// nothing is re-armed. The second barrier tells that the inputs may change: what a peer reads after it belongs to the
// next call.
template <unsigned kRank>
struct Algorithm {
  static constexpr unsigned rows = 1;
  static constexpr bool single_path = false;
  const Arguments& arguments;
  const Arguments& constants;

  ARBITER_DEVICE Algorithm(const Arguments& a, const Arguments& c) : arguments(a), constants(c) {}

  ARBITER_DEVICE void run(Epilogue<rows>& epilogue, unsigned iterations) {
    Wait wait;
    Barrier<kRank> barrier(constants);
    const Pull<kRank> pull(arguments, constants, arguments.input == arguments.output);
    pull.template stage<1>(iterations);
    pull.publish();
    epilogue.prepare(arguments);
    barrier.meet(wait);
    barrier.advance(1);
    const unsigned char* input[config::world];
    pull.find_inputs(barrier, input);

    for (unsigned iteration = 0; iteration < iterations; ++iteration) {
      const unsigned row[1] = {tile_row<1>(iteration, 0)};
      epilogue.prefetch(arguments, row);
      Vector sum[1][config::vectors];
      each_vector(arguments, row[0], [&](unsigned k) {
        sum[0][k] = load_and_sum([&](unsigned r) { return input[r]; }, row[0], column(k));
      });
      epilogue.apply(arguments, row, sum, iteration);
    }
    barrier.pass(wait);  // the inputs may change now
  }
};
