// Every wait has a deadline. The fast path costs one counter; clock and abort word are read every 256 polls.

enum Phase : unsigned { phase_push = 1, phase_broadcast = 2, phase_barrier = 3 };

// What a thread remembers of its current wait, and whether it has given up: then it no longer waits for anybody and
// only runs to its end.
struct Wait {
  unsigned polls = 0;
  bool given_up = false;
  unsigned long long started = 0;
};

// True when waiting makes no sense any more: the deadline has passed, or somebody else gave up. Which deadline holds is
// asked here and not by whoever launches, so that it is right for captured launches too. Kernels keep their registers
// over this call, so it uses few.
template <unsigned kRank>
ARBITER_COLD bool give_up(const Arguments& arguments, unsigned waited_for, unsigned phase, unsigned epoch,
                          unsigned long long waited_ns) {
  Control* control = reinterpret_cast<Control*>(arguments.workspace[kRank]);
  unsigned state = 2;
  if (load_acquire(&control->abort) == 0u) {
    state = load_relaxed(&control->calls) <= first_calls ? 0 : 1;
    const unsigned long long deadline = state == 0 ? arguments.first_timeout_ns : arguments.timeout_ns;
    if (deadline == 0 || waited_ns < deadline) return false;
  }
  if (exchange(&control->reported, 1u) == 0u) {
    FaultRecord* fault = arguments.fault;
    store_relaxed(&fault->waiting_rank, kRank);
    store_relaxed(&fault->waited_for, waited_for);
    store_relaxed(&fault->block, block_index());
    store_relaxed(&fault->thread, thread_index());
    store_relaxed(&fault->phase, phase);
    store_relaxed(&fault->epoch, epoch);
    store_release(&fault->state, state == 0 ? 4u : state);
    for (unsigned r = 0; r < config::world; ++r)
      store_relaxed(&reinterpret_cast<Control*>(arguments.workspace[r])->abort, 1u);
  }
  return true;
}

// The message of `peer` has another length than this rank's: nobody's sum can be right. All ranks get to know which two
// they are, and those that wait give up.
template <unsigned kRank>
ARBITER_COLD void report_lengths(const Arguments& arguments, unsigned peer, unsigned vectors, unsigned epoch) {
  if (exchange(&reinterpret_cast<Control*>(arguments.workspace[kRank])->reported, 1u) != 0u) return;
  for (unsigned r = 0; r < config::world; ++r) {
    Control* control = reinterpret_cast<Control*>(arguments.workspace[r]);
    store_relaxed(&control->lengths[kRank][0], peer);
    store_relaxed(&control->lengths[kRank][1], arguments.vectors);
    store_relaxed(&control->lengths[kRank][2], vectors);
    fence_system();
    store_release(&control->abort, 1u);
  }
  FaultRecord* fault = arguments.fault;
  store_relaxed(&fault->waiting_rank, kRank);
  store_relaxed(&fault->waited_for, peer);
  store_relaxed(&fault->block, block_index());
  store_relaxed(&fault->thread, thread_index());
  store_relaxed(&fault->phase, static_cast<unsigned>(phase_barrier));
  store_relaxed(&fault->epoch, epoch);
  store_release(&fault->state, 3u);
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
