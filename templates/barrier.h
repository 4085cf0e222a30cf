// Barriers between the ranks. Blocks with the same index work on the same vectors on every rank, so a barrier joins
// only those. An epoch counts the barriers that a block has passed; a flag holds a peer's epoch.
template <unsigned kRank>
struct Barrier {
  const Arguments& constants;
  unsigned epoch;

  ARBITER_DEVICE explicit Barrier(const Arguments& constants_)
      : constants(constants_), epoch(load_word(&control_of(constants_, kRank)->barrier_epoch[block_index()])) {}

  // Everything that any thread of this block stored before is visible to the same block of every peer afterwards.
  ARBITER_DEVICE void pass(Wait& wait) {
    ++epoch;
    block_barrier();
    const unsigned peer = thread_index();
    if (peer < config::world && peer != kRank) {
      fence_system();
      store_release(&control_of(constants, peer)->barrier_flag[kRank][block_index()], epoch);
      const unsigned* flag = &control_of(constants, kRank)->barrier_flag[peer][block_index()];
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
    Control* control = control_of(constants, kRank);
    advance_epochs(control->barrier_epoch, epoch + left);
    for (unsigned r = 0; r < config::world; ++r) {
      for (unsigned block = block_index() + grid_blocks() * (thread_index() + 1); block < max_blocks;
           block += grid_blocks() * config::threads)
        store_word(&control->barrier_flag[r][block], epoch + left);
    }
  }
};
