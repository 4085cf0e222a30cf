// Every wait has a deadline. The fast path costs one counter; clock and abort word are read every 256 polls.

enum Phase : unsigned { phase_push = 1, phase_broadcast = 2, phase_barrier = 3 };

// What a thread remembers of its current wait, and whether it has given up: then it no longer waits for anybody and
// only runs to its end.
struct Wait {
  unsigned polls = 0;
  bool given_up = false;
  unsigned long long started = 0;
};

// True when waiting makes no sense any more: the deadline has passed, or somebody else gave up.
template <unsigned kRank>
ARBITER_COLD bool give_up(const Arguments& arguments, unsigned waited_for, unsigned phase, unsigned epoch,
                          unsigned long long waited_ns) {
  Control* control = reinterpret_cast<Control*>(arguments.workspace[kRank]);
  const bool aborted = load_relaxed(&control->abort) != 0u;
  if (!aborted && (arguments.timeout_ns == 0 || waited_ns < arguments.timeout_ns)) return false;
  if (exchange(&control->reported, 1u) == 0u) {
    FaultRecord* fault = arguments.fault;
    store_relaxed(&fault->waiting_rank, kRank);
    store_relaxed(&fault->waited_for, waited_for);
    store_relaxed(&fault->block, block_index());
    store_relaxed(&fault->thread, thread_index());
    store_relaxed(&fault->phase, phase);
    store_relaxed(&fault->epoch, epoch);
    store_release(&fault->state, aborted ? 2u : 1u);
    for (unsigned r = 0; r < config::world; ++r)
      store_relaxed(&reinterpret_cast<Control*>(arguments.workspace[r])->abort, 1u);
  }
  return true;
}

// Call between two polls.
template <unsigned kRank>
ARBITER_DEVICE bool expired(const Arguments& arguments, Wait& wait, unsigned waited_for, Phase phase, unsigned epoch) {
  poll_pause();
  if ((++wait.polls & 255u) != 0u) return false;
  const unsigned long long now = now_ns();
  if (wait.polls == 256u) wait.started = now;
  wait.given_up = give_up<kRank>(arguments, waited_for, phase, epoch, now - wait.started);
  return wait.given_up;
}
