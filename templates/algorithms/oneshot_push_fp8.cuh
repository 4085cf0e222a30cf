// One-shot with 8-bit transport: oneshot_push, whose rows travel as fp8_wire.h says. Every rank adds up what was sent,
// its own row as the others get it, so all ranks have the same bits.
//
// The argument for the buffers is that of oneshot_push for every thread that carries something: which threads those
// are, and where their slots lie, is the same on all ranks and in every launch.
template <unsigned kRank>
struct Algorithm {
  static constexpr unsigned rows = 1;
  static constexpr bool forwards = false;
  static constexpr bool single_path = true;
  using Legs = Fp8Push<kRank, 1>;
  Legs legs;

  ARBITER_DEVICE Algorithm(const Arguments& arguments, const Arguments& constants) : legs(arguments, constants) {}

  ARBITER_DEVICE void run(Epilogue<rows>& epilogue, unsigned iterations) { push_tiles(*this, epilogue, iterations); }

  // Whole warps encode, whether or not all of their threads have a vector.
  ARBITER_DEVICE void send(const Legs& to, unsigned iteration, const Vector (&tile)[config::vectors][1]) const {
    const unsigned row = tile_row<1>(iteration, 0);
#pragma unroll
    for (unsigned k = 0; k < config::vectors; ++k) {
      const Vector v = wire_vector(encode(tile[k][0], in_message(to.arguments, row, column(k))));
      if (carries(to.arguments, row, k)) to.broadcast(k, v);
    }
  }

  ARBITER_DEVICE void collect(const Legs& from, const unsigned (&row)[1], const Vector (&tile)[config::vectors][1],
                              Vector (&sum)[1][config::vectors], Wait& wait) const {
#pragma unroll
    for (unsigned k = 0; k < config::vectors; ++k) {
      const Codes own = encode(tile[k][0], in_message(from.arguments, row[0], column(k)));
      bool wanted[config::world];
#pragma unroll
      for (unsigned r = 0; r < config::world; ++r) wanted[r] = carries(from.arguments, row[0], k);
      Vector of_rank[config::world];
      from.receive_codes(0, k, wanted, of_rank, wait);
      sum[0][k] = sanitised(sum_of_codes<kRank>(own, of_rank));
    }
  }
};
