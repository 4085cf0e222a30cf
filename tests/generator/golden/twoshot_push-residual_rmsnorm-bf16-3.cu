// mnnvl/twoshot_push:cluster=2,early_trigger=1,multicast=0,threads=256,vectors=1 allreduce_residual_rmsnorm bf16 world=3 hidden=2880
// Arbiter 0.1.0: mnnvl/twoshot_push for allreduce_residual_rmsnorm. Every row has an owner rank that sums it and sends the result to all; no barrier.
// Rendered; edit the templates, not this text.

// ...

namespace config {
constexpr unsigned world = 3;
constexpr unsigned hidden = 2880;       // elements of a row; 0 if the message is flat
constexpr unsigned row_vectors = 360;  // 16-byte vectors of a row; 0 if the message is flat
// ...
constexpr unsigned cluster = 2;
// ...

// ...

  // Where each rank wants a plain sum: in its output, if this rank can address that, or in its workspace.
// ...
// Two-shot, by pushing. A tile has a row per rank: rank r owns the r-th. Every rank sends each row to its owner (leg
// 0); the owner sums in rank order and sends the result to all (leg 1). Both legs are pushes whose data is its own
// flag, so there is no barrier, and a rank receives about twice the message whatever the number of ranks.
// ...
// Within an iteration: the own row is summed and leaves; the next tile leaves; then the other rows are waited for, and
// what follows the sum is done for all rows of the tile at once. So the links never rest. The fence that comes with a
// new epoch does not cover the results of this tile, which are re-armed behind it; the fence of the epoch after does
// (push.h). With multicast the results are stored once and the switch delivers them.
// ...
  static constexpr bool forwards = true;
// ...
  using Legs = Push<kRank, 2, config::multicast != 0>;
// ...

// ...

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

// ...

extern "C" __global__ void __launch_bounds__(256) arbiter_kernel(const __grid_constant__ Arguments arguments) {
  run<2>(arguments);
// ...
