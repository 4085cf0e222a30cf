// The switch does the work: every rank loads the sum of its rows from multicast memory (in fp32, in the switch's own
// order: another numerics class) and stores it to all with one store. Contributions and results lie in the tensors if
// those lie at the same place of multicast memory on all ranks, and in the workspace otherwise. A rank says with the
// first barrier where its tensors are; all ranks then see the same list and come to the same conclusion, so a rank that
// passes something else is no danger. If only some inputs could be used in place, one more barrier follows while those
// are copied.
//
// What is stored to one address of memory and read at another needs a fence between aliases on both sides of the
// barrier.
template <unsigned kRank>
struct Algorithm {
  static constexpr unsigned rows = 1;
  static constexpr bool single_path = false;
  static constexpr bool plain = config::row_vectors == 0;  // only a bare sum is flat
  using Places = PlacesOf<kRank>;
  const Arguments& arguments;
  const Arguments& constants;

  ARBITER_DEVICE Algorithm(const Arguments& a, const Arguments& c) : arguments(a), constants(c) {}

  ARBITER_DEVICE void run(Epilogue<rows>& epilogue, unsigned iterations) {
    const unsigned long long input_id =
        config::prologue ? 0 : constants.input_id;  // a prologue's result lies nowhere yet
    const unsigned long long output_id = plain ? constants.output_id : 0;
    const auto stage = [&] {
      stage_tiles<config::world>(arguments, arguments.workspace[kRank] + constants.staging_offset, iterations);
    };
    Wait wait;
    Barrier<kRank> barrier(constants);
    if (input_id == 0) stage();
    fence_aliases();
    Places::publish(
        constants, [&](unsigned) { return input_id; }, [&](unsigned) { return output_id; });
    barrier.meet(wait);
    bool same_input = input_id != 0, same_output = output_id != 0;
    bool any_input = input_id != 0;
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) {
      if (r == kRank) continue;
      const unsigned long long input = Places::find(constants, barrier, Places::input, r);
      same_input = same_input && input == input_id;
      any_input = any_input || input != 0;
      same_output = same_output && Places::find(constants, barrier, Places::output, r) == output_id;
    }
    if (any_input && !same_input) {  // some have not copied theirs yet
      barrier.advance(2);
      if (input_id != 0) stage();
      fence_aliases();
      barrier.pass(wait);
    } else {
      barrier.advance(1);
    }

    fence_aliases();
    reduce(same_input ? constants.multicast_input : constants.multicast + constants.staging_offset,
           same_output ? constants.multicast_output : constants.multicast + constants.results_offset, iterations);
    fence_aliases();
    barrier.pass(wait);
    fence_aliases();
    if (same_output) return;

    epilogue.prepare(arguments);
    finish_tiles(arguments, epilogue, arguments.workspace[kRank] + constants.results_offset, 0, iterations);
  }

  ARBITER_DEVICE void reduce(const unsigned char* from, unsigned char* to, unsigned iterations) const {
    for (unsigned iteration = 0; iteration < iterations; ++iteration) {
      const unsigned row = tile_row<config::world>(iteration, kRank);
      Vector sum[config::vectors];
      each_vector(arguments, row, [&](unsigned k) { sum[k] = load_reduced(vector_at(from, row, column(k))); });
      each_vector(arguments, row, [&](unsigned k) { store_multicast(vector_at(to, row, column(k)), sum[k]); });
    }
  }
};
