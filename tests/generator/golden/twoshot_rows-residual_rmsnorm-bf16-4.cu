// mnnvl/twoshot_rows:cluster=8,early_trigger=1,multicast=0,threads=128,vectors=1 allreduce_residual_rmsnorm bf16 world=4 hidden=8192
// Arbiter 0.1.0: mnnvl/twoshot_rows for allreduce_residual_rmsnorm. As twoshot_push, with a cluster for every row: few rows reach all SMs, and what follows the sum is done once a cluster.
// Rendered; edit the templates, not this text.

// ...

namespace config {
// ...

// ...

  // Where each rank wants a plain sum: in its output, if this rank can address that, or in its workspace.
// ...
// Two-shot, by pushing, with one row per cluster: row i belongs to rank i mod N. At the owner a cluster takes what the
// peers send (leg 0), sums it in rank order and sends the result to all (leg 1); elsewhere it sends its contribution
// and waits for the result. Where twoshot_push takes N rows through what follows the sum in turn, here every cluster
// takes one, so a message of few rows reaches all SMs; with large messages twoshot_push has more in flight.
// ...
// The next contribution leaves before this row is waited for, so a rank sends iteration i + 1 before it takes iteration
// i. Taking i means that the owner of row i has taken every rank's contribution to i, and each rank sent that one after
// it had taken i - 2. So, as push.h allows, a rank may have taken two iterations more than a peer: it can send i + 2
// while the peer waits for i - 1. It is the hop through the owner that says so; ranks that are not the owner get
// nothing from each other.
// ...
  using Legs = Push<kRank, 2, multicast>;
// ...

// ...

  // To the owner of the row, unless that is this rank.
  ARBITER_DEVICE void send(const Legs& to, unsigned iteration, const Vector (&tile)[config::vectors][1]) const {
    const unsigned row = tile_row<1>(iteration, 0), owner = row % config::world;
    if (owner == kRank) return;
    each_vector(to.arguments, row, [&](unsigned k) {
      const Vector clean = sanitised(tile[k][0]);
      // Peers are constants, not indices: their pointers stay in the constant bank.
#pragma unroll
      for (unsigned r = 0; r < config::world; ++r) {
        if (r != kRank && r == owner) to.send(0, r, k, clean);
      }
    });
  }

  ARBITER_DEVICE void collect(const Legs& from, const unsigned (&row)[1], const Vector (&tile)[config::vectors][1],
                              Vector (&sum)[1][config::vectors], Wait& wait) const {
    const unsigned owner = row[0] % config::world;
    each_vector(from.arguments, row[0], [&](unsigned k) {
      Vector of_rank[config::world];
      bool wanted[config::world];
      if (owner == kRank) {
        of_rank[kRank] = tile[k][0];
        from.receive_all(0, k, of_rank, wait);
        sum[0][k] = rank_order_sum(of_rank);
        from.broadcast(k, sum[0][k]);
        if (!multicast) return;
      }
      // With multicast the owner waits for its own vector too (push.h).
#pragma unroll
      for (unsigned r = 0; r < config::world; ++r) wanted[r] = r == owner;
      from.receive(1, k, wanted, of_rank, wait);
#pragma unroll
      for (unsigned r = 0; r < config::world; ++r) {
        if (Legs::comes_by_link(1, r) && r == owner) sum[0][k] = of_rank[r];
      }
    });
  }
};

// ...

extern "C" __global__ void __launch_bounds__(128) arbiter_kernel(const __grid_constant__ Arguments arguments) {
  run<3>(arguments);
// ...
