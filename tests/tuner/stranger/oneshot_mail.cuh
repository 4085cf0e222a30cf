// One-shot with letter boxes: every rank stores its rows into a copy of the message that every peer keeps for it,
// raises a flag, waits for the flags of all, sums what lies in its own copies, and says with a second flag that it is
// done. An algorithm as somebody adds it who knows docs/kernels.md: this file and its entry are all there is.
//
// Copies lie in the first half of the staging area, of which nobody needs anything when a rank has left the launch
// before; and a rank leaves this launch only when all have taken what lies in their copies.
template <unsigned kRank>
struct Algorithm {
  static constexpr unsigned rows = 1;
  static constexpr bool single_path = false;
  const Arguments& arguments;
  const Arguments& constants;

  ARBITER_DEVICE Algorithm(const Arguments& a, const Arguments& c) : arguments(a), constants(c) {}

  // Where rank `at` keeps what `sender` has sent.
  ARBITER_DEVICE unsigned char* box(unsigned at, unsigned sender) const {
    constexpr unsigned width = config::row_vectors != 0 ? config::row_vectors : cluster_width;
    const unsigned long long bytes = static_cast<unsigned long long>(arguments.rows) * width * sizeof(Vector);
    return arguments.workspace[at] + constants.staging_offset + sender * bytes;
  }

  ARBITER_DEVICE void run(Epilogue<rows>& epilogue, unsigned iterations) {
    Wait wait;
    Barrier<kRank> barrier(constants);
    for (unsigned iteration = 0; iteration < iterations; ++iteration) {
      const unsigned row = tile_row<1>(iteration, 0);
      each_vector(arguments, row, [&](unsigned k) {
        const Vector mine = contribution(arguments, row, column(k));
        store_to_all<kRank>([&](unsigned r) { return box(r, kRank); }, row, column(k), mine);
      });
    }
    epilogue.prepare(arguments);
    barrier.meet(wait);
    barrier.advance(1);
    for (unsigned iteration = 0; iteration < iterations; ++iteration) {
      const unsigned row[1] = {tile_row<1>(iteration, 0)};
      epilogue.prefetch(arguments, row);
      Vector sum[1][config::vectors];
      each_vector(arguments, row[0], [&](unsigned k) {
        sum[0][k] = load_and_sum([&](unsigned r) { return box(kRank, r); }, row[0], column(k));
      });
      epilogue.apply(arguments, row, sum, iteration);
    }
    barrier.pass(wait);
  }
};
