// Barriers between the ranks. Blocks with the same index work on the same vectors on every rank, so a barrier joins
// only those. An epoch counts the barriers that a block has passed; a flag holds a peer's epoch.
template <unsigned kRank>
struct Barrier {
  const Arguments& constants;
  unsigned epoch;

  ARBITER_DEVICE explicit Barrier(const Arguments& constants_)
      : constants(constants_), epoch(load_word(&epochs_of(constants_, kRank)[block_index()])) {
    count_call(control_of(constants, kRank));
  }

  // The first barrier of a launch. A rank says with it how long its message is; whoever finds another length than its
  // own says so, because such a program is wrong, and the peer's message may end where this rank would go on reading.
  ARBITER_DEVICE void meet(Wait& wait) {
    const unsigned peer = thread_index();
    const bool joins = peer < config::world && peer != kRank;
    if (joins) store_relaxed(&control_of(constants, peer)->said[kRank], said(constants.vectors, epoch + 1));
    pass(wait);
    if (!joins) return;
    const unsigned long long theirs = load_relaxed(&control_of(constants, kRank)->said[peer]);
    const unsigned vectors = static_cast<unsigned>(theirs);
    if (theirs == said(vectors, epoch) && vectors != constants.vectors) {
      report_lengths<kRank>(constants, peer, vectors, epoch);
    }
  }
  // Behind it: has the peer come, with a message like this one? Not if the wait for it was given up.
  ARBITER_DEVICE bool has_met(unsigned peer) const {
    return load_relaxed(&control_of(constants, kRank)->said[peer]) == said(constants.vectors, epoch);
  }

  // Everything that any thread of this block stored before is visible to the same block of every peer afterwards.
  ARBITER_DEVICE void pass(Wait& wait) {
    ++epoch;
    block_barrier();
    const unsigned peer = thread_index();
    if (peer < config::world && peer != kRank) {
      fence_system();
      store_release(&flags_of(constants, peer, kRank)[block_index()], epoch);
      const unsigned* flag = &flags_of(constants, kRank, peer)[block_index()];
      wait.polls = 0;
      while (static_cast<int>(load_acquire(flag) - epoch) < 0) {
        if (wait.given_up || expired<kRank>(constants, wait, peer, phase_barrier, epoch)) break;
      }
    }
    block_barrier();
  }

  // Once a launch, between its first barrier and its last: what the next launch begins with, when `left` more barriers
  // follow here. Blocks that do not run advance too, and so do the flags that peers would have raised for them: a flag
  // that stands still would look like one of the future when the epoch has gone half around. No peer stores to those
  // flags now: all of them are in this launch until this block arrives at the last barrier.
  ARBITER_DEVICE void advance(unsigned left) const {
    advance_epochs(epochs_of(constants, kRank), epoch + left);
    for (unsigned r = 0; r < config::world; ++r) {
      for (unsigned block = block_index() + grid_blocks() * (thread_index() + 1); block < max_blocks;
           block += grid_blocks() * config::threads)
        store_word(&flags_of(constants, kRank, r)[block], epoch + left);
    }
  }

 private:
  static ARBITER_DEVICE unsigned long long said(unsigned vectors, unsigned epoch) {
    return static_cast<unsigned long long>(epoch) << 32 | vectors;
  }
};
