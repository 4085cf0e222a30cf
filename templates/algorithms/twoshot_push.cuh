// Two-shot, by pushing. A tile has a row per rank: rank r owns the r-th. Every rank sends each row to its owner (leg
// 0); the owner sums in rank order and sends the result to all (leg 1). Both legs are pushes whose data is its own
// flag, so there is no barrier, and a rank receives about twice the message whatever the number of ranks.
//
// Within an iteration: the own row is summed and leaves; the next tile leaves; then the other rows are waited for, and
// what follows the sum is done for all rows of the tile at once. So the links never rest. The fence that comes with a
// new epoch does not cover the results of this tile, which are re-armed behind it; the fence of the epoch after does
// (push.h). With multicast the results are stored once and the switch delivers them.
template <unsigned kRank>
struct Algorithm {
  static constexpr unsigned rows = config::world;
  static constexpr bool forwards = true;
  static constexpr bool single_path = true;
  using Legs = Push<kRank, 2, config::multicast != 0>;
  Legs legs;

  ARBITER_DEVICE Algorithm(const Arguments& arguments, const Arguments& constants) : legs(arguments, constants) {}

  ARBITER_DEVICE void run(Epilogue<rows>& epilogue, unsigned iterations) { push_tiles(*this, epilogue, iterations); }

  ARBITER_DEVICE void send(const Legs& to, unsigned iteration, const Vector (&tile)[config::vectors][rows]) const {
#pragma unroll
    for (unsigned k = 0; k < config::vectors; ++k) {
#pragma unroll
      for (unsigned distance = 1; distance < config::world; ++distance) {
        const unsigned owner = (kRank + distance) % config::world;
        if (in_message(to.arguments, tile_row<rows>(iteration, owner), column(k)))
          to.send(0, owner, k, sanitised(tile[k][owner]));
      }
    }
  }

  // The own row.
  ARBITER_DEVICE void forward(const Legs& to, unsigned iteration, const Vector (&tile)[config::vectors][rows],
                              Vector (&sum)[rows][config::vectors], Wait& wait) const {
    each_vector(to.arguments, tile_row<rows>(iteration, kRank), [&](unsigned k) {
      Vector of_rank[config::world];
      of_rank[kRank] = tile[k][kRank];
      to.receive_all(0, k, of_rank, wait);
      sum[kRank][k] = rank_order_sum(of_rank);
      to.broadcast(k, sum[kRank][k]);
    });
  }

  // Everybody else's rows.
  ARBITER_DEVICE void collect(const Legs& from, const unsigned (&row)[rows], const Vector (&)[config::vectors][rows],
                              Vector (&sum)[rows][config::vectors], Wait& wait) const {
#pragma unroll
    for (unsigned k = 0; k < config::vectors; ++k) {
      Vector result[rows];
      bool wanted[rows];
#pragma unroll
      for (unsigned r = 0; r < rows; ++r) wanted[r] = in_message(from.arguments, row[r], column(k));
      from.receive(1, k, wanted, result, wait);
#pragma unroll
      for (unsigned r = 0; r < rows; ++r) {
        if (r != kRank) sum[r][k] = result[r];
      }
    }
  }
};
