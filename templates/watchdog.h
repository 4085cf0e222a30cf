// Every wait has a deadline. The fast path costs one counter; clock and abort word are read every 256 polls.

enum Phase : unsigned { phase_push = 1, phase_broadcast = 2, phase_barrier = 3 };

template <unsigned kRank>
struct Watchdog {
  const Arguments& arguments;
  unsigned epoch = 0;
  bool given_up = false;  // this thread no longer waits for anybody; it only runs to its end
  unsigned polls = 0;
  unsigned long long started = 0;

  ARBITER_DEVICE explicit Watchdog(const Arguments& a) : arguments(a) {}

  ARBITER_DEVICE void begin_wait() {
    polls = 0;
    started = 0;
  }

  // Call between two polls. True when waiting makes no sense any more.
  ARBITER_DEVICE bool expired(unsigned waited_for, Phase phase) {
    poll_pause();
    if ((++polls & 255u) != 0u) return false;
    return slow_check(waited_for, phase);
  }

  ARBITER_COLD bool slow_check(unsigned waited_for, Phase phase) {
    Control* control = control_of(arguments, kRank);
    const bool aborted = load_relaxed(&control->abort) != 0u;
    if (!aborted) {
      const unsigned long long now = now_ns();
      if (started == 0) started = now;
      if (arguments.timeout_ns == 0 || now - started < arguments.timeout_ns) return false;
    }
    given_up = true;
    if (exchange(&control->reported, 1u) == 0u) {
      FaultRecord* fault = arguments.fault;
      store_relaxed(&fault->waiting_rank, kRank);
      store_relaxed(&fault->waited_for, waited_for);
      store_relaxed(&fault->block, block_index());
      store_relaxed(&fault->thread, thread_index());
      store_relaxed(&fault->phase, phase);
      store_relaxed(&fault->epoch, epoch);
      store_release(&fault->state, aborted ? 2u : 1u);
#pragma unroll
      for (unsigned r = 0; r < config::world; ++r) store_relaxed(&control_of(arguments, r)->abort, 1u);
    }
    return true;
  }
};
