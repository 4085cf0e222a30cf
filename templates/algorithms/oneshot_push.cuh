// One-shot, by pushing. Every rank stores its row into a slot of every peer; every rank waits for the rows of all
// others in its own memory and sums them in rank order. Data is its own flag (push.h), so there is no barrier: the
// result is there one hop after the last rank has come. Every rank receives N - 1 times the message, so this is for few
// bytes, or for two ranks, where two-shot would move as many in more steps.
//
// A row is handled by a cluster of blocks, on all ranks by the same one. The row of the next iteration leaves before
// this one is waited for. A rank that takes iteration i has every peer's row of it, and each of those left before its
// sender took i - 1: so a rank is at most two iterations ahead of a peer, as push.h allows. With multicast the switch
// makes the copies.
template <unsigned kRank>
struct Algorithm {
  static constexpr unsigned rows = 1;
  static constexpr bool forwards = false;
  static constexpr bool single_path = true;
  using Legs = Push<kRank, 1, config::multicast != 0>;
  Legs legs;

  ARBITER_DEVICE Algorithm(const Arguments& arguments, const Arguments& constants) : legs(arguments, constants) {}

  ARBITER_DEVICE void run(Epilogue<rows>& epilogue, unsigned iterations) { push_tiles(*this, epilogue, iterations); }

  ARBITER_DEVICE void send(const Legs& to, unsigned iteration, const Vector (&tile)[config::vectors][1]) const {
    each_vector(to.arguments, tile_row<1>(iteration, 0), [&](unsigned k) { to.broadcast(k, sanitised(tile[k][0])); });
  }

  ARBITER_DEVICE void collect(const Legs& from, const unsigned (&row)[1], const Vector (&tile)[config::vectors][1],
                              Vector (&sum)[1][config::vectors], Wait& wait) const {
    each_vector(from.arguments, row[0], [&](unsigned k) {
      Vector of_rank[config::world];
      of_rank[kRank] = tile[k][0];
      from.receive_all(0, k, of_rank, wait);
      sum[0][k] = rank_order_sum(of_rank);
    });
  }
};
