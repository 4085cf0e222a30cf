// What algorithms do with whole tiles.

template <unsigned kRows>
ARBITER_DEVICE void tile_rows(unsigned iteration, unsigned (&row)[kRows]) {
#pragma unroll
  for (unsigned r = 0; r < kRows; ++r) row[r] = tile_row<kRows>(iteration, r);
}

// What this rank contributes to a tile.
template <unsigned kRows>
ARBITER_DEVICE void read_tile(const Arguments& arguments, unsigned iteration, Vector (&tile)[config::vectors][kRows]) {
#pragma unroll
  for (unsigned r = 0; r < kRows; ++r) {
    const unsigned row = tile_row<kRows>(iteration, r);
    each_vector(arguments, row, [&](unsigned k) { tile[k][r] = contribution(arguments, row, column(k)); });
  }
}

// Copies what this rank contributes to where peers can load it.
template <unsigned kRows>
ARBITER_DEVICE void stage_tiles(const Arguments& arguments, unsigned char* copy, unsigned iterations) {
  for (unsigned iteration = 0; iteration < iterations; ++iteration) {
    for (unsigned r = 0; r < kRows; ++r) {
      const unsigned row = tile_row<kRows>(iteration, r);
      each_vector(arguments, row, [&](unsigned k) {
        store_shared_vector(vector_at(copy, row, column(k)), contribution(arguments, row, column(k)));
      });
    }
  }
}

// The sum of a vector of which rank r's part lies in from(r).
template <class From>
ARBITER_DEVICE Vector load_and_sum(const From& from, unsigned row, unsigned col) {
  Vector of_rank[config::world];
#pragma unroll
  for (unsigned r = 0; r < config::world; ++r) of_rank[r] = load(vector_at(from(r), row, col));
  return rank_order_sum(of_rank);
}

// A vector to to(r) of every rank, from the own one on, so that the ranks do not all store to the same one.
template <unsigned kRank, class To>
ARBITER_DEVICE void store_to_all(const To& to, unsigned row, unsigned col, const Vector& v) {
#pragma unroll
  for (unsigned distance = 0; distance < config::world; ++distance)
    store_shared_vector(vector_at(to((kRank + distance) % config::world), row, col), v);
}

// What follows the sum, for iterations first to end - 1 of tiles with a row per rank whose sums lie at `results`: as
// many rows at once as the epilogue takes.
template <unsigned kRows>
ARBITER_DEVICE void finish_tiles(const Arguments& arguments, Epilogue<kRows>& epilogue, const unsigned char* results,
                                 unsigned first, unsigned end) {
  constexpr unsigned steps = config::world / kRows;
  for (unsigned iteration = first; iteration < end; ++iteration) {
    for (unsigned step = 0; step < steps; ++step) {
      unsigned row[kRows];
      Vector sum[kRows][config::vectors];
#pragma unroll
      for (unsigned i = 0; i < kRows; ++i) row[i] = tile_row<config::world>(iteration, step * kRows + i);
      epilogue.prefetch(arguments, row);
#pragma unroll
      for (unsigned i = 0; i < kRows; ++i)
        each_vector(arguments, row[i], [&](unsigned k) { sum[i][k] = load(vector_at(results, row[i], column(k))); });
      epilogue.apply(arguments, row, sum, iteration * steps + step);
    }
  }
}
