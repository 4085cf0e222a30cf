// Two-shot with 8-bit transport: twoshot_push, both of whose legs travel as fp8_wire.h says. The owner of a row adds up
// what was sent, its own row as if it had been sent, rounds the sum to the activation dtype as twoshot_push does, and
// encodes it again. It goes on with what it sends, so all ranks have the same bits.
//
// The argument for the buffers is that of twoshot_push for every thread that carries something: which threads those
// are, and where their slots lie, is the same on all ranks and in every launch.
template <unsigned kRank>
struct Algorithm {
  static constexpr unsigned rows = config::world;
  static constexpr bool forwards = true;
  static constexpr bool single_path = true;
  using Legs = Fp8Push<kRank, 2>;
  Legs legs;

  ARBITER_DEVICE Algorithm(const Arguments& arguments, const Arguments& constants) : legs(arguments, constants) {}

  ARBITER_DEVICE void run(Epilogue<rows>& epilogue, unsigned iterations) { push_tiles(*this, epilogue, iterations); }

  // Whole warps encode, whether or not all of their threads have a vector.
  ARBITER_DEVICE void send(const Legs& to, unsigned iteration, const Vector (&tile)[config::vectors][rows]) const {
#pragma unroll
    for (unsigned k = 0; k < config::vectors; ++k) {
#pragma unroll
      for (unsigned distance = 1; distance < config::world; ++distance) {
        const unsigned owner = (kRank + distance) % config::world, row = tile_row<rows>(iteration, owner);
        const Vector v = wire_vector(encode(tile[k][owner], in_message(to.arguments, row, column(k))));
        if (carries(to.arguments, row, k)) to.send(0, owner, k, v);
      }
    }
  }

  // The own row.
  ARBITER_DEVICE void forward(const Legs& to, unsigned iteration, const Vector (&tile)[config::vectors][rows],
                              Vector (&sum)[rows][config::vectors], Wait& wait) const {
    const unsigned row = tile_row<rows>(iteration, kRank);
#pragma unroll
    for (unsigned k = 0; k < config::vectors; ++k) {
      const bool here = in_message(to.arguments, row, column(k));
      const Codes own = encode(tile[k][kRank], here);
      bool wanted[config::world];
#pragma unroll
      for (unsigned r = 0; r < config::world; ++r) wanted[r] = carries(to.arguments, row, k);
      Vector of_rank[config::world];
      to.receive_codes(0, k, wanted, of_rank, wait);
      const Codes result = encode(sum_of_codes<kRank>(own, of_rank), here);
      const Vector v = wire_vector(result);
      if (carries(to.arguments, row, k)) to.broadcast(k, v);
      sum[kRank][k] = result_of(result);
    }
  }

  // Everybody else's rows.
  ARBITER_DEVICE void collect(const Legs& from, const unsigned (&row)[rows], const Vector (&)[config::vectors][rows],
                              Vector (&sum)[rows][config::vectors], Wait& wait) const {
#pragma unroll
    for (unsigned k = 0; k < config::vectors; ++k) {
      Vector result[rows];
      bool wanted[rows];
#pragma unroll
      for (unsigned r = 0; r < rows; ++r) wanted[r] = carries(from.arguments, row[r], k);
      from.receive_codes(1, k, wanted, result, wait);
#pragma unroll
      for (unsigned r = 0; r < rows; ++r) {
        if (r != kRank) sum[r][k] = result_of(received(result[r]));
      }
    }
  }

  // From +0, like every sum: no zero is negative.
  ARBITER_DEVICE static Vector result_of(const Codes& codes) { return sanitised(pack(plus(zero(), decode(codes)))); }
};
