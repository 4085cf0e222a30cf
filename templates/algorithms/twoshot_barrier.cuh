// Two-shot, staged: copy to the own workspace, barrier, sum every N-th row by reading the peers' copies, store the
// result to all workspaces, barrier, go on with the own one. Everything is in place before anybody looks, so nothing is
// polled but the flags of the barriers, and the input is free once it is copied.
//
// The workspace has a place for every row, so nothing is overwritten within a launch. The copies may be overwritten by
// the next launch because all peers have read them before they arrive at the second barrier; results, because a peer
// stores them only behind the first barrier, when this rank has entered that launch too. With multicast a result is
// stored once, and the switch delivers it to all.
template <unsigned kRank>
struct Algorithm {
  static constexpr unsigned rows = config::world;
  static constexpr bool single_path = false;
  static constexpr bool multicast = config::multicast != 0;
  const Arguments& arguments;
  const Arguments& constants;

  ARBITER_DEVICE Algorithm(const Arguments& a, const Arguments& c) : arguments(a), constants(c) {}

  ARBITER_DEVICE void run(Epilogue<rows>& epilogue, unsigned iterations) {
    const auto data_of = [&](unsigned r) { return arguments.workspace[r] + constants.staging_offset; };
    const auto results_of = [&](unsigned r) { return arguments.workspace[r] + constants.results_offset; };
    Wait wait;
    Barrier<kRank> barrier(constants);
    stage_tiles<config::world>(arguments, data_of(kRank), iterations);
    barrier.meet(wait);
    barrier.advance(1);
    for (unsigned iteration = 0; iteration < iterations; ++iteration) {
      const unsigned row = tile_row<config::world>(iteration, kRank);
      each_vector(arguments, row, [&](unsigned k) {
        const Vector sum = load_and_sum(data_of, row, column(k));
        if (multicast) {
          store_multicast(vector_at(constants.multicast + constants.results_offset, row, column(k)), sum);
        } else {
          store_to_all<kRank>(results_of, row, column(k), sum);
        }
      });
    }
    if (multicast) fence_aliases();
    barrier.pass(wait);
    if (multicast) fence_aliases();

    epilogue.prepare(arguments);
    finish_tiles(arguments, epilogue, results_of(kRank), 0, iterations);
  }
};
