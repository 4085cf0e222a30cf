// Two-shot, by pushing, for large messages: row i belongs to rank i mod N, as in twoshot_push, but a flag says for a
// whole chunk of rows that it has arrived. So nobody polls payloads, replaces sentinels or puts them back, which saves
// two stores to local memory for every vector and all fences but one per chunk and leg. While a chunk travels, the one
// before is summed and the one before that is taken from the workspace.
//
// Every row has a place of its own in the workspace, so nothing is overwritten within a launch. A rank that begins the
// next launch has all results of this one, so its peers have read all data that it could overwrite; and it stores
// results only to peers whose data it has, which are in that launch too.

// Flags count the chunks that are complete. As with barriers, blocks with the same index work together.
template <unsigned kRank>
struct Chunks {
  enum Leg : unsigned { data, results };

  const Arguments& constants;
  const unsigned epoch;  // chunks of all launches before

  ARBITER_DEVICE explicit Chunks(const Arguments& constants_)
      : constants(constants_), epoch(load_word(&epochs_of(constants_, kRank)[block_index()])) {}

  // What this block has stored for the chunk is complete.
  ARBITER_DEVICE void announce(Leg leg, unsigned number) const {
    block_barrier();
    const unsigned peer = thread_index();
    if (peer >= config::world || peer == kRank) return;
    fence_system();
    store_release(&flags_of(constants, peer, kRank, leg)[block_index()], epoch + number + 1);
  }

  // What the peers have stored for the chunk is complete.
  ARBITER_DEVICE void await(Leg leg, unsigned number, Wait& wait) const {
    const unsigned peer = thread_index();
    if (peer < config::world && peer != kRank) {
      const unsigned* flag = &flags_of(constants, kRank, peer, leg)[block_index()];
      wait.polls = 0;
      while (static_cast<int>(load_acquire(flag) - (epoch + number + 1)) < 0) {
        if (wait.given_up ||
            expired<kRank>(constants, wait, peer, leg == data ? phase_push : phase_broadcast, epoch + number + 1))
          break;
      }
    }
    block_barrier();
  }

  // Once a launch, when all threads of the block have read the epoch and before its last results leave; see
  // Barrier::advance.
  ARBITER_DEVICE void advance(unsigned chunks) const {
    count_call(control_of(constants, kRank));
    advance_epochs(epochs_of(constants, kRank), epoch + chunks);
    for (unsigned flags = 0; flags < 2 * config::world; ++flags) {
      for (unsigned block = block_index() + grid_blocks() * (thread_index() + 1); block < max_blocks;
           block += grid_blocks() * config::threads)
        store_word(&flags_of(constants, kRank, flags / 2, flags % 2)[block], epoch + chunks);
    }
  }
};

template <unsigned kRank>
struct Algorithm {
  static constexpr unsigned rows = 1;
  static constexpr bool single_path = false;
  using Flags = Chunks<kRank>;
  const Arguments& arguments;
  const Arguments& constants;

  ARBITER_DEVICE Algorithm(const Arguments& a, const Arguments& c) : arguments(a), constants(c) {}

  ARBITER_DEVICE void run(Epilogue<rows>& epilogue, unsigned iterations) {
    const unsigned chunks = (iterations + config::chunk - 1) / config::chunk;
    const auto begin = [&](unsigned number) { return number * config::chunk; };
    const auto end = [&](unsigned number) {
      const unsigned behind = (number + 1) * config::chunk;
      return behind < iterations ? behind : iterations;
    };
    Wait wait;
    const Flags flags(constants);
    epilogue.prepare(arguments);
    for (unsigned step = 0; step < chunks + 2; ++step) {
      if (step < chunks) {
        scatter(begin(step), end(step));
        flags.announce(Flags::data, step);
        if (step == 0) flags.advance(chunks);
      }
      if (step >= 1 && step - 1 < chunks) {
        flags.await(Flags::data, step - 1, wait);
        reduce(begin(step - 1), end(step - 1));
        flags.announce(Flags::results, step - 1);
      }
      if (step >= 2) {
        flags.await(Flags::results, step - 2, wait);
        finish_tiles(arguments, epilogue, results_of(kRank), begin(step - 2), end(step - 2));
      }
    }
  }

 private:
  ARBITER_DEVICE unsigned char* data_of(unsigned r) const { return arguments.workspace[r] + constants.staging_offset; }
  ARBITER_DEVICE unsigned char* results_of(unsigned r) const {
    return arguments.workspace[r] + constants.results_offset;
  }
  // What `sender` contributes to the owner's row of this iteration, in the owner's workspace.
  ARBITER_DEVICE void* data_at(unsigned owner, unsigned sender, unsigned iteration, unsigned col) const {
    return vector_at(data_of(owner), tile_row<config::world>(iteration, sender), col);
  }

  ARBITER_DEVICE void scatter(unsigned first, unsigned end) const {
    for (unsigned iteration = first; iteration < end; ++iteration) {
#pragma unroll
      for (unsigned k = 0; k < config::vectors; ++k) {
        Vector mine[config::world];
#pragma unroll
        for (unsigned owner = 0; owner < config::world; ++owner) {
          const unsigned row = tile_row<config::world>(iteration, owner);
          if (owner != kRank && in_message(arguments, row, column(k)))
            mine[owner] = contribution(arguments, row, column(k));
        }
#pragma unroll
        for (unsigned distance = 1; distance < config::world; ++distance) {
          const unsigned owner = (kRank + distance) % config::world;
          if (in_message(arguments, tile_row<config::world>(iteration, owner), column(k)))
            store_shared_vector(data_at(owner, kRank, iteration, column(k)), mine[owner]);
        }
      }
    }
  }

  ARBITER_DEVICE void reduce(unsigned first, unsigned end) const {
    for (unsigned iteration = first; iteration < end; ++iteration) {
      const unsigned row = tile_row<config::world>(iteration, kRank);
      each_vector(arguments, row, [&](unsigned k) {
        Vector of_rank[config::world];
#pragma unroll
        for (unsigned r = 0; r < config::world; ++r) {
          of_rank[r] =
              r == kRank ? contribution(arguments, row, column(k)) : load(data_at(kRank, r, iteration, column(k)));
        }
        const Vector sum = rank_order_sum(of_rank);
#pragma unroll
        for (unsigned distance = 1; distance <= config::world; ++distance)
          store_shared_vector(vector_at(results_of((kRank + distance) % config::world), row, column(k)), sum);
      });
    }
  }
};
